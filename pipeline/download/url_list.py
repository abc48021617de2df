"""Download the photos of a CSV list of addresses into class folders.

`photos.csv` in the folder lists the photos there, ready for pipeline.convert.
`report.csv` lists all photos of the list, with the reason if one is missing.

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
from pipeline.download.photo_downloads import DownloadOptions, Outcome, PhotoAddress
from pipeline.sources import class_labels, listed_photos, photo_csv
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError
from pipeline.system.remote import http_file

LISTING_NAME = "photos.csv"
REPORT_NAME = "report.csv"
# "This photo is no longer available", as Flickr sends it.
FLICKR_PLACEHOLDER = "6a92790b1c2a301c6e7ddef645dca1f53ea97ac2"
_SHOWN_REASONS = 10
_LISTING_HEADER = ("path", "label", "split")
_MAX_LABEL = 200  # characters


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Photo(PhotoAddress):
    """A row of the list.

    Attributes:
        class_name: class of the photo.
        split: name of the split, one of manifest.SPLITS; "" for none.
    """

    class_name: str
    split: str


def read(
    path: Path, names: class_labels.Names | None, *, images: int, seed: int
) -> list[Photo]:
    """Read a list, or a random subset of it.

    Args:
        path: CSV file with a header: image_url or url, label, and optionally _split or
            split.
        names: class names, for labels that are numbers; None if labels are names.
        images: number of photos in the subset; 0 for all. A larger subset of the same
            seed includes the smaller one.
        seed: random seed of the subset.

    Raises:
        DataError: the list lacks a column or photos, has an invalid label, or a photo
            is in two splits.
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{path}: the list has no photos")
    first: dict[str, str] = {}
    for _, label, _, line in rows:
        first.setdefault(label, f"{path} line {line}")
    classes = (
        class_labels.resolve(first, names) if names else class_labels.as_names(first)
    )
    photo_at: dict[str, tuple[Photo, int]] = {}
    for url, label, split, line in rows:
        photo = _photo(url, classes.names[classes.label_of[label]], split)
        earlier, earlier_line = photo_at.setdefault(photo.path, (photo, line))
        if earlier.split != split:
            raise DataError(
                f"{path} line {line}: {http_file.without_password(url)} is in another "
                f"split than in line {earlier_line}. Remove one of the lines"
            )
    photos = [photo for photo, _ in photo_at.values()]
    if 0 < images < len(photos):
        subset = np.random.default_rng(seed).permutation(len(photos))[:images]
        photos = [photos[index] for index in sorted(subset.tolist())]
    return photos


def _rows(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yield address, label, split and line number of each photo."""
    needed = {"url": ("image_url", "url"), "label": ("label",)}
    for line, row in photo_csv.read_rows(path, needed, {"split": ("_split", "split")}):
        where = f"{path} line {line}"
        if not 1 <= len(row["label"]) <= _MAX_LABEL:
            raise DataError(
                f"{where}: the label has {len(row['label'])} characters. Expected 1 "
                f"to {_MAX_LABEL}"
            )
        yield (
            row["url"],
            row["label"],
            listed_photos.split_of(row["split"], where),
            line,
        )


def _photo(url: str, class_name: str, split: str) -> Photo:
    """Place a photo in the folder of its class, under the hash of its address."""
    folder = re.sub("^[.]", "%2E", file_system.file_name(class_name))
    name = hashlib.sha1(url.encode("utf-8", "surrogateescape")).hexdigest()
    return Photo(
        url=url, class_name=class_name, split=split, path=f"{folder}/{name}.jpg"
    )


def download(
    photos: Sequence[Photo], target: Path, options: DownloadOptions
) -> list[Outcome]:
    """Download the photos that are not there yet, and list what is there.

    The list is written even if the download is stopped.

    Args:
        photos: photos with different paths.
        target: folder to fill; photos.csv and report.csv are written there.
        options: options of the download.

    Returns:
        One result for each photo.

    Raises:
        DataError: `target` holds a photos.csv of another program, or no photo could be
            downloaded.
        OSError: a file cannot be written.
    """
    _check_target(target)
    outcomes: dict[int, Outcome] = {}
    try:
        with command_line.graceful():
            photo_downloads.download_all(photos, target, options, outcomes)
    finally:
        results = [
            outcomes.get(index)
            or photo_downloads.unfinished_outcome(target / photo.path, options)
            for index, photo in enumerate(photos)
        ]
        _write(target, photos, results)
    if not any(outcome.is_there for outcome in results):
        reason, count = count_reasons(results)[0]
        raise DataError(
            f"{target}: none of {len(photos):,} photos could be downloaded. Most "
            f"frequent reason ({count:,} times): {reason}. Check the network, or look "
            f"for the other reasons in {target / REPORT_NAME}"
        )
    return results


def summary(
    photos: Sequence[Photo], outcomes: Sequence[Outcome], target: Path
) -> list[str]:
    """Return lines that say how many photos are there, and why others are not."""
    there = [p for p, o in zip(photos, outcomes, strict=True) if o.is_there]
    new = sum(outcome.status == "fetched" for outcome in outcomes)
    lines = [
        f"{target}: {len(there):,} of {len(photos):,} photos in "
        f"{len({photo.class_name for photo in there})} classes, {new:,} new"
    ]
    reasons = count_reasons(outcomes)
    lines += [
        f"{count:,} not downloaded: {reason}"
        for reason, count in reasons[:_SHOWN_REASONS]
    ]
    if len(reasons) > _SHOWN_REASONS:
        others = sum(count for _, count in reasons[_SHOWN_REASONS:])
        lines.append(f"{others:,} not downloaded for other reasons")
    lines.append(f"{LISTING_NAME} lists the photos, {REPORT_NAME} all reasons")
    return lines


def count_reasons(outcomes: Iterable[Outcome]) -> list[tuple[str, int]]:
    """Return the reasons of failures with their counts, the most frequent first."""
    reasons = (o.reason for o in outcomes if o.status == "failed")
    return collections.Counter(reasons).most_common()


def _check_target(target: Path) -> None:
    listing = target / LISTING_NAME
    if target.exists() and not target.is_dir():
        raise DataError(f"{target}: is a file. Expected a folder to fill")
    if listing.exists():
        with listing.open("rb") as file:
            head = file.readline(100)
        if head.strip() != ",".join(_LISTING_HEADER).encode():
            raise DataError(
                f"{listing}: was not written by this command. Choose another folder"
            )
    target.mkdir(parents=True, exist_ok=True)


def _write(target: Path, photos: Sequence[Photo], outcomes: Sequence[Outcome]) -> None:
    """Write the list of the photos that are there, and the report on all."""
    results = list(zip(photos, outcomes, strict=True))
    _write_csv(
        target / REPORT_NAME,
        ("url", "path", "status", "reason"),
        ((p.url, p.path, outcome.status, outcome.reason) for p, outcome in results),
    )
    _write_csv(
        target / LISTING_NAME,
        _LISTING_HEADER,
        ((p.path, p.class_name, p.split) for p, o in results if o.is_there),
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
