"""Describe the photos of a source, and refuse sources that cannot be trained on."""

import collections
import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.records import manifest
from pipeline.system import command_line
from pipeline.system.errors import DataError

Kind = Literal["class folders", "split folders", "lists", "CSV", "two-key records"]
_MAX_NAME = 500
# What people call the splits -> names in manifest.SPLITS.
SPLIT_OF: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SKIP = "skip"  # in place of a class in corrections.csv: leave the photo out
_SORTED = "model.predict --sort_into puts photos without a class into such a folder"
# Names of classes, in lower case, that mean something else to some commands.
_MEANINGS = {
    SKIP: "in corrections.csv, skip leaves photos out; rename the class",
    **{n: f"{_SORTED}; --layout=none={n} leaves it out" for n in ("none", "unsure")},
}
# Ending of a photo's name.
ENDING = re.compile(
    r"\.(jpe?g|jpe|jfif|png|gif|bmp|dib|tiff?|webp|avif|heic|heif|jp2|p[gnp]m)$",
    re.IGNORECASE,
)


class Span(NamedTuple):
    """Place of a photo that is a part of a file; offset and length are in bytes."""

    file: str
    offset: int
    length: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourcePhoto:
    """One file of a source, or one photo of its records; "" stands for none."""

    path: str  # relative to the source folder, with "/"
    class_name: str
    split: str = ""  # that the source gives, one of manifest.SPLITS
    span: Span | None = None  # place of a photo that is a part of a file
    group: str = ""  # text that photos of one subject share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """All photos of a source."""

    kind: Kind
    root: Path  # folder that paths are relative to
    class_names: tuple[str, ...]  # in label order; sorted, unless the source has one
    photos: Sequence[SourcePhoto]  # all files, sorted by path
    layout: str = ""  # meaning of the folders as the user gives it
    # {kind: number} of hidden or system files and folders, and of links to folders.
    ignored: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()  # for the user, such as counts

    @functools.cached_property
    def labels(self) -> dict[str, int]:
        """{class name: 0-based label}."""
        return {name: label for label, name in enumerate(self.class_names)}

    @functools.cached_property
    def given(self) -> tuple[str, ...]:
        """Names of the splits that the source gives to at least one file."""
        present = {photo.split for photo in self.photos}
        return tuple(name for name in manifest.SPLITS if name in present)

    @property
    def settings(self) -> dict[str, Any]:
        """What a data set stores of its source; nothing for class folders."""
        kind = "" if self.kind == "class folders" else self.kind
        facts = {"source": kind, "layout": self.layout, "given_splits": [*self.given]}
        return {name: value for name, value in facts.items() if value}


def check(source: Source) -> Source:
    """Return a source, or raise DataError if no classifier can be trained on it."""
    root, names = source.root, source.class_names
    for name in names:
        # Bytes that are not UTF-8 are allowed.
        printable = re.sub("[\udc80-\udcff]", "", name).isprintable()
        if not printable or len(name) > _MAX_NAME:
            raise DataError(
                f"{root}: class name {name[:80]!r} has {len(name)} characters. "
                f"Expected at most {_MAX_NAME}, and no line break or control character"
            )
    if len(names) < 2:
        raise DataError(
            f"{root}: holds one class only, {names[0]!r}. A classifier needs two or "
            "more. Expected one folder of photos per class, as in flowers/daisy/1.jpg"
        )
    present = {photo.class_name for photo in source.photos}
    if empty := [name for name in names if name not in present]:
        raise DataError(
            f"{root}: no files in class {command_line.first_few(empty)}. Add photos or "
            "remove the class"
        )
    if not any(p.class_name and p.split in ("", "train") for p in source.photos):
        raise DataError(
            f"{root}: all photos are given for {' or '.join(source.given)}, none to "
            "train on. Add training photos"
        )
    return source


def check_given(source: Source) -> None:
    """Refuse, with a DataError, a class without photos in one of the given splits."""
    present = {(photo.class_name, photo.split) for photo in source.photos}
    lacking = [
        f"{name} ({split})"
        for name in source.class_names
        for split in source.given
        if (name, split) not in present
    ]
    if lacking:
        raise DataError(
            f"{source.root}: no photo is given of {command_line.first_few(lacking)}. "
            "Expected photos of every class in every split that is given. Add some, or "
            "accept this with --missing_classes=keep"
        )


def check_outside(directory: Path, root: Path) -> None:
    """Refuse, with a DataError, an output folder inside a source folder."""
    if directory.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{directory}: lies inside the source {root}, where the next conversion "
            "would take it for a class. Choose another --out"
        )


def count_splits(splits: Iterable[str]) -> str:
    """Return the numbers of photos by given split as text; "" without splits."""
    counts = collections.Counter(splits)
    parts = [f"{counts[name]:,} {name}" for name in manifest.SPLITS if counts[name]]
    if parts and counts[""]:
        parts.append(f"{counts['']:,} without a split")
    return ", ".join(parts)


def describe_names(names: Sequence[str]) -> dict[str, str]:
    """Return {kind: text} on names of classes that look the same or mislead."""
    by_look: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        key = unicodedata.normalize("NFKC", name).casefold()
        by_look[re.sub(r"[\s_]|(?<=[^\W\d])-", "", key).removesuffix("s")].append(name)
    twins = [" and ".join(same) for same in by_look.values() if len(same) > 1]
    same = "the same but for case, spaces, encoding or a plural; are they one class? "
    others = [f"{n} ({m})" for n in names if (m := _MEANINGS.get(n.casefold()))]
    texts = (same * bool(twins) + "; ".join(twins), ", ".join(others))
    kinds = ("class names alike", "class names with another meaning")
    return {kind: text for kind, text in zip(kinds, texts, strict=True) if text}
