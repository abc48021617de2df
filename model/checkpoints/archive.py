"""Open zip files, which several weight formats are; damage is a CorruptCheckpoint."""

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from model.checkpoints import bounds, errors

# What zipfile raises on damaged files: an offset before the file's start, a name that
# is not text, an unknown version or compression, a member that is encrypted.
FAULTS = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, ValueError, RuntimeError),
)
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Provide an open zip file; damage found meanwhile is a CorruptCheckpoint."""
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except errors.CheckpointError:
        raise
    except FAULTS as error:
        raise errors.CorruptCheckpoint(
            f"{path}: damaged zip file ({error}); copy or download it again"
        ) from error


def check_members(
    members: Collection[zipfile.ZipInfo],
    path: Path,
    *,
    max_bytes: int,
    methods: Collection[int] = _METHODS,
) -> None:
    """Refuse members that are too large, overlap, or are compressed in another way.

    Nothing is read yet; `max_bytes` is for all members together, unpacked.
    """
    for info in members:
        if info.compress_type not in methods:
            raise errors.CorruptCheckpoint(
                f"{path}: {bounds.brief(info.filename)} is compressed by method "
                f"{info.compress_type}; expected "
                f"{' or '.join(_METHODS[method] for method in methods)}"
            )
    size = path.stat().st_size
    if (total := sum(info.file_size for info in members)) > max_bytes:
        raise errors.CorruptCheckpoint(
            f"{path}: {total:,} bytes unpacked, in a file of {size:,}; expected at "
            f"most {max_bytes:,}"
        )
    if sum(info.compress_size for info in members) > size or not all(
        0 <= info.header_offset < size for info in members
    ):
        raise errors.CorruptCheckpoint(
            f"{path}: its members overlap or reach beyond the file"
        )


def read_member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Read a member, and take no more memory than for the size that it states."""
    with file.open(info) as member:
        data = member.read(info.file_size)
        if len(data) < info.file_size or member.read(1):
            raise zipfile.BadZipFile(f"{info.filename} is not of the size it states")
    return data
