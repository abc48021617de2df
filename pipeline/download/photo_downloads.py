"""Addresses of photos -> files in a folder, by threads, each an image or not there.

Lists of addresses are years old: photos are gone, servers too, and some answer with
placeholders and web pages instead. What is kept is an image by its first bytes, and
none of those refused.
"""

import collections
import contextlib
import dataclasses
import hashlib
import os
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import requests

from pipeline.images import file_headers
from pipeline.system import command_line, file_system, http_file

_MAX_PHOTO_BYTES = 64 << 20
_MAX_REDIRECTS = 5
_SNIFFED_BYTES = 64
# A server that could not be reached so often in a row is not asked again.
_HOST_TRIES = 3
# Nobody of so many servers can be reached: it is the network.
_OFFLINE_HOSTS = 16
# A photo that takes so many times its timeout is given up, and its thread left alone: a
# server that trickles its headers keeps it. What ends in order takes less.
_GIVEN_UP_AFTER = 4

Status = Literal["fetched", "there", "failed", "not tried"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A photo to be had.

    Attributes:
        url: its address, as somebody wrote it.
        path: where it shall lie, relative to the target; no other photo has it.
    """

    url: str
    path: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """How photos are fetched.

    Attributes:
        workers: photos under way at once.
        refused: SHA-1 of files that are no photos, 40 hex digits.
        min_bytes: smaller files are refused.
        timeout_s: for one photo.
        patience_s: pause before the first retry, doubled each time.
    """

    workers: int
    refused: frozenset[str]
    min_bytes: int
    timeout_s: float = 30
    patience_s: float = 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a photo, and why, if it failed."""

    status: Status
    reason: str = ""

    @property
    def is_there(self) -> bool:
        """Whether the photo can be used."""
        return self.status in ("fetched", "there")


class _Hosts:
    """Which servers can be reached, as threads find out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: collections.Counter[str] = collections.Counter()
        self._answers: set[str] = set()

    def is_down(self, host: str) -> bool:
        """Whether it is no use to ask."""
        return self._failures[host] >= _HOST_TRIES

    def note(self, host: str, *, reached: bool) -> None:
        """Takes down what became of a request."""
        with self._lock:
            if reached:
                self._answers.add(host)
                self._failures[host] = 0
            else:
                self._failures[host] += 1

    def is_offline(self, num_hosts: int, num_photos: int) -> bool:
        """Whether so many have failed, and none has answered, that none will."""
        with self._lock:
            return (
                not self._answers
                and len(self._failures) >= min(num_hosts, _OFFLINE_HOSTS)
                and self._failures.total() >= min(num_photos, _HOST_TRIES)
            )


def fetch_all(
    photos: Sequence[Wanted], target: Path, how: How, outcomes: dict[int, Outcome]
) -> None:
    """Fetches photos that are not there yet, from threads that end with the process.

    Args:
        photos: to be had.
        target: folder to fill.
        how: to fetch.
        outcomes: gets what became of each, by its number, as soon as it is known.

    Raises:
        fetch.Unreachable: no server answers.
        OSError: a photo cannot be written.
    """
    hosts = _Hosts()
    crew = _Crew(photos, target, how, hosts)
    num_hosts = len({_host(photo.url) for photo in photos} - {""})
    try:
        with command_line.progress(len(photos), "photo", "fetch") as progress:
            while len(outcomes) < len(photos):
                try:
                    number, outcome = crew.finished.get(timeout=0.2)
                except queue.Empty:
                    command_line.check_signals()
                    crew.replace_late()
                    continue
                if isinstance(outcome, Exception):
                    raise outcome
                if number in outcomes:  # given up
                    continue
                outcomes[number] = outcome
                if num_hosts and hosts.is_offline(num_hosts, len(photos)):
                    raise http_file.Unreachable(
                        f"{_host(photos[number].url)}: {outcome.reason}; no server of "
                        "the list answers: check the network and run again; what is "
                        "there is kept"
                    )
                progress.update()
    finally:
        crew.stop.set()


def _host(url: str) -> str:
    try:
        return http_file.host_of(url)
    except http_file.FetchError:
        return ""


class _Crew:
    """Threads that fetch photos; who is kept too long by one is replaced.

    Attributes:
        finished: number of a photo, and what became of it; of one that was given up,
            perhaps twice.
        stop: ends them all.
    """

    def __init__(
        self, photos: Sequence[Wanted], target: Path, how: How, hosts: _Hosts
    ) -> None:
        """Begins."""
        self.finished: queue.SimpleQueue[tuple[int, Outcome | Exception]] = (
            queue.SimpleQueue()
        )
        self.stop = threading.Event()
        self._photos, self._target, self._how, self._hosts = photos, target, how, hosts
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(photos)):
            self._waiting.put(number)
        self._started: dict[int, float] = {}
        self._given_up: set[int] = set()
        for _ in range(min(how.workers, len(photos))):
            self._start()

    def _start(self) -> None:
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        with requests.Session() as session, contextlib.suppress(queue.Empty):
            session.max_redirects = _MAX_REDIRECTS
            get = _Get(
                session=session, how=self._how, hosts=self._hosts, stop=self.stop
            )
            while not self.stop.is_set():
                number = self._waiting.get_nowait()
                self._started[number] = time.monotonic()
                try:
                    outcome = get.photo(self._photos[number], self._target)
                    self.finished.put((number, outcome))
                except Exception as error:  # raised again where it is noticed
                    self.finished.put((number, error))
                del self._started[number]
                if number in self._given_up:
                    return

    def replace_late(self) -> None:
        """Gives up photos that take far too long."""
        limit_s = _GIVEN_UP_AFTER * self._how.timeout_s
        late = time.monotonic() - limit_s
        for number, start in list(self._started.items()):
            if start < late and number not in self._given_up:
                self._given_up.add(number)
                self._hosts.note(_host(self._photos[number].url), reached=False)
                reason = f"not complete after {limit_s:g} s"
                self.finished.put((number, Outcome(status="failed", reason=reason)))
                self._start()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Get:
    """What a thread needs to fetch photos."""

    session: requests.Session
    how: How
    hosts: _Hosts
    stop: threading.Event

    def photo(self, photo: Wanted, target: Path) -> Outcome:
        """Fetches a photo, unless it is there.

        Raises:
            OSError: it cannot be written.
        """
        path = target / photo.path
        if _is_photo(path, self.how):
            return Outcome(status="there")
        try:
            data = self._bytes(photo.url)
        except ValueError as error:  # FetchError, and addresses that are none
            reason = str(error).removeprefix(f"{http_file.shown(photo.url)}: ")
            return Outcome(status="failed", reason=reason[:200])
        if reason := _refusal(data, self.how):
            return Outcome(status="failed", reason=reason)
        path.parent.mkdir(exist_ok=True)
        with file_system.replacing(path) as partial:
            partial.write_bytes(data)
        return Outcome(status="fetched")

    def _bytes(self, url: str) -> bytes:
        host = http_file.host_of(url)
        if self.hosts.is_down(host):
            raise http_file.Unreachable(f"{host} cannot be reached")
        try:
            data = http_file.fetch_small(
                url,
                self.session,
                max_bytes=_MAX_PHOTO_BYTES,
                timeout_s=self.how.timeout_s,
                patience_s=self.how.patience_s,
                pause=self.stop.wait,
            )
        except ValueError as error:
            reached = not isinstance(error, http_file.Unreachable)
            self.hosts.note(host, reached=reached)
            raise
        self.hosts.note(host, reached=True)
        return data


def _refusal(data: bytes, how: How) -> str:
    """Why a file is not kept; "" if it is."""
    if len(data) < how.min_bytes:
        return f"fewer than {how.min_bytes:,} bytes"
    if not _is_image(data[:_SNIFFED_BYTES]):
        page = data.lstrip()[:1] == b"<"
        return "a web page, no image" if page else "no image"
    if hashlib.sha1(data).hexdigest() in how.refused:
        return "a placeholder (refused SHA-1)"
    return ""


def _is_image(start: bytes) -> bool:
    return file_headers.sniff(start) not in ("unknown", "PDF", "ZIP")


def _is_photo(path: Path, how: How) -> bool:
    """Whether a photo lies there that an earlier call has fetched."""
    try:
        with path.open("rb") as file:
            start = file.read(_SNIFFED_BYTES)
            return _is_image(start) and os.fstat(file.fileno()).st_size >= how.min_bytes
    except OSError:
        return False


def as_found(path: Path, how: How) -> Outcome:
    """The outcome for a photo that was not looked at before something stopped us."""
    return Outcome(status="there" if _is_photo(path, how) else "not tried")
