"""Sort photos into class folders, as copies or links; nothing is moved or replaced."""

import collections
import functools
import hashlib
import itertools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from model.predict.predict_settings import Config
from pipeline.sources.lists import listed_photos, photo_csv
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

if TYPE_CHECKING:
    from model.predict.output_formats import Prediction

# Folders of photos whose class is not probable enough, or that show no known class.
UNSURE, NONE = "unsure", "none"
_LONGEST_NAME = 255  # bytes of a file's name
_NOT_IN_NAMES = set("/\0" if os.name == "posix" else '<>:"/\\|?*\0')


def by_labels(config: Config) -> None:
    """Sort the photos listed in the CSV file of --sort_by by the labels in it."""
    root, path = Path(config.photos[0]), Path(config.sort_by)
    if not root.is_dir():
        raise DataError(f"--sort_by: {root} is not a folder. Name the photos' folder")
    entries = [*photo_csv.read(path, "")]
    if not entries:
        raise DataError(f"{path}: no photos listed")
    labels = {root / e.path: e.label for e in listed_photos.find_files(root, entries)}
    folder, missing = SortedPhotos(config), [p for p in labels if not p.is_file()]
    for photo in (photo for photo in labels if photo not in missing):
        folder.add(str(photo), class_folder(labels[photo]))
    folder.log()
    if missing:
        raise DataError(
            f"{path}: photos that do not exist: {len(missing)}, first {missing[0]}"
        )


def folder_of(prediction: "Prediction") -> str:
    """Return the name of the folder for a photo that could be read."""
    if prediction.is_stranger:
        return NONE
    return UNSURE if prediction.unknown else class_folder(prediction.classes[0][0])


def class_folder(class_name: str) -> str:
    """Return the name of a class's folder: the class name itself wherever possible.

    A name that no folder can have is percent-encoded; so is the first character of a
    name that would be hidden, or be one of the two other folders.
    """
    is_long = len(os.fsencode(class_name)) > _LONGEST_NAME
    if is_long or set(class_name) & _NOT_IN_NAMES:
        class_name = file_system.file_name(class_name)
    if class_name.startswith(".") or class_name.casefold() in (UNSURE, NONE):
        return f"%{ord(class_name[0]):02X}{class_name[1:]}"
    return class_name


class SortedPhotos:
    """The folder of --sort_into, to which photos are added."""

    def __init__(self, config: Config) -> None:
        """List the folder's files; DataError if it overlaps with that of the photos."""
        self._root, self._as_links = Path(config.sort_into), config.sort_as == "links"
        place = self._root.resolve()
        for folder in (Path(n).resolve() for n in config.photos if Path(n).is_dir()):
            if place.is_relative_to(folder) or folder.is_relative_to(place):
                raise DataError(
                    f"--sort_into={self._root}: overlaps with {folder}, which holds "
                    "the photos. Expected a folder outside of it"
                )
        # Files that were there before, by their size in bytes.
        self._before: dict[int, list[Path]] = collections.defaultdict(list)
        for path in filter(Path.is_file, self._root.rglob("*")):
            self._before[path.stat().st_size].append(path)
        self._digest = functools.cache(_digest)
        self._counts: collections.Counter[str] = collections.Counter()
        self._new_folders: list[str] = []

    def add(self, photo: str, folder_name: str) -> None:
        """Add a photo to a folder, unless any of them had a file with its bytes before.

        It gets a number if another photo has its name.
        """
        if before := self._find(Path(photo)):
            is_here = before.relative_to(self._root).parts[0] == folder_name
            place = "there" if is_here else "in another folder"
            self._counts[f"already {place}"] += 1
            return
        if not (self._root / folder_name).exists():
            self._new_folders.append(folder_name)
        folder = file_system.make_inside(self._root, folder_name)
        stem, ending = os.path.splitext(Path(photo).name)  # noqa: PTH122
        names = (f"{stem}-{number}{ending}" for number in itertools.count(2))
        targets = (folder / name for name in itertools.chain([stem + ending], names))
        target = next(path for path in targets if not os.path.lexists(path))
        if self._as_links:
            target.symlink_to(Path(photo).resolve())
        else:
            with file_system.scratch_folder(self._root) as scratch:
                shutil.copy2(photo, scratch / "photo")
                (scratch / "photo").rename(target)
        self._counts[folder_name] += 1

    def _find(self, photo: Path) -> Path | None:
        """Return a file with the same bytes that was there before."""
        same_size = self._before.get(photo.stat().st_size, ())
        digest = _digest(photo) if same_size else b""
        return next((p for p in same_size if self._digest(p) == digest), None)

    def log(self) -> None:
        """Log how many photos each folder got, and which folders are new."""
        text = ", ".join(f"{count:,} {name}" for name, count in self._counts.items())
        command_line.log(
            command_line.one_line(f"sorted into {self._root}: {text or 'nothing'}")
        )
        if self._new_folders:
            names = command_line.first_few(self._new_folders)
            command_line.note(f"new class folders: {names}")


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
