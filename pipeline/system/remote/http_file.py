"""Download a file over HTTP, to disk with resuming, or into memory.

A file for the disk arrives in `TARGET.part`, which a later call continues. It gets its
name once its size and hash are right.
"""

import functools
import hashlib
import itertools
import re
import time
from pathlib import Path

import requests
import urllib3
from requests import adapters
from urllib3 import exceptions

from pipeline.system import command_line, file_system, platform_support
from pipeline.system.errors import DataError

_CONNECT_TIMEOUT_S = 5.0  # without a network, users learn it within seconds
_READ_TIMEOUT_S = 60.0
_RETRIES = 4
_BYTES_RETRIES = 2  # of one file among thousands
_CHUNK_BYTES = 1 << 16  # a connection that breaks loses the chunk under way
# The connection broke, or nothing arrived on it for too long.
_INTERRUPTIONS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    exceptions.ProtocolError,
)
_NO_CONNECTION = (
    exceptions.NewConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.ProxyError,
)


class DownloadError(DataError):
    """A file cannot be downloaded; `reason` says why, without its address."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{without_password(place)}: {reason}")
        self.reason = reason


class UnreachableError(DownloadError):
    """No connection to the server can be made."""


def open_session(
    *, retries: int, backoff_s: float, connections: int = 1
) -> requests.Session:
    """Open a session that repeats requests which a busy server turns down.

    The pauses between repetitions last 0, 2, 4, ... times `backoff_s`, or what the
    server's Retry-After says, but at most 30 s. `connections` to a server stay open.
    """
    policy = urllib3.Retry(
        total=retries,
        connect=0,
        read=False,
        other=0,
        status_forcelist=(408, 425, 429, 500, 502, 503, 504),
        backoff_factor=backoff_s,
        backoff_max=30,
        retry_after_max=30,
        raise_on_status=False,
    )
    adapter = adapters.HTTPAdapter(max_retries=policy, pool_maxsize=connections)
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def download(
    url: str,
    target: Path,
    *,
    digest: str = "",
    size_bytes: int = 0,
    backoff_s: float = 1,
) -> None:
    """Download a file unless it is there already, or raise DownloadError.

    A digest is an algorithm and a hash, in full or its first digits, such as
    "sha256:7be5be79". An empty digest and a size of 0 are not checked.
    """
    if _is_complete(target, digest, size_bytes):
        return
    _check_address(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    for path in (part, part.with_suffix(".etag")):
        file_system.refuse_link(path)
    text = f"{target}: waiting for another process that downloads it"
    with platform_support.locked(part, functools.partial(command_line.log, text)):
        try:
            if _is_complete(target, digest, size_bytes):  # by another process, by now
                return
            _fill(url, part, size_bytes, backoff_s)
            part.with_suffix(".etag").unlink(missing_ok=True)
            if difference := _difference(part, digest, size_bytes):
                part.unlink()  # nothing to continue with
                raise DownloadError(
                    url,
                    f"{difference}. The file on the server has changed, was damaged on "
                    "the way, or a proxy answered instead",
                )
            part.replace(target)
        finally:
            if not _size(part):
                part.unlink(missing_ok=True)


def _is_complete(target: Path, digest: str, size_bytes: int) -> bool:
    if not target.exists():
        return False
    if difference := _difference(target, digest, size_bytes):
        raise DownloadError(str(target), f"{difference}. Remove the file and run again")
    return True


def _fill(url: str, part: Path, size_bytes: int, backoff_s: float) -> None:
    """Complete the part; continue where the connection broke."""
    size_before = _size(part)
    with open_session(retries=_RETRIES, backoff_s=backoff_s) as session:
        for attempt in itertools.count():
            try:
                _receive(session, url, part, size_bytes)
                return
            except requests.RequestException as error:
                size, reason = _size(part), _describe(error)
                hint = ". The part that arrived is kept; run again" if size else ""
                if isinstance(error, requests.ConnectionError) and size == size_before:
                    reason = f"cannot be reached ({reason}){hint}"
                    raise UnreachableError(url, reason) from error
                if attempt == _RETRIES or not isinstance(error, _INTERRUPTIONS):
                    raise DownloadError(url, reason + hint) from error
            time.sleep(backoff_s * 2**attempt)


def _receive(session: requests.Session, url: str, part: Path, size_bytes: int) -> None:
    """Append to the part what it lacks, if the file on the server is still the same.

    Stops early if more than `size_bytes` arrive, unless that is 0.
    """
    start, headers, validator = _size(part), {}, part.with_suffix(".etag")
    if start and validator.exists():
        headers["Range"] = f"bytes={start}-"
        headers["If-Range"] = validator.read_text(encoding="latin-1")
    timeout = (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)
    with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == 416:  # nothing is missing
            return
        response.raise_for_status()
        if response.status_code != 206:
            start = 0
            mark = response.headers.get("ETag") or response.headers.get("Last-Modified")
            validator.unlink(missing_ok=True)
            if mark and not mark.startswith("W/"):
                validator.write_text(mark, encoding="latin-1")
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        options = {"unit_scale": True, "initial": start}
        bar = command_line.progress(total, "B", part.stem, **options)
        with bar, part.open("ab" if start else "wb") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
                if size_bytes and file.tell() > size_bytes:
                    return


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _difference(path: Path, digest: str, size_bytes: int) -> str:
    """Return how a file differs from what was expected; "" if it does not."""
    size = path.stat().st_size
    if size_bytes and size != size_bytes:
        return f"expected {size_bytes:,} bytes, found {size:,}"
    if digest:
        algorithm, expected = digest.split(":")
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, algorithm).hexdigest()
        if not actual.startswith(expected):
            return f"expected {algorithm} {expected}, found {actual}"
    return ""


def download_bytes(
    url: str, session: requests.Session, *, max_bytes: int, timeout_s: float
) -> bytes:
    """Download a small file into memory, or raise DownloadError.

    Threads may share a session. `timeout_s` limits all attempts together, except while
    a server sends the headers of an answer byte by byte, which requests lets it do.
    """
    _check_address(url)
    deadline = time.monotonic() + timeout_s
    retries = _BYTES_RETRIES
    while True:
        try:
            return _receive_bytes(url, session, max_bytes, timeout_s, deadline)
        except (requests.RequestException, exceptions.HTTPError) as error:
            reason = _describe(error)
            if time.monotonic() >= deadline:
                reason = f"not complete after {timeout_s:g} s"
            elif isinstance(_cause(error), _NO_CONNECTION):
                raise UnreachableError(url, f"cannot be reached ({reason})") from error
            elif retries and isinstance(error, _INTERRUPTIONS):
                retries -= 1
                continue
            raise DownloadError(url, reason) from error


def _receive_bytes(
    url: str, session: requests.Session, max_bytes: int, timeout_s: float, end: float
) -> bytes:
    data = bytearray()
    timeout = (_CONNECT_TIMEOUT_S, timeout_s)
    with session.get(url, stream=True, timeout=timeout) as response:
        response.raise_for_status()
        while True:
            # read1 returns what has arrived: a slow server cannot outlast the deadline.
            chunk = response.raw.read1(_CHUNK_BYTES)
            if time.monotonic() >= end:
                raise requests.Timeout
            if not chunk:
                return bytes(data)
            data += chunk
            if len(data) > max_bytes:
                raise DownloadError(url, f"more than {max_bytes:,} bytes")


def _describe(error: Exception) -> str:
    """Return why a request failed, in a few words."""
    if isinstance(error, requests.TooManyRedirects):
        return "too many redirects"
    if (response := getattr(error, "response", None)) is not None:
        return f"the server answers {response.status_code} {response.reason}"
    cause = _cause(error)
    if isinstance(cause, exceptions.ProxyError):
        return f"the proxy: {_describe(cause.original_error)}"
    text = str(cause.args[-1] if cause.args else cause)
    return re.sub(r"^\w*Connection\w*\(.*?\): ", "", text)  # urllib3 names its object


def _cause(error: Exception) -> Exception:
    """Return the error of urllib3 inside one of requests."""
    inner = error.args[0] if error.args else error
    cause = getattr(inner, "reason", inner)
    return cause if isinstance(cause, Exception) else error


def _check_address(url: str) -> None:
    if not server_of(url):
        raise DownloadError(url, "expected an http or https address")


def server_of(url: str) -> str:
    """Return scheme, host and port of an http or https address; "" of any other."""
    match = re.match(r"\s*(https?://[^/?#]+)", url, re.IGNORECASE)
    return match[1] if match else ""


def without_password(url: str) -> str:
    """Return an address without a user name and password, to show it."""
    return re.sub(r"(?<=//)[^/@]*@", "", url)
