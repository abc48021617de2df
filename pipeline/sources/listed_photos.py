"""Rows of lists or of a CSV file -> a source: paths made safe, repetitions found."""

import array
import dataclasses
import os
import posixpath
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline.records import file_table, manifest
from pipeline.sources import class_labels, photo_source
from pipeline.system.errors import DataError

_LINE_BITS = 40


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A photo as a list has it.

    Attributes:
        path: as it stands there.
        label: as it stands there.
        split: index into manifest.SPLITS, or table.NO_SPLIT.
        file: index of the list.
        line: its number there, from 1.
    """

    path: str
    label: str
    split: int
    file: int
    line: int


class Rows:
    """Photos as columns, in the order of their paths, each once.

    Attributes:
        paths: relative to the root, sorted.
        labels: of each, as it stands in the list.
        splits: int8 [num_photos].
        repeated: number of rows that say again what another one says.
        first: {label: where it stands first}.
    """

    def __init__(
        self, root: Path, files: Sequence[Path], entries: Iterable[Entry]
    ) -> None:
        """Collects them.

        Raises:
            DataError: no rows, a path that leads out of `root`, or a photo with
                two labels or in two splits.
        """
        self._files = files
        inside = _Inside(root)
        paths: list[str] = []
        names: list[str] = []
        splits, places = array.array("b"), array.array("q")
        self.first: dict[str, str] = {}
        for entry in entries:
            place = entry.file << _LINE_BITS | entry.line
            try:
                paths.append(inside.relative(entry.path))
            except ValueError as error:
                raise DataError(f"{self._where(place)}: {error}") from error
            names.append(sys.intern(entry.label))
            splits.append(entry.split)
            places.append(place)
            if entry.label not in self.first:
                self.first[entry.label] = self._where(place)
        if not paths:
            raise DataError(f"{', '.join(map(str, files))}: no photos listed")
        order = sorted(range(len(paths)), key=paths.__getitem__)
        kept = order[:1]
        for number in order[1:]:
            other = kept[-1]
            if paths[number] != paths[other]:
                kept.append(number)
                continue
            where = [self._where(places[row]) for row in (other, number)]
            mine, others = (
                (names[row], _split_name(splits[row])) for row in (number, other)
            )
            if mine != others:
                raise DataError(
                    f"{where[1]}: {paths[number]} has label {mine[0][:80]!r}{mine[1]}, "
                    f"but {others[0][:80]!r}{others[1]} in {where[0]}; one must go"
                )
        self.paths = [paths[row] for row in kept]
        self.labels = [names[row] for row in kept]
        self.splits = np.array(splits, np.int8)[kept]
        self.repeated = len(paths) - len(kept)

    def __len__(self) -> int:
        return len(self.paths)

    def _where(self, place: int) -> str:
        file, line = place >> _LINE_BITS, place & ((1 << _LINE_BITS) - 1)
        return f"{self._files[file]} line {line}"

    def folder_of_labels(self) -> dict[str, str]:
        """{label: first folder of its paths}; {} unless each label has its own."""
        folders: dict[str, str] = {}
        for path, label in zip(self.paths, self.labels, strict=True):
            folder = path.split("/", 1)[0] if "/" in path else ""
            if not folder or folders.setdefault(label, folder) != folder:
                return {}
        return folders if len({*folders.values()}) == len(folders) else {}

    def source(
        self,
        root: Path,
        kind: photo_source.Kind,
        found: class_labels.Classes,
        where: str,
    ) -> photo_source.Source:
        """The source that these rows are.

        Raises:
            DataError: as listing.check.
        """
        notes = [f"{kind}: {len(self):,} photos in {where}, {found.note}"]
        if counts := photo_source.count_splits(self.splits):
            notes[0] += f"; {counts}"
        if self.repeated:
            notes.append(f"{self.repeated:,} rows say again what another one says")
        numbers = (found.label_of[label] for label in self.labels)
        return photo_source.check(
            photo_source.Source(
                kind=kind,
                root=root,
                class_names=found.names,
                paths=self.paths,
                labels=np.fromiter(numbers, np.int32, len(self)),
                splits=self.splits,
                notes=tuple(notes),
            )
        )


def _split_name(split: int) -> str:
    return "" if split == file_table.NO_SPLIT else f" in {manifest.SPLITS[split]}"


def split_of(name: str, where: str) -> int:
    """The split of a name as people write it; table.NO_SPLIT of "".

    Raises:
        DataError: no split's name.
    """
    key = name.strip().lower()
    if key and key not in photo_source.SPLIT_OF:
        raise DataError(
            f"{where}: split {name!r}; expected train, validation, test or nothing"
        )
    return photo_source.SPLIT_OF.get(key, file_table.NO_SPLIT)


class _Inside:
    """Paths of strangers, made relative to a folder that they may not leave."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # As it was written, and without the links in it.
        self._roots = {os.path.abspath(root), os.path.realpath(root)}  # noqa: PTH100

    def relative(self, path: str) -> str:
        """The path without "." and "..", relative to the folder.

        Raises:
            ValueError: empty, the folder itself, or outside of it.
        """
        clean = posixpath.normpath(path)
        if clean.startswith("/"):
            clean = f"/{clean.lstrip('/')}"
            for root in self._roots:
                if clean.startswith(f"{root.rstrip('/')}/"):
                    clean = clean[len(root.rstrip("/")) + 1 :]
                    break
        if clean in ("", "."):
            raise ValueError("no path")
        if clean.startswith("/") or clean.split("/", 1)[0] == "..":
            raise ValueError(
                f"{path[:200]} lies outside of {self._root}, which all photos must lie "
                "in; name the folder that holds them all as the source"
            )
        return clean
