"""Zip files, as several weight formats are: what is in one, and how it can fail."""

import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from model.checkpoints import errors, shapes

# What zipfile raises on damaged files: a place before the file's start, a name that is
# no text, a version or compression that it does not know, a member that is encrypted.
FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    RuntimeError,
)


_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def check_methods(members: Iterable[zipfile.ZipInfo], path: Path) -> None:
    """Refuses members that are compressed in another way than NumPy and Keras do.

    Raises:
        errors.CorruptCheckpoint: names the first.
    """
    for info in members:
        if info.compress_type not in _METHODS:
            raise errors.CorruptCheckpoint(
                f"{path}: {shapes.brief(info.filename)} is compressed by method "
                f"{info.compress_type}; expected stored or deflated"
            )


def names(path: Path) -> list[str]:
    """Names of the members, in the file's order.

    Raises:
        errors.CorruptCheckpoint: its list of members cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as found:
            return found.namelist()
    except FAULTS as error:
        raise errors.CorruptCheckpoint(
            f"{path}: damaged zip file ({error}); copy or download it again"
        ) from error
