"""Bytes of any image file -> bytes of a record, by processes that may crash or hang.

For what is asked photo by photo: predictions, a server. The result is that of
conversion. A file that takes a process down, or too long, is refused; the process is
replaced. multiprocessing would start TensorFlow in each of them, and would unpickle
what they send.
"""

import contextlib
import io
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from pipeline.images import decoder_process, record_image
from pipeline.records.reasons import Code
from pipeline.system.errors import DataError

_ROOT = Path(__file__).parents[2]
_CHILD = "from pipeline.images import decoder_process; decoder_process.main()"
_START_S = 60.0  # for imports, on a machine that has much else to do
_LONGEST_ANSWER = 10_000  # bytes of JSON
_MOST_BYTES = 1 << 30  # of an encoded image
CRASHED = "the decoder crashed on this file"
_CLOSED = "the decoders are closed"


class TooSlow(record_image.ImageError):
    """A file took its decoder longer than allowed."""


class Crashed(record_image.ImageError):
    """A file took its decoder down."""


class NotStarted(DataError):
    """A process for decoding cannot be had; no file is to blame."""


class Decoders:
    """Some processes that decode; may be used by several threads at once."""

    def __init__(
        self,
        count: int,
        *,
        timeout_s: float,
        resize_min: int = record_image.RESIZE_MIN,
        max_pixels: int = record_image.MAX_PIXELS,
    ) -> None:
        """Starts nothing yet: a process starts when it is needed.

        Args:
            count: of processes, at least 1.
            timeout_s: how long one file may take, above 0; the start of a process is
                not of it.
            resize_min: longest short side of a record's image, in pixels; 0: no limit.
                The same as conversion's gives the same pixels.
            max_pixels: larger images are refused before they are decoded.
        """
        self._how = (max_pixels, resize_min, max(1, round(2 * timeout_s)))
        self._timeout_s = timeout_s
        self._children = [_Child(self._how) for _ in range(count)]
        # The last one used comes first: one photo starts one process.
        self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()
        for child in self._children:
            self._idle.put(child)

    def start(self) -> None:
        """Starts all processes now, and waits until they can decode.

        Raises:
            NotStarted: one cannot.
        """
        for child in self._children:
            child.start()
        for child in self._children:
            child.ready()

    def decode(self, data: bytes) -> record_image.RecordImage:
        """Decodes a file, in full.

        Args:
            data: the whole file.

        Raises:
            image.ImageError: it does not decode; Crashed, TooSlow: nor may it be tried.
            NotStarted: there is no process to decode it.
        """
        if not data:
            raise record_image.ImageError(Code.EMPTY, "empty file")
        child = self._idle.get()
        try:
            return child.decode(data, self._timeout_s)
        finally:
            self._idle.put(child)

    def close(self) -> None:
        """Ends the processes; what is under way ends as crashed."""
        for child in self._children:
            child.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that run."""
        running = [child.pid for child in self._children]
        return tuple(pid for pid in running if pid)


@contextlib.contextmanager
def running(count: int, **how: Any) -> Iterator[Decoders]:
    """Decoders that are closed at the end."""
    found = Decoders(count, **how)
    try:
        yield found
    finally:
        found.close()


class _Child:
    """One process, replaced when it has ended."""

    def __init__(self, how: tuple[int, int, int]) -> None:
        self._how = how
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._waiting = threading.Lock()
        self._ready: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._closed:
                raise Crashed(Code.DECODER_CRASHED, _CLOSED)
            if self._process is None:
                self._process = self._new()
            return self._process

    def _new(self) -> "subprocess.Popen[bytes]":
        max_pixels, *_ = self._how
        paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD, *map(str, self._how)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours to handle
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                record_image.MAX_PIXELS_NAME: str(max_pixels),
                "OPENBLAS_NUM_THREADS": "1",
            },
        )

    def ready(self) -> "subprocess.Popen[bytes]":
        """The process, as soon as it waits for files."""
        process = self.start()
        with self._waiting:
            if self._ready is process:
                return process
            alarm = _Alarm(_START_S, process)
            said = b""
            try:
                stdout = cast(io.BufferedReader, process.stdout)
                with contextlib.suppress(OSError, ValueError):  # closed meanwhile
                    said = stdout.read(len(decoder_process.READY))
            except BaseException:  # a signal
                self._end()
                raise
            finally:
                alarm.cancel()
            if said == decoder_process.READY:
                self._ready = process
                return process
        self._end()
        if self._closed:
            raise Crashed(Code.DECODER_CRASHED, _CLOSED)
        why = f"took longer than {_START_S:g} s" if alarm.rang else "ended"
        raise NotStarted(
            f"a process for decoding photos {why} before it was ready; expected it to "
            "start; is there memory to spare?"
        )

    def decode(self, data: bytes, timeout_s: float) -> record_image.RecordImage:
        process = self.ready()
        alarm = _Alarm(timeout_s, process)
        try:
            stdin = cast(io.BufferedWriter, process.stdin)
            stdin.write(len(data).to_bytes(decoder_process.LENGTH_BYTES, "little"))
            stdin.write(data)
            stdin.flush()
            return _receive(cast(io.BufferedReader, process.stdout), data)
        except record_image.ImageError:
            raise
        except (OSError, _Nonsense) as error:
            self._end()
            if alarm.rang:
                raise TooSlow(
                    Code.DECODER_TOO_SLOW,
                    f"takes longer than {timeout_s:g} s to decode",
                ) from error
            raise Crashed(Code.DECODER_CRASHED, CRASHED) from error
        except BaseException:  # a signal between request and answer
            self._end()
            raise
        finally:
            alarm.cancel()

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    cast(Any, stream).close()

    def close(self) -> None:
        self._closed = True
        self._end()


class _Alarm:
    """Kills a process that takes too long; never after `cancel`."""

    def __init__(self, timeout_s: float, process: "subprocess.Popen[bytes]") -> None:
        self.rang = False
        self._process = process
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = threading.Timer(timeout_s, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def _ring(self) -> None:
        with self._lock:
            if self._timer is not None:
                self.rang = True
                self._process.kill()

    def cancel(self) -> None:
        with self._lock:
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


class _Nonsense(Exception):
    """A process sent something else than an answer, or nothing."""


def _receive(stream: io.BufferedReader, data: bytes) -> record_image.RecordImage:
    size = int.from_bytes(_read(stream, decoder_process.ANSWER_BYTES), "little")
    if size > _LONGEST_ANSWER:
        raise _Nonsense("an answer too long")
    try:
        header = json.loads(_read(stream, size))
    except (ValueError, RecursionError) as error:
        raise _Nonsense("no JSON") from error
    if not isinstance(header, dict):
        raise _Nonsense("no object")
    reason = header.get("error")
    if isinstance(reason, str):
        try:
            kind = Code(header.get("kind", ""))
        except ValueError as error:
            raise _Nonsense("an unknown kind of error") from error
        raise record_image.ImageError(kind, reason)
    size = header.pop("size", None)
    if type(size) is not int or not 0 <= size <= _MOST_BYTES:
        raise _Nonsense("an impossible size")
    encoded = _read(stream, size) if size else data
    return _checked(header, encoded)


def _read(stream: io.BufferedReader, size: int) -> bytes:
    found = stream.read(size)
    if len(found) < size:
        raise _Nonsense("the process has ended")
    return found


def _checked(header: dict[str, Any], encoded: bytes) -> record_image.RecordImage:
    """Raises _Nonsense: the fields are not those of an image."""
    sizes = [header.get(name) for name in ("height", "width", "orientation")]
    texts = [header.get(name) for name in ("action", "reason", "phash", "format")]
    if not all(type(n) is int and 0 < n < 1 << 31 for n in sizes) or not all(
        isinstance(text, str) for text in texts
    ):
        raise _Nonsense("fields of other kinds")
    if header["format"] not in ("jpeg", "png"):
        raise _Nonsense("another format")
    codes = header.get("codes")
    if not isinstance(codes, list) or not all(isinstance(c, str) for c in codes):
        raise _Nonsense("codes of another kind")
    header["codes"] = tuple(codes)
    try:
        return record_image.RecordImage(encoded=encoded, **header)
    except TypeError as error:
        raise _Nonsense("other fields") from error
