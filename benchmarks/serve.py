"""How many photos a server answers, and how long each takes.

    python benchmarks/serve.py FOLDER [--run_dir=runs/latest] [--seconds=10]
    python benchmarks/serve.py FOLDER --batching [--run_dir=runs/latest] [--rounds=3]

The server is a process of its own; this one asks, with 1, 4 and 16 connections that
each post the next photo when the last one is answered. On the same cores as the server.

--batching compares, without HTTP, 16 threads whose photos the network takes together
with the same whose photos it takes one by one.
"""

import argparse
import concurrent.futures
import itertools
import sys
import threading
import time
from collections.abc import Callable
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


def batching(options: Any, photos: list[bytes]) -> None:
    """Prints the table of the network's batches."""
    sys.path.insert(0, str(measure.ROOT))
    import pipeline.system.tensorflow_import  # noqa: F401

    # isort: split
    from model.predict import classifier
    from model.serve import prediction_service

    chosen = classifier.load_run(options.run_dir)

    def candidate(together: int) -> Callable[[], float]:
        answering = prediction_service.Service(
            chosen, max_pixels=10**8, decode_timeout_s=60, max_batch=together
        )
        answering.warm_up()

        def run() -> float:
            start = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(16) as threads:
                for _ in threads.map(
                    lambda data: answering.classify(data, explained=False), photos
                ):
                    pass
            return len(photos) / (time.perf_counter() - start)

        return run

    alone = "one by one"
    rates = measure.rounds(
        {alone: candidate(1), "together, at most 4": candidate(4)}, options.rounds
    )
    title = f"{len(photos)} photos of 16 threads, {chosen.name}"
    measure.table(title, measure.rate_rows(rates, alone))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run_dir", default="runs/latest")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--batching", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.run_dir = str(Path(options.run_dir).absolute())
    paths = measure.photo_paths(options.folder)
    photos = [path.read_bytes() for path in paths[:: max(1, len(paths) // 200)]]
    (batching if options.batching else over_http)(options, photos)


if __name__ == "__main__":
    main()
