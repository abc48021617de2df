"""Post every file of a folder to a server, 8 at a time, and check that it survives.

    python benchmarks/hostile_uploads.py FOLDER [--run_dir=runs/latest] [--clients=8]

FOLDER holds files of any kind, for example the test images of image libraries. The
server must classify each file or refuse it with a 4xx status and a reason in JSON, and
it must still run at the end. Otherwise the exit code is 1.
"""

import collections
import concurrent.futures
import json
import sys
import time
from pathlib import Path

import measure
import serving


def post(server: serving.Server, path: Path) -> tuple[int, str, float]:
    """Post a file; return the status, "classified" or the error, and the seconds."""
    start = time.perf_counter()
    connection = server.connect()
    connection.request("POST", "/predict?explain=1", body=path.read_bytes())
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    result = "classified" if response.status == 200 else str(content["error"])
    return response.status, result, time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, photos=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of files")
    parser.add_argument("--run_dir", default="runs/latest", help="run to serve")
    parser.add_argument("--clients", type=int, default=8, help="parallel uploads (8)")
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.is_file())
    start = time.perf_counter()
    with serving.serve_run(options.run_dir) as server:
        with concurrent.futures.ThreadPoolExecutor(options.clients) as threads:
            responses = list(threads.map(lambda path: post(server, path), paths))
        is_running = server.is_running()
    elapsed_s = time.perf_counter() - start
    results: dict[int, collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    for status, result, _ in responses:
        results[status][result[:60]] += 1
    rows = [["status", "files", "most frequent results"]]
    for status, counts in sorted(results.items()):
        most_frequent = [f"{count} {text}" for text, count in counts.most_common(4)]
        rows.append([str(status), str(counts.total()), "; ".join(most_frequent)])
    slowest_s = max(seconds for _, _, seconds in responses)
    measure.print_table(
        f"{len(paths)} files posted by {options.clients} clients in {elapsed_s:.0f} s, "
        f"slowest {slowest_s:.1f} s; "
        f"the server {'is running' if is_running else 'has DIED'}",
        rows,
    )
    if not is_running or any(not 200 <= status < 500 for status in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
