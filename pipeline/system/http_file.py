"""A URL -> a verified file, or a few bytes: retried, complete or not there.

A large file arrives in `TARGET.part`, with progress, which a later call goes on with;
it gets its name only once its size and hash are right.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import requests
import urllib3

from pipeline.system import command_line
from pipeline.system.errors import DataError

CONNECT_TIMEOUT_S = 5.0  # offline must be told in seconds
READ_TIMEOUT_S = 60.0
_RETRIES = 4
_SMALL_RETRIES = 2  # of one file among thousands
_MAX_PAUSE_S = 30
_CHUNK_BYTES = 1 << 16  # a cut connection loses the chunk that was under way
_RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}


T = TypeVar("T")


class FetchError(DataError):
    """A file could not be had; says which, why, and what to do."""


class Unreachable(FetchError):
    """The server could not be reached at all."""


def fetch(
    url: str,
    target: Path,
    *,
    digest: str = "",
    size_bytes: int = 0,
    patience_s: float = 1,
) -> None:
    """Downloads a file, unless it is there already.

    Args:
        url: http or https.
        target: where it shall lie.
        digest: algorithm and expected hash, in full or its first hex digits, as
            "sha256:7be5be79"; "" if unknown.
        size_bytes: expected size; 0 if unknown.
        patience_s: pause before the first retry, doubled each time.

    Raises:
        Unreachable: no connection within `CONNECT_TIMEOUT_S`.
        FetchError: the server refuses, cuts off again and again, or sends another file
            than expected; or `target` is there and is not the file.
        OSError: the file cannot be written.
    """
    if _is_there(target, digest, size_bytes):
        return
    host_of(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _alone(part):
        if not _is_there(target, digest, size_bytes):  # another process was faster
            _download(url, part, size_bytes, patience_s)
            _finish(url, part, target, digest, size_bytes)


def _is_there(target: Path, digest: str, size_bytes: int) -> bool:
    if not target.exists():
        return False
    if wrong := _difference(target, digest, size_bytes):
        raise FetchError(f"{target}: {wrong}; remove it and run again")
    return True


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Keeps other processes from writing into the same part; they wait."""
    while True:
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Who held it may have renamed or removed it: then the lock is on nothing.
            held = os.fstat(file.fileno())
            if not part.exists() or not os.path.samestat(held, part.stat()):
                continue
            try:
                yield
            finally:
                if part.exists() and not _size(part):
                    part.unlink()
            return


def _download(url: str, part: Path, size_bytes: int, patience_s: float) -> None:
    """Fills the part, trying again where that may help."""
    before = _size(part)

    def is_hopeless(error: Exception) -> bool:
        return isinstance(error, requests.ConnectionError) and _size(part) == before

    try:
        _patiently(
            url,
            lambda: _receive(url, part, size_bytes),
            is_hopeless,
            retries=_RETRIES,
            patience_s=patience_s,
        )
    except FetchError as error:
        kept = "; what has arrived is kept, run again" if _size(part) else ""
        raise type(error)(f"{error}{kept}") from error


def _patiently(
    url: str,
    receive: Callable[[], T],
    is_hopeless: Callable[[Exception], bool],
    *,
    retries: int,
    patience_s: float,
    pause: Callable[[float], object] = time.sleep,
) -> T:
    """Calls `receive` until it succeeds or there is no use.

    Raises:
        Unreachable: `is_hopeless` says so of the error.
        FetchError: any other failure that remains.
    """
    attempt = 0
    while True:
        try:
            return receive()
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if is_hopeless(error):
                raise Unreachable(
                    f"{shown(url)}: cannot be reached ({why(error)})"
                ) from error
            if attempt == retries or not _worth_retrying(error):
                raise FetchError(f"{shown(url)}: {why(error)}") from error
            pause(max(patience_s * 2**attempt, _asked_pause_s(error)))
            attempt += 1


def _asked_pause_s(error: Exception) -> float:
    """How long the server wants to be left alone, as far as we heed it."""
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return min(int(asked), _MAX_PAUSE_S) if re.fullmatch("[0-9]{1,9}", asked) else 0


def host_of(url: str) -> str:
    """Scheme, host and port of an address.

    Raises:
        FetchError: not an http or https address.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.netloc:
            return f"{parts.scheme}://{parts.netloc}"
    except ValueError:  # brackets that are no IPv6
        pass
    raise FetchError(f"{shown(url)}: expected an http or https address")


def fetch_small(
    url: str,
    session: requests.Session,
    *,
    max_bytes: int,
    timeout_s: float,
    patience_s: float,
    pause: Callable[[float], object],
) -> bytes:
    """Downloads a small file.

    Args:
        url: http or https.
        session: of this thread; says how many redirects are followed.
        max_bytes: a larger file is refused.
        timeout_s: for all attempts together, and for the server to answer once.
        patience_s: pause before the first retry, doubled each time.
        pause: waits for so many seconds.

    Raises:
        Unreachable: no connection within `CONNECT_TIMEOUT_S`.
        FetchError: the server refuses, cuts off, takes too long or sends too much.
    """
    host_of(url)
    deadline = time.monotonic() + timeout_s
    return _patiently(
        url,
        lambda: _receive_small(url, session, max_bytes, timeout_s, deadline),
        _is_without_connection,
        retries=_SMALL_RETRIES,
        patience_s=patience_s,
        pause=pause,
    )


def _receive_small(
    url: str, session: requests.Session, max_bytes: int, timeout_s: float, end: float
) -> bytes:
    found = bytearray()
    late = FetchError(f"{shown(url)}: not complete after {timeout_s:g} s")

    def check_time(response: requests.Response | None = None, **_: object) -> None:
        is_late = time.monotonic() > end
        # What comes with a redirect may never end, and requests would read it.
        if response is not None and (is_late or response.is_redirect):
            response.close()
        if is_late:
            raise late

    check_time()
    with session.get(
        url,
        headers={"Accept-Encoding": "identity"},
        stream=True,
        timeout=(CONNECT_TIMEOUT_S, timeout_s),
        hooks={"response": check_time},
    ) as response:
        response.raise_for_status()
        # read1 gives what has arrived: a server that trickles cannot keep us.
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            found += chunk
            if len(found) > max_bytes:
                raise FetchError(f"{shown(url)}: more than {max_bytes:,} bytes")
            check_time()
    return bytes(found)


def _is_without_connection(error: Exception) -> bool:
    inner = error.args[0] if error.args else error
    return isinstance(
        getattr(inner, "reason", inner),
        urllib3.exceptions.NewConnectionError
        | urllib3.exceptions.ConnectTimeoutError
        | urllib3.exceptions.ProxyError,
    )


def _finish(url: str, part: Path, target: Path, digest: str, size_bytes: int) -> None:
    """Gives the part its name, or removes it if it is not what was expected."""
    wrong = _difference(part, digest, size_bytes)
    if wrong:
        part.unlink()  # a wrong file is nothing to go on with
    else:
        part.replace(target)
    _validator_path(part).unlink(missing_ok=True)
    if wrong:
        raise FetchError(
            f"{shown(url)}: {wrong}; the file there is another one, was damaged on the "
            "way, or a proxy answered instead"
        )


def _receive(url: str, part: Path, size_bytes: int) -> None:
    """Appends to `part` what it lacks, if the server's file is still the same.

    Stops early when more comes than the expected size, if that is not 0.
    """
    start = _size(part)
    headers = {"Accept-Encoding": "identity"}
    validator = _validator_path(part)
    if start and validator.exists():
        headers["Range"] = f"bytes={start}-"
        headers["If-Range"] = validator.read_text(encoding="latin-1")
    with requests.get(
        url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    ) as response:
        if response.status_code == 416:  # nothing is missing
            return
        response.raise_for_status()
        if response.status_code != 206:
            start = 0
            mark = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if mark and not mark.startswith("W/"):
                validator.write_text(mark, encoding="latin-1")
            else:
                validator.unlink(missing_ok=True)
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        bar = command_line.progress(total, "B", part.stem, scale=True, initial=start)
        with bar, part.open("ab" if start else "wb") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
                if size_bytes and file.tell() > size_bytes:
                    return
    if total is not None and part.stat().st_size < total:
        raise requests.ConnectionError(
            f"cut off after {part.stat().st_size:,} of {total:,} bytes"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _validator_path(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _worth_retrying(error: Exception) -> bool:
    if isinstance(error, ValueError):  # the address is none
        return False
    response = getattr(error, "response", None)
    return response is None or response.status_code in _RETRY_STATUS


def why(error: Exception) -> str:
    """The reason of a failed request, in few words."""
    if isinstance(error, requests.TooManyRedirects):
        return "too many redirects"
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    inner = error.args[0] if error.args else error
    reason = getattr(inner, "reason", inner)
    if isinstance(reason, urllib3.exceptions.ProxyError):
        return f"the proxy: {_last_words(reason.original_error)}"
    return _last_words(reason)


def _last_words(reason: object) -> str:
    text = str(reason)
    if (
        " object at 0x" in text or "Connection(" in text
    ):  # urllib3: "HTTPConnection(...): the reason"
        return text.split(": ", 1)[-1]
    return text


def shown(url: str) -> str:
    """An address as a message may show it: without a name and password in it."""
    return re.sub(r"(?<=//)[^/@]*@", "", url)


def _difference(path: Path, digest: str, size_bytes: int) -> str:
    """What is wrong with a file; "" if nothing is."""
    size = path.stat().st_size
    if size_bytes and size != size_bytes:
        return f"{size:,} bytes, expected {size_bytes:,}"
    if digest:
        algorithm, expected = digest.split(":")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if not found.startswith(expected):
            return f"{algorithm} is {found}, expected {expected}"
    return ""
