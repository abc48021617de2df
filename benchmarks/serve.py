"""How many photos a server answers, and how long each takes.

    python benchmarks/serve.py FOLDER [--run_dir=runs/latest] [--seconds=10]

The server is a process of its own; this one asks, with 1, 4 and 16 connections that
each post the next photo when the last one is answered. On the same cores as the server.
"""

import argparse
import concurrent.futures
import itertools
import sys
import threading
import time
from pathlib import Path
from typing import Any

import measure
import serving

CLIENTS = (1, 4, 16)


def ask(server: serving.Running, path: str, photos: Any, until: float) -> list[float]:
    """One client: seconds that each of its photos took."""
    connection = server.connect()
    taken = []
    while time.perf_counter() < until:
        start = time.perf_counter()
        connection.request("POST", path, body=next(photos))
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            sys.exit(f"{answer.status}: {body!r}")
        taken.append(time.perf_counter() - start)
    connection.close()
    return taken


class Endless:
    """Photos over and over, for several threads."""

    def __init__(self, photos: list[bytes]) -> None:
        """Keeps them."""
        self._photos = itertools.cycle(photos)
        self._lock = threading.Lock()

    def __next__(self) -> bytes:
        """The next one."""
        with self._lock:
            return next(self._photos)


def over_http(options: Any, photos: list[bytes]) -> None:
    """Prints the table of requests."""
    rows = [["", "clients", "photos/s", "p50 ms", "p99 ms"]]
    with serving.running(f"--run_dir={options.run_dir}") as server:
        for path, what in (("/predict", "classes"), ("/predict?explain=1", "page")):
            for clients in CLIENTS:
                endless = Endless(photos)
                ask(server, path, endless, time.perf_counter() + 1)
                start = time.perf_counter()
                until = start + options.seconds
                with concurrent.futures.ThreadPoolExecutor(clients) as threads:
                    each = [
                        threads.submit(ask, server, path, endless, until)
                        for _ in range(clients)
                    ]
                    taken = sorted(itertools.chain(*(one.result() for one in each)))
                elapsed = time.perf_counter() - start
                middle, last = taken[len(taken) // 2], taken[int(0.99 * len(taken))]
                rows.append(
                    [
                        what,
                        str(clients),
                        f"{len(taken) / elapsed:.1f}",
                        f"{1000 * middle:.0f}",
                        f"{1000 * last:.0f}",
                    ]
                )
    measure.table(f"Requests of {len(photos)} photos, {options.run_dir}", rows)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run_dir", default="runs/latest")
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    options.run_dir = str(Path(options.run_dir).absolute())
    paths = measure.photo_paths(options.folder)
    photos = [path.read_bytes() for path in paths[:: max(1, len(paths) // 200)]]
    over_http(options, photos)


if __name__ == "__main__":
    main()
