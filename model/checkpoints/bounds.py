"""Check what untrusted files state, before anything is computed with it.

Several weight formats are zip files, which are opened and checked here.
"""

import contextlib
import math
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from model.checkpoints import errors

_MAX_AXES = 32
MAX_NUMBERS = 1 << 48  # numbers in an array; more than any file holds
# What zipfile raises on damaged files: an offset before the file's start, a name that
# is not text, an unknown version or compression, a member that is encrypted.
_ZIP_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, ValueError, RuntimeError),
)
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


def is_possible_shape(shape: Iterable[Any]) -> bool:
    """Return whether an array can have this shape."""
    sizes = tuple(shape)
    return (
        len(sizes) <= _MAX_AXES
        and all(type(size) is int and 0 <= size < MAX_NUMBERS for size in sizes)
        # NumPy counts the numbers as if there were no axes of size 0.
        and math.prod(filter(None, sizes)) < MAX_NUMBERS
    )


def printable(text: str, max_length: int = 200) -> str:
    """Return the beginning of a text, with escapes for what cannot be printed."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text[:max_length]
    )


def brief(value: Any) -> str:
    """Return a short text for a message, of a value of any type and length."""
    if isinstance(value, str | bytes):
        return ascii(value[:40])
    items = value[:9] if isinstance(value, tuple) else (value,)
    is_short = len(items) <= 8 and all(
        isinstance(item, int | float) and abs(item) < 1 << 64 for item in items
    )
    return repr(value) if is_short else f"a {type(value).__name__}"


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Provide an open zip file; damage found meanwhile is a CorruptCheckpoint."""
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except errors.CheckpointError:
        raise
    except _ZIP_FAULTS as error:
        raise errors.CorruptCheckpoint(
            f"{path}: damaged zip file ({error}); copy or download it again"
        ) from error


def check_zip_members(
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
                f"{path}: {brief(info.filename)} is compressed by method "
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
        raise errors.CorruptCheckpoint(f"{path}: members overlap or exceed the file")


def read_zip_member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Read a member, and take no more memory than for the size that it states."""
    with file.open(info) as member:
        data = member.read(info.file_size)
        if len(data) < info.file_size or member.read(1):
            raise zipfile.BadZipFile(f"{info.filename} is not of the size it states")
    return data
