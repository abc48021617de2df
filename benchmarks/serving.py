"""Run model.serve in a process of its own, for serve.py and hostile_uploads.py."""

import contextlib
import dataclasses
import http.client
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import measure


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that accepts requests.

    Attributes:
        netloc: Host and port.
        process: Process of the server.
    """

    netloc: str
    process: subprocess.Popen[str]

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that can be used for several requests."""
        return http.client.HTTPConnection(self.netloc, timeout=120)

    def is_running(self) -> bool:
        """Return whether the process still runs and reports that it is healthy."""
        connection = self.connect()
        connection.request("GET", "/health")
        response = connection.getresponse()
        return self.process.poll() is None and response.status == 200


def _forward(stream: Iterable[str]) -> None:
    for line in stream:
        sys.stderr.write(f"server: {line}")


@contextlib.contextmanager
def serve_run(run_dir: str) -> Iterator[Server]:
    """Start model.serve with a run; stop it as Ctrl-C does."""
    words = ("--port=0", f"--run_dir={Path(run_dir).absolute()}")
    with measure.start_python(
        "-m", "model.serve", *words, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr or ():
            if line.startswith("ready: "):
                break
            _forward([line])
        else:
            sys.exit("the server did not start")
        threading.Thread(target=_forward, args=[process.stderr], daemon=True).start()
        try:
            yield Server(urlsplit(line.split()[1]).netloc, process)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
