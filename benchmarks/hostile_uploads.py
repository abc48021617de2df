"""What becomes of a server that all files of a folder are posted to, 8 at a time.

    python benchmarks/hostile_uploads.py FOLDER [--run_dir=runs/latest] [--clients=8]

Any file will do; those of image libraries' own tests are meant. Each must be answered,
or refused with a status of 4xx and a reason in JSON; and the server must live on.
"""

import argparse
import collections
import concurrent.futures
import json
import sys
import time
from pathlib import Path

import measure
import serving


def post(server: serving.Running, path: Path) -> tuple[int, str, float]:
    """Status, the beginning of the reason, and seconds."""
    start = time.perf_counter()
    connection = server.connect()
    connection.request("POST", "/predict?explain=1", body=path.read_bytes())
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    reason = "answered" if answer.status == 200 else str(found["error"])
    return answer.status, reason, time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run_dir", default="runs/latest")
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.is_file())
    run_dir = Path(options.run_dir).absolute()
    start = time.perf_counter()
    with serving.running(f"--run_dir={run_dir}") as server:
        with concurrent.futures.ThreadPoolExecutor(options.clients) as threads:
            found = list(threads.map(lambda path: post(server, path), paths))
        alive = server.alive()
    by_status = collections.Counter(status for status, _, _ in found)
    reasons: dict[int, collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    for status, reason, _ in found:
        reasons[status][reason[:60]] += 1
    rows = [["status", "files", "reasons, the most frequent first"]]
    for status, count in sorted(by_status.items()):
        most = [f"{n} {what}" for what, n in reasons[status].most_common(4)]
        rows.append([str(status), str(count), "; ".join(most)])
    slowest = max(seconds for _, _, seconds in found)
    measure.table(
        f"{len(paths)} files posted {options.clients} at a time in "
        f"{time.perf_counter() - start:.0f} s, the slowest {slowest:.1f} s; "
        f"the server {'lives' if alive else 'is dead'}",
        rows,
    )
    if not alive or any(not 200 <= status < 500 for status in by_status):
        sys.exit(1)


if __name__ == "__main__":
    main()
