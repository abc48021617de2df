"""Check that killed conversions into a bucket, when repeated, give the same bytes.

    python benchmarks/bucket_kills.py [FOLDER] [--kills=20] [--photos=300] [--seed=0]

A server of S3's protocol (moto, of tests/requirements.txt) runs in a process of its
own. Two kinds of conversion from that store into it are killed and then repeated: into
an empty folder, and over records of half of the photos. Half of the kills come at any
moment until all files are in place, half from the first file that has arrived in the
bucket until then. Half of the repetitions run as on another machine, without the cache
of the one before. All files in the bucket's folder are compared with those of a
conversion that was not killed.
"""

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import measure

from tests.support import stores

_SERVER = """
import sys, time
from tests.support import stores
with stores.serve_s3(int(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(1e6)
"""
_PORT = 5987


class Conversion:
    """A conversion from one folder of the store into another."""

    def __init__(self, bucket: str, source: str, before: str) -> None:
        """Remember the folders; `before` has records to begin with, or is empty."""
        self._out, self._before, self._caches = f"{bucket}/out", before, 0
        self._words = ("-m", "pipeline.convert", source, f"--out={self._out}")
        self._words += ("--shard_mb=1",)  # many files, so that their arrival takes time
        self._scratch = tempfile.TemporaryDirectory()
        self.new_cache()

    def new_cache(self) -> None:
        """Continue as on a machine that has copied nothing yet."""
        self._caches += 1
        os.environ["XDG_CACHE_HOME"] = f"{self._scratch.name}/{self._caches}"

    def prepare(self) -> None:
        """Remove the output, or replace it by the records before."""
        store = stores.store("s3")
        for name in store.find(self._out):
            store.rm_file(name)
        if self._before:
            for name, content in stores.content(self._before).items():
                store.pipe_file(f"{self._out}/{name}", content)

    def run(self) -> tuple[float, float]:
        """Convert; return the seconds until files arrive, and until all have."""
        seen: list[float] = []
        ended = threading.Event()

        def watch() -> None:
            while not ended.is_set():
                if self._has_begun():
                    seen.append(time.perf_counter())
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        start = time.perf_counter()
        watcher.start()
        subprocess.run(
            [sys.executable, *self._words],
            cwd=measure.ROOT,
            check=True,
            capture_output=True,
        )
        ended.set()
        watcher.join()
        seen = seen or [time.perf_counter()]
        return seen[0] - start, seen[-1] - start

    def _has_begun(self) -> bool:
        """Return whether files have arrived in the bucket, and are not in place yet."""
        return bool(stores.store("s3").find(f"{self._out}/.partial"))

    def kill(self, after_s: float, *, waits: bool) -> None:
        """Start the conversion and kill it; `waits` counts from the first file."""
        process = measure.start_python(*self._words, start_new_session=True)
        while waits and process.poll() is None and not self._has_begun():
            time.sleep(0.05)
        time.sleep(after_s)
        measure.kill(process)

    def content(self) -> dict[str, bytes]:
        """Return the files of the output."""
        return stores.content(self._out)


def main() -> None:
    """Print how many outputs are the same."""
    parser = measure.argument_parser(__doc__)
    parser.add_argument("--kills", type=int, default=20, help="kills in all (20)")
    parser.add_argument("--photos", type=int, default=300, help="photos (300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{_PORT}",
        "AWS_ACCESS_KEY_ID": "anybody",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_DEFAULT_REGION": "us-east-1",
        "OMP_NUM_THREADS": "1",
    }
    words = [sys.executable, "-c", _SERVER, str(_PORT)]
    server = subprocess.Popen(words, cwd=measure.ROOT, stdout=subprocess.PIPE)
    try:
        if server.stdout:
            server.stdout.readline()  # when it is ready
        report(options.folder, options.kills, options.photos, options.seed)
    finally:
        server.kill()


def upload(folder: Path, bucket: str, count: int) -> None:
    """Copy photos to whole/, and every other one of a class to half/."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    for path in classes:
        photos = sorted(path.iterdir())[: count // len(classes)]
        for number, photo in enumerate(photos):
            for name in ("whole", "half")[: 1 + (number % 2 == 0)]:
                address = f"{bucket}/{name}/{path.name}/{photo.name}"
                stores.store("s3").pipe_file(address, photo.read_bytes())


def report(folder: Path, num_kills: int, num_photos: int, seed: int) -> None:
    """Kill conversions and print the table."""
    moments = random.Random(seed)
    bucket = stores.new_bucket("s3")
    upload(folder, bucket, num_photos)
    records = Conversion(f"{bucket}/records", f"{bucket}/half", "")
    records.run()
    rows = [
        [
            "conversion into a bucket",
            "kills",
            "all in place after, s",
            "files arrive after, s",
            "left as before",
            "left in between",
            "complete when killed",
            "same bytes",
        ]
    ]
    for name, before in (
        ("new records", ""),
        ("over records of half the photos", f"{bucket}/records/out"),
    ):
        conversion = Conversion(f"{bucket}/{len(rows)}", f"{bucket}/whole", before)
        conversion.prepare()
        at_first = conversion.content()
        arrival, seconds = conversion.run()
        expected = conversion.content()
        states = {"before": 0, "between": 0, "complete": 0, "same": 0}
        for number in range(num_kills // 2):
            conversion.prepare()
            conversion.new_cache()
            waits = number % 2 == 1
            longest = seconds - arrival if waits else seconds
            conversion.kill(moments.uniform(0, longest), waits=waits)
            left = conversion.content()
            states["complete"] += left == expected
            states["before"] += left == at_first
            states["between"] += left not in (expected, at_first)
            if number % 4 < 2:
                conversion.new_cache()
            conversion.run()
            states["same"] += conversion.content() == expected
        figures = [num_kills // 2, f"{seconds:.1f}", f"{arrival:.1f}", *states.values()]
        rows.append([name, *map(str, figures)])
    measure.print_table("Killed conversions into a bucket", rows)


if __name__ == "__main__":
    main()
