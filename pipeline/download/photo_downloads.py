"""Download photos from a list of addresses into a folder, several at once.

Lists of addresses are years old: photos are gone, servers too, and some answer with
placeholders and web pages instead. A file is kept if its first bytes are those of an
image and its SHA-1 is not refused.
"""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Literal

import requests

from pipeline.images import file_headers
from pipeline.system import command_line, file_system
from pipeline.system.remote import http_file

_MAX_REDIRECTS = 5
_RETRIES = 2  # when a server is busy
_SNIFFED_BYTES = 64
# A server that could not be reached so many times in a row is not asked again.
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

    @property
    def server(self) -> str:
        """Scheme, host and port of the address."""
        return http_file.server_of(self.url)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """Options of a download."""

    workers: int  # photos that are downloaded at once
    refused: frozenset[str]  # SHA-1 of files to refuse, 40 hex digits each
    min_bytes: int
    max_bytes: int = 64 << 20
    timeout_s: float = 30  # of one photo
    backoff_s: float = 1  # scale of the pauses before a busy server is asked again


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


def download_all(
    photos: Sequence[Photo], target: Path, options: DownloadOptions
) -> Iterator[tuple[str, Outcome]]:
    """Download photos; yield path and outcome of each when known."""
    failures: collections.Counter[str] = collections.Counter()  # in a row, by server
    waiting = iter(photos)
    running: dict[futures.Future[Outcome], Photo] = {}
    executor = futures.ThreadPoolExecutor(options.workers)
    session = http_file.open_session(
        retries=_RETRIES, backoff_s=options.backoff_s, connections=options.workers
    )
    session.max_redirects = _MAX_REDIRECTS
    try:
        with session, command_line.progress(len(photos), "photo", "fetch") as bar:
            while True:
                free = 2 * options.workers - len(running)
                for photo in itertools.islice(waiting, free):
                    is_down = failures[photo.server] >= _MAX_FAILURES
                    task = (photo, target, options, session, is_down)
                    running[executor.submit(_download, *task)] = photo
                if not running:
                    return
                done, _ = futures.wait(running, _POLL_S, futures.FIRST_COMPLETED)
                command_line.check_signals()
                for future in done:
                    photo, outcome = running.pop(future), future.result()
                    server = photo.server
                    failures[server] = (failures[server] + 1) * outcome.is_unreachable
                    yield photo.path, outcome
                    bar.update()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _download(
    photo: Photo,
    target: Path,
    options: DownloadOptions,
    session: requests.Session,
    is_down: bool,
) -> Outcome:
    if is_down:
        reason = f"{photo.server} cannot be reached"
        return Outcome(status="failed", reason=reason, is_unreachable=True)
    try:
        data = http_file.download_bytes(
            photo.url, session, max_bytes=options.max_bytes, timeout_s=options.timeout_s
        )
    except ValueError as error:  # DownloadError, or a host name that cannot be
        is_unreachable = isinstance(error, http_file.UnreachableError)
        reason = getattr(error, "reason", str(error))[:200]
        return Outcome(status="failed", reason=reason, is_unreachable=is_unreachable)
    if reason := _refusal(data, options):
        return Outcome(status="failed", reason=reason)
    path = target / photo.path
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


def earlier_outcome(path: Path, options: DownloadOptions) -> Outcome:
    """Return whether an earlier call has downloaded a photo to a path."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes >= options.min_bytes and _is_image(file.read(_SNIFFED_BYTES)):
            return Outcome(status="there")
    return Outcome(status="not tried")
