"""Turn the entries of lists or of a CSV file into a source, each photo once."""

import collections
import contextlib
import functools
import os
import posixpath
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.sources import photo_source
from pipeline.sources.lists import class_labels
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

_MAX_PATH = 4096  # characters; systems have no longer paths


class Entry(NamedTuple):
    """A photo as a list names it.

    Attributes:
        path: path in the list; as ListedPhotos holds it, relative to the root.
        label: class name or number in the list.
        split: split of the photo, one of manifest.SPLITS; "" for none.
        file: list that has the entry.
        line: number of its line there, from 1.
        group: text that photos of one subject share; "" for none.
    """

    path: str
    label: str
    split: str
    file: Path
    line: int
    group: str = ""

    @property
    def where(self) -> str:
        """Place of the entry for messages."""
        return f"{self.file} line {self.line}"


class ListedPhotos:
    """Photos that lists name, in the order of their paths, each once.

    Attributes:
        entries: one entry a photo, its path relative to the root.
        first: {label: place of its first entry}.
        notes: lines for the user about paths and rows.
    """

    def __init__(
        self, root: Path, files: Iterable[Path], entries: Iterable[Entry]
    ) -> None:
        """Collect the entries of all lists.

        Raises:
            DataError: there are no entries, a path leads out of `root`, none of the
                photos exists, or a photo has two labels or two splits.
        """
        self._root = root
        # As the user wrote it, and with its links resolved.
        self._roots = {os.path.abspath(root), os.path.realpath(root)}  # noqa: PTH100
        self.first: dict[str, str] = {}
        self.notes: list[str] = []
        listed = []
        for entry in entries:
            entry = entry._replace(label=sys.intern(entry.label))
            self.first.setdefault(entry.label, entry.where)
            listed.append(entry._replace(path=self._inside(entry, entry.path)))
        if not listed:
            raise DataError(f"{', '.join(map(str, files))}: no photos listed")
        self._find_files(listed)
        listed.sort(key=lambda entry: entry.path)
        self.entries = self._once(listed)

    def _find_files(self, listed: list[Entry]) -> None:
        """Replace, in place, each path by that of the file that it means."""
        adds_endings = not any(photo_source.ENDING.search(e.path) for e in listed)
        find = _file_finder(self._root, adds_endings=adds_endings)
        backslashes, others = list[str](), list[str]()
        for index, entry in enumerate(listed):
            path = entry.path
            if "\\" in path and not find(path):
                path = self._inside(entry, path.replace("\\", "/"))
            if file := find(path):
                listed[index] = entry._replace(path=file)
                backslashes += [f"{entry.path} for {file}"] * (path != entry.path)
                others += [f"{entry.path} for {file}"] * (file != path)
        differ = "lack the ending" if adds_endings else "differ in case or encoding"
        for change, examples in ("have backslashes", backslashes), (differ, others):
            if examples:
                count = f"{len(examples):,} of {len(listed):,} paths"
                self.notes.append(f"{count} {change}, as {examples[0]}")
        if any(find(entry.path) for entry in listed):
            return
        root, path = self._root, listed[0].path.replace("\\", "/")
        is_local = not file_system.is_remote(str(root))
        near = [root / "..", *sorted(root.iterdir())] if is_local else []
        fitting = [f for f in near if _file_finder(f, adds_endings=True)(path)]
        raise DataError(
            f"{listed[0].where}: {root} has no photo {listed[0].path[:200]}, nor any "
            f"other of the {len(listed):,} that are listed. Name the folder that the "
            f"paths start from as the source{''.join(f': {f}' for f in fitting[:1])}"
        )

    def _once(self, listed: Sequence[Entry]) -> list[Entry]:
        """Return sorted entries without those that repeat another one."""
        entries = [listed[0]]
        for entry in listed[1:]:
            other = entries[-1]
            if entry.path != other.path:
                entries.append(entry)
            elif entry[1:3] + entry[5:] != other[1:3] + other[5:]:
                raise DataError(
                    f"{entry.where}: {entry.path} has label {_described(entry)}, but "
                    f"{_described(other)} in {other.where}. Remove one of them; each "
                    "photo has one label"
                )
        if num_repeated := len(listed) - len(entries):
            self.notes.append(f"{num_repeated:,} rows repeat another row")
        return entries

    def _inside(self, entry: Entry, text: str) -> str:
        """Return a path relative to the root, without "." and ".."."""
        path = posixpath.normpath(text)
        if path.startswith("/"):
            path = f"/{path.lstrip('/')}"
            for root in self._roots:
                if path.startswith(f"{root.rstrip('/')}/"):
                    path = path[len(root.rstrip("/")) + 1 :]
                    break
        if path in ("", "."):
            raise DataError(f"{entry.where}: no path")
        if re.match(r"/|\.\.(/|$)|[A-Za-z]:/", path):
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
        self,
        kind: photo_source.Kind,
        classes: class_labels.Classes,
        where: str,
        notes: Iterable[str],
    ) -> photo_source.Source:
        """Return the source of these photos; photo_source.check may refuse it.

        Args:
            kind: kind of the source.
            classes: meaning of the labels.
            where: name or number of the lists, for the note on the source.
            notes: lines for the user about how the lists were read.
        """
        note = f"{kind}: {len(self.entries):,} photos in {where}, {classes.note}"
        if counts := photo_source.count_splits(entry.split for entry in self.entries):
            note += f"; {counts}"
        photos = [
            photo_source.SourcePhoto(
                path=entry.path,
                class_name=classes.names[classes.label_of[entry.label]],
                split=entry.split,
                group=entry.group,
            )
            for entry in self.entries
        ]
        return photo_source.check(
            photo_source.Source(
                kind=kind,
                root=self._root,
                class_names=classes.names,
                photos=photos,
                notes=tuple(map(command_line.one_line, (note, *notes, *self.notes))),
            )
        )


def _described(entry: Entry) -> str:
    split = f" in {entry.split}" if entry.split else ""
    return f"{entry.label[:80]!r}{split}"


def _file_finder(root: Path, *, adds_endings: bool) -> Callable[[str], str]:
    """Return a function that finds the one file that a path means; "" if no file does.

    Its names may differ in case, and in the encoding of their letters. With
    `adds_endings`, "cat1" means "cat1.jpg", too.
    """

    @functools.cache
    def list_folder(folder: str) -> Mapping[str, list[str]]:
        """Return {text that means one of the names: these names}."""
        names = collections.defaultdict(list)
        with contextlib.suppress(OSError):
            for child in file_system.path(f"{root}/{folder}").iterdir():
                keys = {child.name, _key(child.name)}
                if adds_endings and photo_source.ENDING.search(child.name):
                    keys.add(_key(photo_source.ENDING.sub("", child.name)))
                for key in keys:
                    names[key].append(child.name)
        return names

    def find(path: str) -> str:
        place = ""
        for name in path.split("/") if len(path) <= _MAX_PATH else ():
            names = list_folder(place)
            matches = names.get(name) or names.get(_key(name), [])
            if name not in matches and len(matches) != 1:
                return ""
            place = posixpath.join(place, name if name in matches else matches[0])
        return place

    return find


def _key(name: str) -> str:
    """Return the same text for names that differ only in case or encoding."""
    if re.search("[\udc80-\udcff]", name):  # bytes of an old archive's names
        name = os.fsencode(name).decode("cp1252", "replace")
    return unicodedata.normalize("NFC", name).casefold()
