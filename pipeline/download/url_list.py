"""A CSV list of the addresses of photos -> those that can be had, in class folders.

`photos.csv` in the folder lists the photos there, ready for pipeline.convert;
`report.csv` lists all that were asked for, and why some could not be had.

Source: caffe/examples/finetune_flickr_style/assemble_data.py: columns image_url, label
and _split; the hash of Flickr's placeholder; a subset drawn by a seed.
"""

import collections
import csv
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.download import photo_downloads
from pipeline.download.photo_downloads import How, Outcome
from pipeline.records import file_table, manifest
from pipeline.sources import class_labels, listed_photos, photo_csv
from pipeline.system import command_line, file_system, http_file
from pipeline.system.errors import DataError

LISTING_NAME = "photos.csv"
REPORT_NAME = "report.csv"
# "This photo is no longer available", as Flickr sends it.
FLICKR_PLACEHOLDER = "6a92790b1c2a301c6e7ddef645dca1f53ea97ac2"
_SHOWN_REASONS = 10
_LISTING_HEADER = ("path", "label", "split")
_MAX_LABEL = 200  # characters of a label as it stands in the list


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Photo(photo_downloads.Wanted):
    """A row of the list.

    Attributes:
        class_name: of the photo.
        split: index into manifest.SPLITS, or table.NO_SPLIT.
    """

    class_name: str
    split: int


def read(
    path: Path, names: class_labels.Names | None, *, images: int, seed: int
) -> list[Photo]:
    """Reads a list, or a subset of it.

    Args:
        path: CSV with a header: image_url or url, label, and perhaps _split or split.
        names: of the classes, for labels that are numbers; None takes labels as names.
        images: size of the subset, in which all photos are equally likely; a larger one
            holds the smaller one of the same seed. 0: all.
        seed: of the subset.

    Raises:
        DataError: no such columns, no photos, a label that is none, or a photo
            in two splits.
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{path}: no photos listed")
    first: dict[str, str] = {}
    for _, label, _, line in rows:
        first.setdefault(label, f"{path} line {line}")
    classes = (
        class_labels.resolve(first, names) if names else class_labels.as_names(first)
    )
    found: dict[str, tuple[Photo, int]] = {}
    for url, label, split, line in rows:
        photo = _photo(url, classes.names[classes.label_of[label]], split)
        known, other = found.setdefault(photo.path, (photo, line))
        if known.split != split:
            raise DataError(
                f"{path} line {line}: {http_file.shown(url)} is in another split in "
                f"line {other}; one must go"
            )
    photos = [photo for photo, _ in found.values()]
    if 0 < images < len(photos):
        chosen = np.random.default_rng(seed).permutation(len(photos))[:images]
        photos = [photos[number] for number in sorted(chosen.tolist())]
    return photos


def _rows(path: Path) -> Iterator[tuple[str, str, int, int]]:
    """Yields address, label, split and number of each line."""
    needed = {"url": ("image_url", "url"), "label": ("label",)}
    for line, row in photo_csv.read_rows(path, needed, {"split": ("_split", "split")}):
        where = f"{path} line {line}"
        if not 1 <= len(row["label"]) <= _MAX_LABEL:
            raise DataError(
                f"{where}: a label of {len(row['label'])} characters; expected 1 to "
                f"{_MAX_LABEL}"
            )
        yield (
            row["url"],
            row["label"],
            listed_photos.split_of(row["split"], where),
            line,
        )


def _photo(url: str, class_name: str, split: int) -> Photo:
    """A photo lies in the folder of its class, under the hash of its address."""
    folder = re.sub("^[.]", "%2E", file_system.file_name(class_name))
    name = hashlib.sha1(url.encode("utf-8", "surrogateescape")).hexdigest()
    return Photo(
        url=url, class_name=class_name, split=split, path=f"{folder}/{name}.jpg"
    )


def download(photos: Sequence[Photo], target: Path, how: How) -> list[Outcome]:
    """Fetches what is not there yet; what is there stays, however this ends.

    Args:
        photos: with different paths.
        target: folder to fill; photos.csv and report.csv are written there.
        how: to fetch.

    Returns:
        What became of each photo.

    Raises:
        fetch.Unreachable: no server of the list can be reached.
        DataError: `target` holds a photos.csv of another kind, or no photo at
            all could be had.
        OSError: a file cannot be written.
    """
    _check_target(target)
    outcomes: dict[int, Outcome] = {}
    try:
        with command_line.graceful():
            photo_downloads.fetch_all(photos, target, how, outcomes)
    finally:
        done = [
            outcomes.get(number) or photo_downloads.as_found(target / photo.path, how)
            for number, photo in enumerate(photos)
        ]
        _write(target, photos, done)
    if not any(outcome.is_there for outcome in done):
        reason, count = count_reasons(done)[0]
        raise DataError(
            f"{target}: none of {len(photos):,} photos could be had; most often "
            f"({count:,}): {reason}; see {target / REPORT_NAME}"
        )
    return done


def summary(
    photos: Sequence[Photo], outcomes: Sequence[Outcome], target: Path
) -> list[str]:
    """What became of a list, line by line."""
    there = [p for p, o in zip(photos, outcomes, strict=True) if o.is_there]
    new = sum(outcome.status == "fetched" for outcome in outcomes)
    lines = [
        f"{target}: {len(there):,} of {len(photos):,} photos in "
        f"{len({photo.class_name for photo in there})} classes, {new:,} new"
    ]
    reasons = count_reasons(outcomes)
    lines += [
        f"not to be had: {count:,}: {why}" for why, count in reasons[:_SHOWN_REASONS]
    ]
    if len(reasons) > _SHOWN_REASONS:
        more = sum(count for _, count in reasons[_SHOWN_REASONS:])
        lines.append(f"not to be had: {more:,} for other reasons")
    lines.append(f"listed in {LISTING_NAME} there, and all reasons in {REPORT_NAME}")
    return lines


def count_reasons(outcomes: Iterable[Outcome]) -> list[tuple[str, int]]:
    """Why photos failed, and how many for each reason, the most frequent first."""
    reasons = (o.reason for o in outcomes if o.status == "failed")
    return collections.Counter(reasons).most_common()


def _check_target(target: Path) -> None:
    listing = target / LISTING_NAME
    if target.exists() and not target.is_dir():
        raise DataError(f"{target}: is a file; expected a folder to fill")
    if listing.exists():
        with listing.open("rb") as file:
            head = file.readline(100)
        if head.strip() != ",".join(_LISTING_HEADER).encode():
            raise DataError(
                f"{listing}: is there, and was not written by this command; choose "
                "another folder"
            )
    target.mkdir(parents=True, exist_ok=True)


def _write(target: Path, photos: Sequence[Photo], outcomes: Sequence[Outcome]) -> None:
    """Writes the listing of what is there, and the report on all."""
    both = list(zip(photos, outcomes, strict=True))
    names = {**dict(enumerate(manifest.SPLITS)), file_table.NO_SPLIT: ""}
    _write_csv(
        target / REPORT_NAME,
        ("url", "path", "status", "reason"),
        ((p.url, p.path, outcome.status, outcome.reason) for p, outcome in both),
    )
    _write_csv(
        target / LISTING_NAME,
        _LISTING_HEADER,
        ((p.path, p.class_name, names[p.split]) for p, o in both if o.is_there),
    )


def _write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    with (
        file_system.replacing(path) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
