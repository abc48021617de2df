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
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Literal

from pipeline.download.download_settings import Config
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

    def receive(url: str) -> bytes:
        return http_file.download_bytes(
            url, session, max_bytes=max_bytes, timeout_s=timeout_s
        )

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
