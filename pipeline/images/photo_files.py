"""Names of files and folders, as people type them -> the files, one after the other."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.images import decode_files
from pipeline.images.errors import ImageError
from pipeline.records import reasons
from pipeline.sources import class_folders, photo_source


def find(
    names: Iterable[str], ignored: dict[str, int], without: str = ""
) -> Iterator[str]:
    """Lists files; folders are walked, and no list of all is made.

    Args:
        names: of files, which are given back as they are, or of folders.
        ignored: counts hidden and system files, and linked folders, which are not
            followed.
        without: a folder that is passed over where it lies in others; "" for none.

    Yields:
        Paths, those of a folder sorted; a folder that cannot be listed gives its own.
    """
    left_out = Path(without).resolve() if without else None
    for name in names:
        if Path(name).is_dir():
            yield from _walk(name, ignored, left_out)
        else:
            yield name


def _walk(folder: str, ignored: dict[str, int], left_out: Path | None) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError:
        yield folder
        return
    for name, is_folder in found:
        path = str(Path(folder, name))
        if not class_folders.keep(name, ignored):
            continue
        if not is_folder:
            yield path
        elif Path(path).is_symlink():
            ignored["linked folders"] += 1
        elif Path(path).resolve() != left_out:
            yield from _walk(path, ignored, left_out)


def read(path: str) -> bytes:
    """Reads a photo; never waits for a pipe.

    Raises:
        image.ImageError: no regular file, too large, or not to be read; says why.
    """
    where = Path(path)
    try:
        return decode_files.read(where.parent, (where.name, 0, photo_source.WHOLE))
    except OSError as error:
        raise ImageError(
            reasons.Code.UNREADABLE, f"cannot be read: {error.strerror}"
        ) from error
