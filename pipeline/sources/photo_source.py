"""What every source of photos is turned into, and what all of them must fulfil."""

import collections
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.records import file_table, manifest
from pipeline.system.errors import DataError

Kind = Literal["class folders", "split folders", "lists", "CSV", "two-key records"]
# Where a photo's bytes lie: file, relative to the source's root; offset and length in
# bytes, the length being WHOLE for a whole file.
Span = tuple[str, int, int]
WHOLE = -1
_MAX_NAME = 500
# What people call the splits -> index into manifest.SPLITS.
SPLIT_OF: Mapping[str, int] = {
    "train": 0,
    "training": 0,
    "validation": 1,
    "valid": 1,
    "val": 1,
    "test": 2,
    "testing": 2,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spans:
    """Where the bytes of photos lie that are parts of files.

    Attributes:
        files: relative to the source's root.
        file: int32 [num_photos], index into `files`.
        offset: int64 [num_photos], in bytes.
        length: int64 [num_photos], in bytes; WHOLE for a whole file.
    """

    files: Sequence[str]
    file: np.ndarray
    offset: np.ndarray
    length: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What a source holds.

    Attributes:
        kind: how it tells the classes.
        root: the folder that paths are relative to.
        class_names: label i is class_names[i]; sorted, unless the source has an order.
        paths: of all files, with "/", sorted.
        labels: int32 [num_files], 0-based; -1 for a file in no class.
        splits: int8 [num_files], the split that the source gives each file, as an index
            into manifest.SPLITS; table.NO_SPLIT where it gives none.
        ignored: number of hidden or system files and folders, and of linked folders
            (which are not followed), by kind.
        notes: what to tell of it, as its numbers.
        spans: where the photos lie, if they are not files themselves.
    """

    kind: Kind
    root: Path
    class_names: tuple[str, ...]
    paths: Sequence[str]
    labels: np.ndarray
    splits: np.ndarray
    ignored: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    spans: Spans | None = None

    def class_name(self, number: int) -> str:
        """The class of a file; "" if it is in none."""
        label = self.labels[number]
        return self.class_names[label] if label >= 0 else ""

    def span(self, number: int) -> Span:
        """Where the bytes of a photo lie."""
        if self.spans is None:
            return self.paths[number], 0, WHOLE
        return (
            self.spans.files[self.spans.file[number]],
            int(self.spans.offset[number]),
            int(self.spans.length[number]),
        )

    @functools.cached_property
    def given(self) -> tuple[str, ...]:
        """The splits that it gives at least one file."""
        present = np.unique(self.splits[self.splits != file_table.NO_SPLIT])
        return tuple(manifest.SPLITS[number] for number in present)

    @property
    def settings(self) -> dict[str, Any]:
        """What a data set keeps of it beside rows; nothing for class folders."""
        kept: dict[str, Any] = {}
        if self.kind != "class folders":
            kept["source"] = self.kind
        if self.given:
            kept["given_splits"] = list(self.given)
        return kept


def check(source: Source) -> Source:
    """Refuses what no classifier can be trained on; returns the source.

    Raises:
        DataError: fewer than two classes, a class without files or with a name
            that no list can hold, or splits without one for training.
    """
    root, names = source.root, source.class_names
    for name in names:
        if len(name) > _MAX_NAME:
            raise DataError(
                f"{root}: class name {name[:80]!r}... has {len(name)} characters"
            )
        if not name.isprintable() and not _is_undecodable(name):
            raise DataError(
                f"{root}: class name {name!r} holds a line break or another control "
                "character, which no list of labels can; rename the class"
            )
    if len(names) < 2:
        raise DataError(
            f"{root}: holds one class only, {names[0]!r}; a classifier needs two or "
            "more; expected one folder of photos per class, as in flowers/daisy/1.jpg"
        )
    present = np.bincount(source.labels[source.labels >= 0], minlength=len(names))
    empty = [name for name, count in zip(names, present, strict=True) if not count]
    if empty:
        raise DataError(
            f"{root}: no files in class {', '.join(empty[:10])}"
            f"{' and more' if len(empty) > 10 else ''}; add photos or remove the class"
        )
    of_classes = source.splits[source.labels >= 0]
    if source.given and not (of_classes <= manifest.SPLITS.index("train")).any():
        raise DataError(
            f"{root}: all photos are given for {' or '.join(source.given)}, none to "
            "train on; give training photos as well"
        )
    return source


def check_given(source: Source) -> None:
    """Refuses a class of which one of the given splits has no photo, and others have.

    Raises:
        DataError: names classes and splits.
    """
    present = np.zeros((len(source.class_names), len(manifest.SPLITS)), np.bool_)
    told = (source.labels >= 0) & (source.splits != file_table.NO_SPLIT)
    present[source.labels[told], source.splits[told]] = True
    lacking = [
        f"{name} ({split_name})"
        for name, row in zip(source.class_names, present, strict=True)
        for split_name in source.given
        if not row[manifest.SPLITS.index(split_name)]
    ]
    if lacking:
        raise DataError(
            f"{source.root}: no photo is given of {', '.join(lacking[:10])}"
            f"{' and more' if len(lacking) > 10 else ''}; expected photos of every "
            "class in every split that is given; list some, or let it be with "
            "--lacking=keep"
        )


def check_outside(directory: Path, root: Path) -> None:
    """Refuses an output folder inside a source of folders or records.

    Raises:
        DataError: it is.
    """
    if directory.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{directory}: lies inside the source {root}, where the next conversion "
            "would take it for a class; choose another --out"
        )


def _is_undecodable(name: str) -> bool:
    """Whether only bytes that are no UTF-8 make it unprintable."""
    return re.sub("[\udc80-\udcff]", "", name).isprintable()


def count_splits(splits: np.ndarray) -> str:
    """Numbers of photos by given split, as text."""
    counts = collections.Counter(splits.tolist())
    named = [
        f"{counts[number]:,} {name}"
        for number, name in enumerate(manifest.SPLITS)
        if counts[number]
    ]
    if named and counts[file_table.NO_SPLIT]:
        named.append(f"{counts[file_table.NO_SPLIT]:,} without a split")
    return ", ".join(named)
