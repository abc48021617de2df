"""Find what would spoil training: unusual files, copies, splits, classes, names."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pipeline.grouping import near_duplicates, photo_groups, split_assignment
from pipeline.records.manifest import SPLITS
from pipeline.records.manifest_row import Code, Row
from pipeline.sources import photo_source

Severity = Literal["error", "warning", "note"]
# {class name: {"photos", "usable" or a split: number of photos}}
Counts = Mapping[str, Mapping[str, int]]
_IMBALANCE = 10  # times as many photos in one class as in another
# Kind of a group of photos -> how bad it is, and what convert does about it.
_GROUP_KINDS: Mapping[str, tuple[Severity, str]] = {
    "conflicting labels": (
        "error",
        "the same photo in several classes; not all can be right, so convert leaves "
        "all of them out",
    ),
    "across splits": (
        "error",
        "the same picture in several of the given splits, which would make the "
        "accuracy too high; convert keeps only the one in the last split",
    ),
    "one picture in several classes": (
        "warning",
        "nearly the same picture in several classes: is one of them wrong?",
    ),
    "exact copies": ("note", "the same file again; convert keeps copies in one split"),
    "near-duplicates": (
        "note",
        f"the same picture again, {near_duplicates.LIMIT}; convert keeps them in one "
        "split",
    ),
}
TINY_PX = 32  # short side
EXTREME_ASPECT = 4.0  # long side divided by short side
# Kind -> severity and meaning. An error would corrupt training or evaluation. A warning
# means that photos are lost, or that something may be wrong with them.
KINDS: Mapping[str, tuple[Severity, str]] = {
    "unreadable": ("warning", "the file cannot be opened or read"),
    "damaged": ("warning", "the file is cut off or damaged and does not decode"),
    "not an image": ("warning", "the file is not an image, or its format is unknown"),
    "refused": ("warning", ""),  # for the reason that the row states
    "too large": ("warning", "the image has more pixels than --max_pixels"),
    "outside the classes": ("warning", "the file is in no class folder"),
    "crashed": ("warning", "the decoder crashed on this file"),
    "complaint": ("warning", "the image decodes, but the decoder warns"),
    "wrong ending": ("warning", "the file is named as another image format"),
    "tiny": ("warning", f"the short side is below {TINY_PX} pixels"),
    "extreme aspect": (
        "warning",
        f"one side is more than {EXTREME_ASPECT:g} times as long as the other",
    ),
    "animated": ("note", "only the first of several frames or pages is used"),
    "CMYK": ("note", "printing colours are converted to RGB"),
    "16-bit": ("note", "the numbers are reduced to 8 bits"),
    "transparent": ("note", "transparent parts are laid over white"),
    "wide gamut": ("note", "the colour profile is ignored, so colours turn out duller"),
    "turned": ("note", "the photo is turned upright as its EXIF data say"),
}
_KIND_OF_CODE: Mapping[str, str] = {
    **dict.fromkeys((Code.UNREADABLE, Code.OUT_OF_MEMORY), "unreadable"),
    **dict.fromkeys((Code.UNDECODABLE, Code.EMPTY, Code.UNENCODABLE), "damaged"),
    **dict.fromkeys((Code.NOT_AN_IMAGE, Code.TOO_MANY_BYTES), "not an image"),
    **dict.fromkeys((Code.UNSUPPORTED_FORMAT, Code.UNSUPPORTED_PIXELS), "refused"),
    Code.TOO_MANY_PIXELS: "too large",
    Code.NO_CLASS: "outside the classes",
    Code.DECODER_CRASHED: "crashed",
    Code.DECODER_WARNING: "complaint",
    Code.WRONG_ENDING: "wrong ending",
    Code.ANIMATED: "animated",
    Code.CMYK: "CMYK",
    Code.SIXTEEN_BITS: "16-bit",
    Code.TRANSPARENT: "transparent",
    Code.WIDE_GAMUT: "wide gamut",
    Code.TURNED_UPRIGHT: "turned",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """Photos or classes that the user should look at, for one reason."""

    kind: str  # name of the reason, in a few words
    severity: Severity
    meaning: str  # what the reason means, and what to do about it
    groups: tuple[tuple[str, ...], ...] = ()  # of paths; a single photo is a group

    @property
    def is_about_labels(self) -> bool:
        """Whether each of its groups holds several photos of the same picture."""
        return self.kind in _GROUP_KINDS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a check."""

    source: str  # folder, as the user named it
    counts: dict[str, dict[str, int]]  # see Counts
    findings: tuple[Finding, ...]  # the most severe first
    notes: tuple[str, ...]  # on the source as a whole

    def is_bad(self, *, strict: bool) -> bool:
        """Return whether there is an error, or with `strict` any finding."""
        severities = {finding.severity for finding in self.findings}
        return bool(severities) if strict else "error" in severities

    @property
    def all_clear(self) -> str:
        """Sentence for a report without findings."""
        usable = sum(count["usable"] for count in self.counts.values())
        return (
            f"nothing found: all {usable:,} photos decode, and nothing about them "
            "would spoil training"
        )


def find_groups(
    rows: Sequence[Row], source: photo_source.Source, groups: photo_groups.PhotoGroups
) -> list[Finding]:
    """Find groups of photos of the same picture, with those that convert leaves out."""
    same_pixels = groups.same_pixels(rows)
    pixels_of = {
        index: number for number, group in enumerate(same_pixels) for index in group
    }
    alike, copies = groups.same_picture(rows), photo_groups.same_files(rows)
    of_several_classes = photo_groups.differing(alike, rows, "class_name")
    sets = {
        "conflicting labels": photo_groups.differing(same_pixels, rows, "class_name"),
        "across splits": [
            group
            for group in (groups.together(rows) if source.given else [])
            if len({source.photos[index].split or SPLITS[0] for index in group}) > 1
        ],
        "one picture in several classes": [
            group
            for group in of_several_classes
            if len({pixels_of.get(index, -1 - index) for index in group}) > 1
        ],
        "exact copies": [
            g for g in copies if not photo_groups.differing([g], rows, "class_name")
        ],
        "near-duplicates": photo_groups.differing(alike, rows, "sha256"),
    }
    findings = []
    for kind, members in sets.items():
        paths = tuple(tuple(rows[index].path for index in group) for group in members)
        findings.append(Finding(kind, *_GROUP_KINDS[kind], paths))
    return [finding for finding in findings if finding.groups]


def find_small_classes(counts: Counts) -> list[Finding]:
    """Find classes that are too small for a split, or much smaller than others."""
    small = split_assignment.SMALL_CLASS
    usable = {name: count["usable"] for name, count in counts.items()}
    most = max(usable.values(), default=0)
    # Kind, severity, meaning, and the numbers of photos that it is about.
    kinds: tuple[tuple[str, Severity, str, range], ...] = (
        ("empty class", "error", "no photo of the class can be used", range(1)),
        (
            "class too small to split",
            "error",
            "with fewer than three photos, not every split gets one",
            range(1, len(SPLITS)),
        ),
        (
            "small class",
            "warning",
            f"with fewer than {small} photos, its accuracy means little; consider "
            "python -m pipeline.split --folds=5",
            range(len(SPLITS), small),
        ),
        (
            "imbalance",
            "warning",
            f"at most a {_IMBALANCE}th of the largest class; consider "
            "train.py --class_weights=balanced",
            range(1, most // _IMBALANCE + 1),
        ),
    )
    findings = []
    for kind, severity, meaning, numbers in kinds:
        names = [f"{name} ({n})" for name, n in sorted(usable.items()) if n in numbers]
        if names:
            findings.append(Finding(kind, severity, f"{meaning}: {', '.join(names)}"))
    return findings


def find_missing_splits(
    counts: Counts, splits: Sequence[str], severity: Severity
) -> list[Finding]:
    """Find classes without photos in one of these splits."""
    lacking = [
        f"{name} ({split_name})"
        for name, row in counts.items()
        for split_name in splits
        if row["usable"] and not row[split_name]
    ]
    meaning = f"the split has no photo of the class: {', '.join(lacking)}"
    kind = "class missing from a split"
    return [Finding(kind, severity, meaning)] if lacking else []


def kinds_of(row: Row) -> list[str]:
    """Return the kinds, of KINDS, that apply to a file."""
    kinds = [_KIND_OF_CODE[code] for code in row.codes if code in _KIND_OF_CODE]
    if row.is_included:
        sides = sorted((row.height, row.width))
        if sides[0] < TINY_PX:
            kinds.append("tiny")
        if sides[1] > EXTREME_ASPECT * sides[0]:
            kinds.append("extreme aspect")
    return kinds


def find_unusual_files(rows: Iterable[Row]) -> list[Finding]:
    """Find unusual files, in the order of KINDS."""
    paths: dict[tuple[str, str], list[tuple[str]]] = collections.defaultdict(list)
    for row in rows:
        for kind in kinds_of(row):
            paths[kind, KINDS[kind][1] or row.reason].append((row.path,))
    order = list(KINDS)
    return [
        Finding(kind, KINDS[kind][0], meaning, tuple(paths[kind, meaning]))
        for kind, meaning in sorted(paths, key=lambda key: (order.index(key[0]), key))
    ]
