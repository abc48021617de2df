"""Download the photos of a CSV list of addresses into class folders.

`photos.csv` in the folder lists the photos there, ready for pipeline.convert.
`report.csv` lists all photos of the list, with the reason if one is missing.

Source: caffe/examples/finetune_flickr_style/assemble_data.py: columns image_url, label
and _split; the hash of Flickr's placeholder; a subset drawn by a seed.

Lists of addresses are years old: photos are gone, servers too, and some answer with
placeholders and web pages instead. A file is kept if its first bytes are those of an
image and its SHA-1 is not refused.
"""

import collections
import contextlib
import csv
import dataclasses
import functools
import hashlib
import itertools
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.download.download_settings import Config
from pipeline.images import file_headers
from pipeline.sources.lists import label_files, photo_csv
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError
from pipeline.system.remote import http_file

# Role of a column -> titles that it may have.
_COLUMNS = {"url": ("image_url", "url"), "label": ("label",)}
LISTING_NAME = "photos.csv"
REPORT_NAME = "report.csv"
_SHOWN_REASONS = 10
_LISTING_HEADER = ("path", "label", "split")
_MAX_REDIRECTS = 5
_RETRIES = 2  # when a server is busy
_SNIFFED_BYTES = 64
# A server that could not be reached this many times in a row is not asked again.
_MAX_FAILURES = 3
_POLL_S = 0.2  # for Ctrl-C

Status = Literal["fetched", "there", "failed", "not tried"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """A photo of a list."""

    url: str
    path: str  # relative to the target folder; no other photo has it
    class_name: str
    split: str  # one of manifest.SPLITS; "" for none


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result for one photo."""

    status: Status
    reason: str = ""  # why the download failed
    is_unreachable: bool = False  # whether its server could not be reached

    @property
    def is_there(self) -> bool:
        """Whether the photo can be used."""
        return self.status in ("fetched", "there")


def download(config: Config) -> list[str]:
    """Download the photos of a list, and return lines that sum up the result.

    photos.csv and report.csv are written even if the download is stopped.
    """
    photos, target = read(config), Path(config.target)
    _prepare(target)
    on_disk = functools.partial(outcome_on_disk, config)
    missing = [photo for photo in photos if not on_disk(photo).is_there]
    outcomes: dict[str, Outcome] = {}
    try:
        with command_line.graceful():
            outcomes.update(download_all(missing, config))
    finally:
        results = [(p, outcomes.get(p.path) or on_disk(p)) for p in photos]
        _write(target, results)
    words = [str(target), f"--csv={target / LISTING_NAME}"]
    words += [f"--labels={config.labels}"] if config.labels else []
    command = f"python -m pipeline.convert {shlex.join(words)}"
    return [*_summary(results, target), f"to convert them: {command}"]


def read(config: Config) -> list[Photo]:
    """Read a list, or a random subset, which a larger one of the same seed includes."""
    path, images = Path(config.urls), config.images
    names = label_files.read(Path(config.labels)) if config.labels else None
    rows = list(photo_csv.read_rows(path, _COLUMNS, config.columns))
    if not rows:
        raise DataError(f"{path}: the list has no photos")
    first: dict[str, str] = {}
    for line, row in rows:
        first.setdefault(row["label"], f"{path} line {line}")
    classes = label_files.resolve(first, names)
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
        subset = np.random.default_rng(config.seed).permutation(len(photos))[:images]
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


def download_all(
    photos: Sequence[Photo],
    config: Config,
    *,
    max_bytes: int = 64 << 20,
    timeout_s: float = 30,
    backoff_s: float = 1,
) -> Iterator[tuple[str, Outcome]]:
    """Download photos; yield path and outcome of each when known.

    `max_bytes` and `timeout_s` limit one photo. The pauses before a busy server is
    asked again are proportional to `backoff_s`.
    """
    failures: collections.Counter[str] = collections.Counter()  # in a row, by server
    waiting = iter(photos)
    running: dict[futures.Future[Outcome], Photo] = {}
    executor = futures.ThreadPoolExecutor(config.workers)
    session = http_file.open_session(
        retries=_RETRIES, backoff_s=backoff_s, connections=config.workers
    )
    session.max_redirects = _MAX_REDIRECTS
    limits: dict[str, Any] = {"max_bytes": max_bytes, "timeout_s": timeout_s}
    receive = functools.partial(http_file.download_bytes, session=session, **limits)
    try:
        with session, command_line.progress(len(photos), "photo", "fetch") as bar:
            while True:
                free = 2 * config.workers - len(running)
                for photo in itertools.islice(waiting, free):
                    is_down = failures[http_file.server_of(photo.url)] >= _MAX_FAILURES
                    task = executor.submit(_download, photo, config, receive, is_down)
                    running[task] = photo
                if not running:
                    return
                done, _ = futures.wait(running, _POLL_S, futures.FIRST_COMPLETED)
                command_line.check_signals()
                for future in done:
                    photo, outcome = running.pop(future), future.result()
                    server = http_file.server_of(photo.url)
                    failures[server] = (failures[server] + 1) * outcome.is_unreachable
                    yield photo.path, outcome
                    bar.update()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _download(
    photo: Photo, config: Config, receive: Callable[[str], bytes], is_down: bool
) -> Outcome:
    if is_down:
        reason = f"{http_file.server_of(photo.url)} cannot be reached"
        return Outcome(status="failed", reason=reason, is_unreachable=True)
    try:
        data = receive(photo.url)
    except ValueError as error:  # DownloadError, or an impossible host name
        is_unreachable = isinstance(error, http_file.UnreachableError)
        reason = getattr(error, "reason", str(error))[:200]
        return Outcome(status="failed", reason=reason, is_unreachable=is_unreachable)
    if reason := _refusal(data, config):
        return Outcome(status="failed", reason=reason)
    path = Path(config.target) / photo.path
    path.parent.mkdir(exist_ok=True)
    with file_system.replacing(path) as partial:
        partial.write_bytes(data)
    return Outcome(status="fetched")


def _refusal(data: bytes, config: Config) -> str:
    """Return why a file is not kept; "" if it is."""
    if len(data) < config.min_bytes:
        return f"fewer than {config.min_bytes:,} bytes"
    if not _is_image(data[:_SNIFFED_BYTES]):
        is_page = data.lstrip()[:1] == b"<"
        return "a web page, not an image" if is_page else "not an image"
    if hashlib.sha1(data).hexdigest() in config.refused_digests:
        return "a placeholder (refused SHA-1)"
    return ""


def _is_image(start: bytes) -> bool:
    return file_headers.sniff(start) not in ("unknown", "PDF", "ZIP")


def outcome_on_disk(config: Config, photo: Photo) -> Outcome:
    """Return "there" if a photo lies in the target folder, otherwise "not tried"."""
    path = Path(config.target) / photo.path
    with contextlib.suppress(OSError), path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes >= config.min_bytes and _is_image(file.read(_SNIFFED_BYTES)):
            return Outcome(status="there")
    return Outcome(status="not tried")
