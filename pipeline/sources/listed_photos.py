"""Turn the entries of lists or of a CSV file into a source, each photo once."""

import os
import posixpath
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.sources import class_labels, photo_source
from pipeline.system.errors import DataError


class Entry(NamedTuple):
    """A photo as a list names it.

    Attributes:
        path: path in the list; as ListedPhotos holds it, relative to the root.
        label: class name or number in the list.
        split: split of the photo, one of manifest.SPLITS; "" for none.
        file: list that has the entry.
        line: number of its line there, from 1.
    """

    path: str
    label: str
    split: str
    file: Path
    line: int

    @property
    def where(self) -> str:
        """Place of the entry for messages."""
        return f"{self.file} line {self.line}"


class ListedPhotos:
    """Photos that lists name, in the order of their paths, each once.

    Attributes:
        entries: one entry a photo, its path relative to the root.
        num_repeated: number of entries that repeat another one.
        first: {label: place of its first entry}.
    """

    def __init__(
        self, root: Path, files: Iterable[Path], entries: Iterable[Entry]
    ) -> None:
        """Collect the entries of all lists.

        Raises:
            DataError: there are no entries, a path leads out of `root`, or a photo has
                two labels or two splits.
        """
        self._root = root
        # As the user wrote it, and with its links resolved.
        self._roots = {os.path.abspath(root), os.path.realpath(root)}  # noqa: PTH100
        listed: list[Entry] = []
        self.first: dict[str, str] = {}
        for entry in entries:
            label = sys.intern(entry.label)
            listed.append(entry._replace(path=self._inside(entry), label=label))
            if label not in self.first:
                self.first[label] = entry.where
        if not listed:
            raise DataError(f"{', '.join(map(str, files))}: no photos listed")
        listed.sort(key=lambda entry: entry.path)
        self.entries = listed[:1]
        for entry in listed[1:]:
            other = self.entries[-1]
            if entry.path != other.path:
                self.entries.append(entry)
            elif (entry.label, entry.split) != (other.label, other.split):
                raise DataError(
                    f"{entry.where}: {entry.path} has label {_described(entry)}, but "
                    f"{_described(other)} in {other.where}. Remove one of them"
                )
        self.num_repeated = len(listed) - len(self.entries)

    def _inside(self, entry: Entry) -> str:
        """Return the entry's path relative to the root, without "." and ".."."""
        path = posixpath.normpath(entry.path)
        if path.startswith("/"):
            path = f"/{path.lstrip('/')}"
            for root in self._roots:
                if path.startswith(f"{root.rstrip('/')}/"):
                    path = path[len(root.rstrip("/")) + 1 :]
                    break
        if path in ("", "."):
            raise DataError(f"{entry.where}: no path")
        if path.startswith("/") or path.split("/", 1)[0] == "..":
            raise DataError(
                f"{entry.where}: {entry.path[:200]} lies outside of {self._root}. Name "
                "the folder that holds all photos as the source"
            )
        return path

    def folder_of_labels(self) -> dict[str, str]:
        """Return {label: first folder of its paths}; {} unless each has its own."""
        folders: dict[str, str] = {}
        for entry in self.entries:
            folder = entry.path.split("/", 1)[0] if "/" in entry.path else ""
            if not folder or folders.setdefault(entry.label, folder) != folder:
                return {}
        return folders if len({*folders.values()}) == len(folders) else {}

    def to_source(
        self, kind: photo_source.Kind, classes: class_labels.Classes, where: str
    ) -> photo_source.Source:
        """Return the source of these photos; photo_source.check may refuse it.

        Args:
            kind: kind of the source.
            classes: meaning of the labels.
            where: name or number of the lists, for the note on the source.
        """
        notes = [f"{kind}: {len(self.entries):,} photos in {where}, {classes.note}"]
        if counts := photo_source.count_splits(entry.split for entry in self.entries):
            notes[0] += f"; {counts}"
        if self.num_repeated:
            notes.append(f"{self.num_repeated:,} rows repeat another row")
        photos = [
            photo_source.SourcePhoto(
                path=entry.path,
                class_name=classes.names[classes.label_of[entry.label]],
                split=entry.split,
            )
            for entry in self.entries
        ]
        return photo_source.check(
            photo_source.Source(
                kind=kind,
                root=self._root,
                class_names=classes.names,
                photos=photos,
                notes=tuple(notes),
            )
        )


def _described(entry: Entry) -> str:
    split = f" in {entry.split}" if entry.split else ""
    return f"{entry.label[:80]!r}{split}"


def split_of(name: str, where: str) -> str:
    """Return the split that a name means, one of manifest.SPLITS; "" for "".

    Raises:
        DataError: the name means no split.
    """
    key = name.strip().lower()
    if key and key not in photo_source.SPLIT_OF:
        raise DataError(
            f"{where}: split {name!r} is unknown. Expected train, validation, test or "
            "nothing"
        )
    return photo_source.SPLIT_OF.get(key, "")
