"""Servers for tests: a process as a user starts it, and a thread of this process."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from urllib.parse import urlsplit

from tests.support import files


class Server:
    """A running server: its address and its process."""

    def __init__(self, url, process):
        self.url = url
        self.netloc = urlsplit(url).netloc
        self.process = process

    def stop(self, number=signal.SIGINT):
        """Stop it; return its exit code and its log after the first lines."""
        self.process.send_signal(number)
        log = self.process.communicate(timeout=30)[1]
        return self.process.returncode, log


@contextlib.contextmanager
def in_thread(application, timeout_s):
    """Serve an application in a thread; yield the port."""
    from model.serve import serve_settings, web_server

    loop = asyncio.new_event_loop()
    stopped = asyncio.Event()
    config = serve_settings.Config(port=0, upload_timeout_s=timeout_s, max_requests=1)
    with web_server.listen(config) as listening:
        started = threading.Event()

        async def serve():
            server = web_server.start(application, listening, config)
            started.set()
            await stopped.wait()
            server.stop()
            await server.close_all_connections()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        assert started.wait(30)
        yield listening.getsockname()[1]
        loop.call_soon_threadsafe(stopped.set)
        thread.join(30)
        assert not thread.is_alive()
        loop.close()


@contextlib.contextmanager
def running(
    run_dir,
    *flags,
    cwd=files.ROOT,
    command=(sys.executable, "-m", "model.serve"),
    environment=None,
):
    """Start the server and wait until it is ready."""
    process = subprocess.Popen(
        [*command, f"--run_dir={run_dir}", "--port=0", *flags],
        cwd=cwd,
        env=dict(environment or os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = []
        for line in process.stderr:
            log.append(line)
            if line.startswith("ready: "):
                break
        else:
            raise AssertionError("".join(log))
        yield Server(line.split()[1], process)
    finally:
        if process.poll() is None:
            process.kill()
        process.stderr.close()
        process.wait()
