"""Work on untrusted files in a child process, which may crash or hang.

A crash or a hang costs the file at hand and nothing else, and the child has limits of
memory and time. It does not protect from a file that takes over the child, which may
do whatever the user may do.

Requests and answers are messages through pipes, the child's standard input and output:
two lengths, an object in JSON, bytes. The child says that it has read a request. Then
come one answer or several, as parent and child agree.
"""

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.system import platform_support
from pipeline.system.errors import DataError

Header = dict[str, Any]  # values that JSON can hold

_LENGTHS = struct.Struct("<IQ")
_READY = b"\0ready for requests\n"  # text printed before is not an answer
_ENDING_S = 1  # for a process that has closed its pipes
_FAILED = 3  # exit code of a child that raises; where there are no timers, 1 is theirs


class NotStarted(DataError):
    """A child process cannot start; no file is to blame."""


class ChildEnded(Exception):
    """The child process ended before it answered."""


class OutOfTime(ChildEnded):
    """A time limit ended the child process."""


class Killed(ChildEnded):
    """SIGKILL ended the child process, as the system does when memory runs out."""


class Child:
    """A child process that answers one request after another.

    It starts when it is needed, and again after it has ended. One thread at a time may
    use it, but any thread may start and close it.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        task: str,
        environment: Mapping[str, str],
        start_timeout_s: float = 60,
    ) -> None:
        """Start nothing yet.

        The function `main` of the module calls `serve`; `arguments` are its
        sys.argv[1:]. `task` is its work, as in "the process to TASK".
        """
        package, _, name = module.rpartition(".")
        program = f"from {package} import {name}; {name}.main()"
        # -P: a module that lies in the working folder is not imported.
        self._command = [sys.executable, "-P", "-c", program, *arguments]
        root = Path(__file__).parents[__name__.count(".")]
        paths = (str(root), os.environ.get("PYTHONPATH"))
        self._environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OPENBLAS_NUM_THREADS": "1",  # each takes memory, and there is no work
            **environment,
        }
        self._task = task
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = self._is_closed = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start a process unless there is one; do not wait until it is ready."""
        with self._lock:
            if self._process is None and not self._is_closed:
                self._is_ready = False
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, **self._environment},
                    # Ctrl-C is the parent's to handle: on Linux and macOS; on Windows.
                    start_new_session=True,
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )

    def wait_until_ready(self) -> None:
        """Start a process unless there is one; return when it waits for requests.

        A process that ends or takes too long before is NotStarted, or ChildEnded if
        `close` was called.
        """
        started_s = time.monotonic()
        try:
            self.start()
            if not self._is_ready:
                self._read_until_ready()
        except (OSError, ChildEnded) as error:
            if self._is_closed:
                raise ChildEnded from error
            is_late = time.monotonic() - started_s >= self._start_timeout_s
            ending = "took too long" if is_late else "failed"
            raise NotStarted(
                f"The start of a process to {self._task} {ending}. Check that this "
                "machine has free memory and try again."
            ) from error
        self._is_ready = True

    def _read_until_ready(self) -> None:
        limit = threading.Timer(self._start_timeout_s, self._end)
        limit.start()
        try:
            with self._messages() as (_, answers):
                while not (line := answers.readline()).endswith(_READY):
                    if not line:
                        raise EOFError
        finally:
            limit.cancel()

    def send(self, request: Header, data: bytes = b"", *, timeout_s: float) -> None:
        """Send a request and its bytes, or raise as `wait_until_ready` does.

        All answers may take `timeout_s`, from when the child has read the request. If
        the child ends before that, another one gets the request.
        """
        for is_last_try in (False, True):
            self.wait_until_ready()
            try:
                with self._messages() as (requests, answers):
                    write_message(requests, {**request, "timeout_s": timeout_s}, data)
                    requests.flush()
                    read_message(answers)
                return
            except ChildEnded:
                if is_last_try:
                    raise

    def receive(self) -> tuple[Header, memoryview]:
        """Wait for the next answer, or raise ChildEnded."""
        with self._messages() as (_, answers):
            return read_message(answers)

    @contextlib.contextmanager
    def _messages(self) -> Iterator[tuple[Any, Any]]:
        """Provide the pipes, and end the child if a message does not get through."""
        process = self._process
        if process is None:
            raise ChildEnded
        try:
            yield process.stdin, process.stdout
        except (OSError, EOFError, ValueError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_ENDING_S)  # or its exit code is that of our kill
            code = self._end()
            if self._is_ready and code in platform_support.OUT_OF_TIME:
                raise OutOfTime from error
            if code == platform_support.KILLED and not self._is_closed:
                raise Killed from error
            raise ChildEnded from error
        except BaseException:  # Ctrl-C: the next answer would be that to this request
            self._end()
            raise

    def _end(self) -> int:
        """Kill the process and return its exit code; 0 if there is no process."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return 0
        with contextlib.suppress(OSError), process:  # which closes the pipes
            process.kill()
        return process.wait()

    def close(self) -> None:
        """End the process for good."""
        self._is_closed = True
        self._end()


def serve(
    answer: Callable[[Header, bytes], Iterable[tuple[Header, bytes | memoryview]]],
) -> None:
    """Answer requests until the parent ends, in the `main` of a child's module."""
    sys.excepthook = lambda *_: os._exit(_FAILED)
    platform_support.lower_limit("RLIMIT_CORE", 0)
    requests: Any = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    answers.write(_READY)
    while True:
        answers.flush()
        # This ends the process, whether or not a parent is left to do so.
        platform_support.end_after(0)
        try:
            request, data = read_message(requests)
        except EOFError:
            return
        write_message(answers, {"has_read": True})
        answers.flush()
        platform_support.end_after(request["timeout_s"])
        for header, content in answer(request, bytes(data)):
            write_message(answers, header, content)


def write_message(
    stream: io.BufferedIOBase, header: Header, data: bytes | memoryview = b""
) -> None:
    """Write a message to a pipe or a file."""
    text = json.dumps(header).encode()
    stream.write(_LENGTHS.pack(len(text), len(data)) + text)
    stream.write(data)


def read_message(stream: io.BufferedIOBase) -> tuple[Header, memoryview]:
    """Read a message from a pipe or a file, or raise EOFError."""
    text_size, data_size = _LENGTHS.unpack(_read(stream, _LENGTHS.size))
    header = json.loads(bytes(_read(stream, text_size)))
    return header, _read(stream, data_size)


def _read(stream: io.BufferedIOBase, size: int) -> memoryview:
    # NumPy asks for huge pages: large data take three quarters of the CPU time.
    data = np.empty(size, np.uint8).data
    if stream.readinto(data) < size:
        raise EOFError
    return data
