"""Work on untrusted files in a child process, which may crash or hang.

A crash or a hang costs only the current file, and the child has limits of memory and
time. This is no protection against a file that takes control of the child, because the
child has all rights of the user.

Requests and answers are messages through the child's standard input and output: two
lengths, a JSON object, bytes. The child confirms that it has read a request, and then
sends one answer or several, as parent and child agree.
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
_READY = b"\0ready for requests\n"  # ends what libraries print during the start
_ENDING_S = 1  # wait for the exit code of a process that has closed its pipes
_FAILED = 3  # exit code of a child that raises; 1 would be OUT_OF_TIME on Windows


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
        """Store the command of the process, which starts later.

        The function `main` of the module calls `serve`, and finds `arguments` in
        sys.argv[1:]. `task` completes the message "the start of a process to TASK".
        """
        package, _, name = module.rpartition(".")
        program = f"from {package} import {name}; {name}.main()"
        # -P: a module that lies in the working folder is not imported.
        self._command = [sys.executable, "-P", "-c", program, *arguments]
        root = Path(__file__).parents[__name__.count(".")]
        paths = (str(root), os.environ.get("PYTHONPATH"))
        self._environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OPENBLAS_NUM_THREADS": "1",  # each thread takes memory and none has work
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
                    # The parent alone gets Ctrl-C: on Linux and macOS, and on Windows.
                    start_new_session=True,
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )

    def wait_until_ready(self) -> None:
        """Start a process unless there is one; return when it waits for requests.

        Raises NotStarted if it ends before or takes too long, and ChildEnded if `close`
        was called meanwhile.
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

        The child has `timeout_s` for all answers, from the moment when it has read the
        request. If it ends before that moment, another child gets the request.
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
        """Yield the child's input and output; end the child if using them fails."""
        process = self._process
        if process is None:
            raise ChildEnded
        try:
            yield process.stdin, process.stdout
        except (OSError, EOFError, ValueError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_ENDING_S)  # else `_end` would set the exit code
            code = self._end()
            if self._is_ready and code in platform_support.OUT_OF_TIME:
                raise OutOfTime from error
            if code == platform_support.KILLED and not self._is_closed:
                raise Killed from error
            raise ChildEnded from error
        except BaseException:  # Ctrl-C: the answer would be taken for the next one's
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
    """Answer requests until the parent ends; `main` of a child's module calls this."""
    sys.excepthook = lambda *_: os._exit(_FAILED)
    platform_support.lower_limit("RLIMIT_CORE", 0)
    requests: Any = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    answers.write(_READY)
    while True:
        answers.flush()
        platform_support.end_after(0)
        try:
            request, data = read_message(requests)
        except EOFError:
            return
        write_message(answers, {"has_read": True})
        answers.flush()
        # The process ends in time, even if no parent is left to end it.
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
    # NumPy asks for huge pages, which saves a quarter of the CPU time with large data.
    data = np.empty(size, np.uint8).data
    if stream.readinto(data) < size:
        raise EOFError
    return data
