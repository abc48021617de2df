"""A server as a user starts it, for tests."""

import contextlib
import os
import signal
import subprocess
import sys
from urllib.parse import urlsplit

from tests import conftest


class Server:
    """A running server: its address and its process."""

    def __init__(self, url, process):
        self.url = url
        self.netloc = urlsplit(url).netloc
        self.process = process

    def stop(self, number=signal.SIGINT):
        """Ends it; returns the exit code and what it has said."""
        self.process.send_signal(number)
        said = self.process.communicate(timeout=30)[1]
        return self.process.returncode, said


@contextlib.contextmanager
def running(run_dir, *flags, cwd=conftest.ROOT):
    """Starts python -m model.serve and waits until it is ready."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "model.serve", f"--run_dir={run_dir}", "--port=0"),
            *flags,
        ],
        cwd=cwd,
        env=dict(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("ready: "):
                break
        else:
            raise AssertionError("".join(said))
        yield Server(line.split()[1], process)
    finally:
        if process.poll() is None:
            process.kill()
        process.stderr.close()
        process.wait()
