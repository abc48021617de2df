"""Find and read the photos that a user names: files, and folders with all below."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.images import decode_files
from pipeline.sources import class_folders
from pipeline.sources.photo_source import SourcePhoto


def find(
    names: Iterable[str], ignored: dict[str, int], without: str = ""
) -> Iterator[str]:
    """Yield the paths of photos one by one; those of one folder are sorted.

    `names` are files, which need not exist, and folders, which are walked, except the
    folder `without`. A folder that cannot be listed yields its own path. `ignored`
    counts what is passed over: hidden and system files, and links to folders.
    """
    excluded = Path(without).resolve() if without else None
    for name in names:
        if Path(name).is_dir():
            yield from _walk(name, ignored, excluded)
        else:
            yield name


def _walk(folder: str, ignored: dict[str, int], excluded: Path | None) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            children = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError:
        yield folder
        return
    for name, is_folder in children:
        path = str(Path(folder, name))
        if not class_folders.keep(name, ignored):
            continue
        if not is_folder:
            yield path
        elif Path(path).is_symlink():
            ignored["linked folders"] += 1
        elif Path(path).resolve() != excluded:
            yield from _walk(path, ignored, excluded)


def read(path: str) -> bytes:
    """Read a photo's file as decode_files.read does."""
    file = Path(path)
    return decode_files.read(file.parent, SourcePhoto(path=file.name, class_name=""))
