"""Download the photos of a CSV list of addresses into class folders.

`photos.csv` in the folder lists the photos there, ready for pipeline.convert.
`report.csv` lists all photos of the list, with the reason if one is missing.

Source: caffe/examples/finetune_flickr_style/assemble_data.py: columns image_url, label
and _split; the hash of Flickr's placeholder; a subset drawn by a seed.
"""

import collections
import csv
import functools
import hashlib
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline.download import photo_downloads
from pipeline.download.download_settings import Config
from pipeline.download.photo_downloads import Outcome, Photo
from pipeline.sources.lists import class_labels, label_files, photo_csv
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError
from pipeline.system.remote import http_file

# Role of a column -> titles that it may have.
_COLUMNS = {"url": ("image_url", "url"), "label": ("label",)}
LISTING_NAME = "photos.csv"
REPORT_NAME = "report.csv"
_SHOWN_REASONS = 10
_LISTING_HEADER = ("path", "label", "split")


def download(config: Config) -> list[str]:
    """Download the photos of a list, and return lines that sum up the result.

    photos.csv and report.csv are written even if the download is stopped.
    """
    names = label_files.read(Path(config.labels)) if config.labels else None
    path, columns = Path(config.urls), config.columns
    photos = read(path, names, columns, images=config.images, seed=config.seed)
    target = Path(config.target)
    _prepare(target)
    outcome_on_disk = functools.partial(photo_downloads.outcome_on_disk, config)
    missing = [photo for photo in photos if not outcome_on_disk(photo).is_there]
    outcomes: dict[str, Outcome] = {}
    try:
        with command_line.graceful():
            outcomes.update(photo_downloads.download_all(missing, config))
    finally:
        results = [(p, outcomes.get(p.path) or outcome_on_disk(p)) for p in photos]
        _write(target, results)
    words = [str(target), f"--csv={target / LISTING_NAME}"]
    words += [f"--labels={config.labels}"] if config.labels else []
    command = f"python -m pipeline.convert {shlex.join(words)}"
    return [*_summary(results, target), f"to convert them: {command}"]


def read(
    path: Path,
    names: label_files.Names | None,
    columns: str = "",
    *,
    images: int,
    seed: int,
) -> list[Photo]:
    """Read a list, or a random subset of `images` photos of it; 0 takes all.

    A larger subset of the same seed includes the smaller one. `names` are class names
    for labels that are numbers.
    """
    rows = list(photo_csv.read_rows(path, _COLUMNS, columns))
    if not rows:
        raise DataError(f"{path}: the list has no photos")
    first: dict[str, str] = {}
    for line, row in rows:
        first.setdefault(row["label"], f"{path} line {line}")
    classes = class_labels.resolve(first, names)
    photo_at: dict[str, tuple[Photo, int]] = {}
    for line, row in rows:
        url = row["url"]
        photo = _photo(url, classes.name_of[row["label"]], row["split"])
        earlier, earlier_line = photo_at.setdefault(photo.path, (photo, line))
        if earlier.split != photo.split:
            raise DataError(
                f"{path} line {line}: {http_file.without_password(url)} is in another "
                f"split than in line {earlier_line}. Remove one of the lines"
            )
    photos = [photo for photo, _ in photo_at.values()]
    if 0 < images < len(photos):
        subset = np.random.default_rng(seed).permutation(len(photos))[:images]
        photos = [photos[index] for index in sorted(subset.tolist())]
    return photos


def _photo(url: str, class_name: str, split: str) -> Photo:
    """Place a photo in the folder of its class, under the hash of its address."""
    folder = re.sub("^[.]", "%2E", file_system.file_name(class_name))
    name = hashlib.sha1(url.encode("utf-8", "surrogateescape")).hexdigest()
    path = f"{folder}/{name}.jpg"
    return Photo(url=url, path=path, class_name=class_name, split=split)


def _prepare(target: Path) -> None:
    """Create the folder, unless it has a list of photos of another program."""
    listing = target / LISTING_NAME
    if listing.exists():
        with listing.open("rb") as file:
            head = file.readline(100).strip()
        if head != ",".join(_LISTING_HEADER).encode():
            raise DataError(
                f"{listing}: was not written by this command. Choose another folder"
            )
    target.mkdir(parents=True, exist_ok=True)


def _summary(results: Sequence[tuple[Photo, Outcome]], target: Path) -> list[str]:
    """Return lines that say how many photos are there, and why others are not."""
    failures = (outcome.reason for _, outcome in results if outcome.status == "failed")
    reasons = collections.Counter(failures).most_common()
    there = [photo for photo, outcome in results if outcome.is_there]
    if not there:
        reason, count = reasons[0]
        raise DataError(
            f"{target}: none of {len(results):,} photos could be downloaded. Most "
            f"frequent reason ({count:,} times): {reason}. Check the network, or look "
            f"for the other reasons in {target / REPORT_NAME}"
        )
    new = sum(outcome.status == "fetched" for _, outcome in results)
    num_others = sum(count for _, count in reasons[_SHOWN_REASONS:])
    return [
        f"{target}: {len(there):,} of {len(results):,} photos in "
        f"{len({photo.class_name for photo in there})} classes, {new:,} new",
        *(f"{n:,} not downloaded: {reason}" for reason, n in reasons[:_SHOWN_REASONS]),
        *([f"{num_others:,} not downloaded for other reasons"] if num_others else []),
        f"{LISTING_NAME} lists the photos, {REPORT_NAME} all reasons",
    ]


def _write(target: Path, results: Iterable[tuple[Photo, Outcome]]) -> None:
    """Write the list of the photos that are there, and the report on all."""
    report = [("url", "path", "status", "reason")]
    listing = [_LISTING_HEADER]
    for photo, outcome in results:
        report.append((photo.url, photo.path, outcome.status, outcome.reason))
        if outcome.is_there:
            listing.append((photo.path, photo.class_name, photo.split))
    for name, rows in ((REPORT_NAME, report), (LISTING_NAME, listing)):
        with (
            file_system.replacing(target / name) as partial,
            partial.open("w", encoding="utf-8", errors="surrogateescape") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows(rows)
