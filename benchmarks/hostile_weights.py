"""What becomes of damaged weight files: named errors, and nothing else.

    python benchmarks/hostile_weights.py FILE... [--mutations=1000] [--seed=0]

Of every file (or folder of a TensorFlow checkpoint) so many damaged copies are made:
bits, bytes and 4- or 8-byte numbers changed in one to eight places, or the end cut off.
Half of the places are anywhere; half lie where the file has text or zeros, which is
where lengths, offsets and headers are. Beside them: random bytes after the first 4 to
64 bytes of each file. Every copy is read as `model.inspect` reads it, and matched with
all networks, in a process that is watched. Its memory includes some 590 MB of
TensorFlow and Keras; HDF5 is read in processes of their own, with limits.
"""

import argparse
import collections
import json
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import measure
import numpy as np

TIMEOUT_S = 30
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)


def structure(data: bytes) -> np.ndarray:
    """Places in 16-byte blocks of much text or many zeros."""
    blocks = np.frombuffer(data, np.uint8, len(data) // 16 * 16).reshape(-1, 16)
    text = ((blocks >= 32) & (blocks < 127)).sum(axis=1)
    zeros = (blocks == 0).sum(axis=1)
    chosen = np.flatnonzero((text >= 9) | ((zeros >= 6) & (zeros < 16)))
    places = (chosen[:, None] * 16 + np.arange(16)).ravel()
    ends = np.r_[: min(512, len(data)), max(0, len(data) - 512) : len(data)]
    return np.unique(np.r_[places, ends])


def damaged(data: bytes, places: np.ndarray, chosen: random.Random) -> bytes:
    """A copy with some damage."""
    found = bytearray(data)
    for _ in range(chosen.choice((1, 1, 1, 2, 4, 8))):
        aimed = chosen.random() < 0.5
        place = chosen.choice(places) if aimed else chosen.randrange(len(found))
        kind = chosen.randrange(4)
        if kind == 0:
            found[place] ^= 1 << chosen.randrange(8)
        elif kind == 1:
            found[place] = chosen.choice((*EXTREMES, chosen.randrange(256)))
        else:
            size = 4 if kind == 2 else 8
            low = found[place : place + size]
            number = int.from_bytes(low, "little")
            number = chosen.choice((0, number + 1, number - 1, 2 * number, -1, 1 << 40))
            new = (number % (1 << 8 * size)).to_bytes(size, "little")
            found[place : place + len(low)] = new[: len(low)]
    if chosen.random() < 0.1:
        del found[chosen.randrange(len(found)) :]
    return bytes(found)


def copies(path: Path, scratch: Path, number: int, seed: int) -> Iterator[Path]:
    """Writes one damaged copy after the other, at the same place."""
    chosen = random.Random(seed)
    folder = path if path.is_dir() else None
    # Of a checkpoint, its index and numbers; the rest is not read.
    files = (
        sorted(p for p in folder.iterdir() if ".meta" not in p.name) if folder else []
    )
    target = scratch / path.name
    sources = {file: file.read_bytes() for file in files or [path]}
    places = {file: structure(data) for file, data in sources.items()}
    for count in range(number):
        if folder:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            for file, data in sources.items():
                (target / file.name).write_bytes(data)
        file = chosen.choice(list(sources))
        data = sources[file]
        if count % 10 == 9:
            start = data[: chosen.randrange(4, 64)]
            data = start + chosen.randbytes(chosen.randrange(200_000))
        else:
            data = damaged(data, places[file], chosen)
        (target / file.name if folder else target).write_bytes(data)
        yield target


def serve() -> None:
    """Reads files named on stdin; says on stdout what became of each."""
    sys.path.insert(0, str(measure.ROOT))
    from model import inspect
    from model.checkpoints import errors, reading

    def inspected(path: Path) -> str:
        try:
            checkpoint = reading.read(path)
        except errors.UnknownFormat:  # a mean image is no weights
            if not (other := inspect.report_other(path)):
                raise
            return other
        inspect.report(path, checkpoint)
        return inspect.report_fittings(checkpoint)

    for line in sys.stdin:
        path = Path(json.loads(line))
        Path("/proc/self/clear_refs").write_text("5")
        start = time.perf_counter()
        try:
            outcome = "read" if inspected(path) else "read, silent"
        except errors.CheckpointError as error:
            outcome = type(error).__name__
            if len(str(error).splitlines()) != 1 or not str(error).isprintable():
                outcome += " of several lines"
        except Exception as error:  # what this looks for
            outcome = f"UNNAMED {type(error).__name__}: {str(error)[:150]}"
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
        answer = {
            "outcome": outcome,
            "seconds": time.perf_counter() - start,
            "megabytes": int(peak) / 1024,
        }
        print(json.dumps(answer), flush=True)


class Reader:
    """The process that reads; started anew when it dies or hangs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, path: Path) -> dict[str, float | str]:
        """What became of a file."""
        process = self._process or subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._process = process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("no pipes")
        process.stdin.write(json.dumps(str(path)) + "\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ready = selector.select(TIMEOUT_S)
        line = process.stdout.readline() if ready else ""
        if line:
            return dict(json.loads(line))
        process.kill()
        self._process = None
        what = f"CRASH {process.wait()}" if ready else "HANG"
        return {"outcome": what, "seconds": TIMEOUT_S, "megabytes": 0.0}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help="folder for files that go wrong")
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    rows = [["file", "copies", "what became of them", "longest, s", "memory, MB"]]
    reader = Reader()
    with tempfile.TemporaryDirectory() as scratch:
        for path in options.files:
            outcomes: collections.Counter[str] = collections.Counter()
            longest = highest = 0.0
            for copy in copies(path, Path(scratch), options.mutations, options.seed):
                answer = reader.read(copy)
                outcome = str(answer["outcome"])
                bad = not (outcome == "read" or outcome.isalpha())
                if bad and options.keep:
                    name = f"{sum(outcomes.values())}-{copy.name}"
                    options.keep.mkdir(exist_ok=True)
                    (shutil.copytree if copy.is_dir() else shutil.copy)(
                        copy, options.keep / name
                    )
                outcomes[outcome] += 1
                longest = max(longest, float(answer["seconds"]))
                highest = max(highest, float(answer["megabytes"]))
            became = ", ".join(f"{n} {name}" for name, n in outcomes.most_common())
            count = str(sum(outcomes.values()))
            rows.append([path.name, count, became, f"{longest:.2f}", f"{highest:.0f}"])
            print(rows[-1], file=sys.stderr)
    measure.table("Damaged weight files", rows)


if __name__ == "__main__":
    main()
