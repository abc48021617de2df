"""Measure how many photos a server classifies per second, and the latency.

    python benchmarks/serve.py [FOLDER] [--run_dir=runs/latest] [--seconds=10]

The server runs in a process of its own. This process opens 1, 4 and 16 connections, on
the same cores, each of which posts its next photo when the previous one is classified.
"""

import concurrent.futures
import itertools
import sys
import threading
import time

import measure
import serving

CLIENTS = (1, 4, 16)


class PhotoCycle:
    """Photos repeated without end, shared by several threads."""

    def __init__(self, photos: list[bytes]) -> None:
        self._photos = itertools.cycle(photos)
        self._lock = threading.Lock()

    def __next__(self) -> bytes:
        """Return the next photo."""
        with self._lock:
            return next(self._photos)


def post_until(
    server: serving.Server, path: str, photos: PhotoCycle, end: float
) -> list[float]:
    """Post photos over one connection until `end`; return the seconds of each."""
    connection = server.connect()
    latencies = []
    while time.perf_counter() < end:
        start = time.perf_counter()
        connection.request("POST", path, body=next(photos))
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            sys.exit(f"status {response.status}: {body!r}")
        latencies.append(time.perf_counter() - start)
    connection.close()
    return latencies


def measure_requests(
    server: serving.Server, path: str, photos: PhotoCycle, clients: int, seconds: float
) -> tuple[float, float, float]:
    """Return photos per second, and median and 99th percentile of the latency in ms."""
    post_until(server, path, photos, time.perf_counter() + 1)  # warm-up
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as threads:
        jobs = [
            threads.submit(post_until, server, path, photos, start + seconds)
            for _ in range(clients)
        ]
        latencies = sorted(itertools.chain(*(job.result() for job in jobs)))
    elapsed_s = time.perf_counter() - start
    median, p99 = latencies[len(latencies) // 2], latencies[int(0.99 * len(latencies))]
    return len(latencies) / elapsed_s, 1000 * median, 1000 * p99


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__)
    parser.add_argument("--run_dir", default="runs/latest", help="run to serve")
    parser.add_argument(
        "--seconds", type=float, default=10, help="duration of each measurement (10)"
    )
    options = parser.parse_args()
    paths = measure.list_photos(options.folder)
    photos = [path.read_bytes() for path in paths[:: max(1, len(paths) // 200)]]
    rows = [["request", "clients", "photos/s", "p50 ms", "p99 ms"]]
    with serving.serve_run(options.run_dir) as server:
        for path in ("/predict", "/predict?explain=1"):
            for clients in CLIENTS:
                rate, median, p99 = measure_requests(
                    server, path, PhotoCycle(photos), clients, options.seconds
                )
                figures = (f"{rate:.1f}", f"{median:.0f}", f"{p99:.0f}")
                rows.append([path, str(clients), *figures])
    measure.print_table(f"Requests of {len(photos)} photos, {options.run_dir}", rows)


if __name__ == "__main__":
    main()
