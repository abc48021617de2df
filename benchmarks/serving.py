"""A server in a process of its own, for those benchmarks that ask one."""

import contextlib
import http.client
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import measure


class Running:
    """A server that is ready.

    Attributes:
        netloc: host and port.
        process: of it.
    """

    def __init__(self, netloc: str, process: "subprocess.Popen[str]") -> None:
        """Keeps what is given."""
        self.netloc = netloc
        self.process = process

    def connect(self) -> http.client.HTTPConnection:
        """A connection that stays open."""
        return http.client.HTTPConnection(self.netloc, timeout=120)

    def alive(self) -> bool:
        """Whether the process has not ended and says that it is ready."""
        connection = self.connect()
        connection.request("GET", "/health")
        answer = connection.getresponse()
        return self.process.poll() is None and answer.status == 200


def _pass_on(stream: Iterator[str]) -> None:
    for line in stream:
        sys.stderr.write(f"server: {line}")


@contextlib.contextmanager
def running(*flags: str) -> Iterator[Running]:
    """Starts python -m model.serve with flags; ends it as Ctrl-C does."""
    with subprocess.Popen(
        [sys.executable, "-m", "model.serve", "--port=0", *flags],
        cwd=measure.ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if process.stderr is None:
            raise TypeError("there is a pipe")
        for line in process.stderr:
            if line.startswith("ready: "):
                break
            sys.stderr.write(f"server: {line}")
        else:
            sys.exit("the server did not start")
        threading.Thread(target=_pass_on, args=[process.stderr], daemon=True).start()
        try:
            yield Running(urlsplit(line.split()[1]).netloc, process)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
