"""Download photos from a list of addresses into a folder, several at once.

Lists of addresses are years old: photos are gone, servers too, and some answer with
placeholders and web pages instead. A file is kept if its first bytes are those of an
image and its SHA-1 is not refused.
"""

import collections
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Literal

import requests

from pipeline.images import file_headers
from pipeline.system import command_line, file_system
from pipeline.system.remote import http_file, http_session

_MAX_REDIRECTS = 5
_RETRIES = 2  # when a server is busy
_SNIFFED_BYTES = 64
# A server that could not be reached so many times in a row is not asked again.
_MAX_FAILURES = 3
_CHECKS_EVERY_S = 0.2  # for Ctrl-C

Status = Literal["fetched", "there", "failed", "not tried"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PhotoAddress:
    """A photo to download.

    Attributes:
        url: address of the photo, as the list has it.
        path: path of the file, relative to the target folder; no other photo has it.
    """

    url: str
    path: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """Options of a download.

    Attributes:
        workers: number of photos that are downloaded at once.
        refused: SHA-1 of files to refuse, 40 hex digits each.
        min_bytes: size below which files are refused.
        max_bytes: size above which files are refused.
        timeout_s: time limit for one photo, in seconds.
        backoff_s: scale of the pauses before a busy server is asked again, in seconds.
    """

    workers: int
    refused: frozenset[str]
    min_bytes: int
    max_bytes: int = 64 << 20
    timeout_s: float = 30
    backoff_s: float = 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result for one photo.

    Attributes:
        status: whether the photo was downloaded, now or earlier.
        reason: why the download failed; "" if it did not.
        is_unreachable: whether it failed because its server cannot be reached.
    """

    status: Status
    reason: str = ""
    is_unreachable: bool = False

    @property
    def is_there(self) -> bool:
        """Whether the photo can be used."""
        return self.status in ("fetched", "there")


def download_all(
    photos: Sequence[PhotoAddress],
    target: Path,
    options: DownloadOptions,
    outcomes: dict[int, Outcome],
) -> None:
    """Download the photos that are not there yet.

    Args:
        photos: photos to download.
        target: folder to fill.
        options: options of the download.
        outcomes: receives {index of a photo: its result} as soon as it is known.

    Raises:
        OSError: a photo cannot be written.
    """
    failures: collections.Counter[str] = collections.Counter()  # in a row, by server
    waiting = iter(range(len(photos)))
    running: dict[futures.Future[Outcome], int] = {}
    executor = futures.ThreadPoolExecutor(options.workers)
    session = http_session.open_session(
        retries=_RETRIES, backoff_s=options.backoff_s, connections=options.workers
    )
    session.max_redirects = _MAX_REDIRECTS
    try:
        with session, command_line.progress(len(photos), "photo", "fetch") as bar:
            while len(outcomes) < len(photos):
                free = 2 * options.workers - len(running)
                for index in itertools.islice(waiting, free):
                    photo = photos[index]
                    is_down = failures[_server(photo)] >= _MAX_FAILURES
                    future = executor.submit(
                        _download, photo, target, options, session, is_down
                    )
                    running[future] = index
                done, _ = futures.wait(
                    running, _CHECKS_EVERY_S, return_when=futures.FIRST_COMPLETED
                )
                command_line.check_signals()
                for future in done:
                    index = running.pop(future)
                    outcome = outcomes[index] = future.result()
                    if outcome.is_unreachable:
                        failures[_server(photos[index])] += 1
                    elif outcome.status != "there":
                        failures[_server(photos[index])] = 0
                    bar.update()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _server(photo: PhotoAddress) -> str:
    try:
        return http_file.server_of(photo.url)
    except http_file.DownloadError:
        return ""


def _download(
    photo: PhotoAddress,
    target: Path,
    options: DownloadOptions,
    session: requests.Session,
    is_down: bool,
) -> Outcome:
    """Download a photo, unless it is there or its server is down."""
    path = target / photo.path
    if _is_photo(path, options.min_bytes):
        return Outcome(status="there")
    if is_down:
        reason = f"{_server(photo)} cannot be reached"
        return Outcome(status="failed", reason=reason, is_unreachable=True)
    try:
        data = http_file.download_bytes(
            photo.url,
            session,
            max_bytes=options.max_bytes,
            timeout_s=options.timeout_s,
        )
    except http_file.DownloadError as error:
        return Outcome(
            status="failed",
            reason=error.reason[:200],
            is_unreachable=isinstance(error, http_file.UnreachableError),
        )
    except ValueError as error:  # a host name that cannot be
        return Outcome(status="failed", reason=str(error)[:200])
    if reason := _refusal(data, options):
        return Outcome(status="failed", reason=reason)
    path.parent.mkdir(exist_ok=True)
    with file_system.replacing(path) as partial:
        partial.write_bytes(data)
    return Outcome(status="fetched")


def _refusal(data: bytes, options: DownloadOptions) -> str:
    """Return why a file is not kept; "" if it is."""
    if len(data) < options.min_bytes:
        return f"fewer than {options.min_bytes:,} bytes"
    if not _is_image(data[:_SNIFFED_BYTES]):
        is_page = data.lstrip()[:1] == b"<"
        return "a web page, not an image" if is_page else "not an image"
    if hashlib.sha1(data).hexdigest() in options.refused:
        return "a placeholder (refused SHA-1)"
    return ""


def _is_image(start: bytes) -> bool:
    return file_headers.sniff(start) not in ("unknown", "PDF", "ZIP")


def _is_photo(path: Path, min_bytes: int) -> bool:
    """Return whether an earlier call has downloaded a photo to a path."""
    try:
        with path.open("rb") as file:
            start = file.read(_SNIFFED_BYTES)
            return _is_image(start) and os.fstat(file.fileno()).st_size >= min_bytes
    except OSError:
        return False


def unfinished_outcome(path: Path, options: DownloadOptions) -> Outcome:
    """Return the outcome of a photo that had no turn before the download stopped."""
    is_there = _is_photo(path, options.min_bytes)
    return Outcome(status="there" if is_there else "not tried")
