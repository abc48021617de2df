"""Read damaged weight files, and check that each gives a named error or a result.

    python benchmarks/hostile_weights.py FILE... [--mutations=1000] [--seed=0]

Makes damaged copies of each FILE (or folder of a TensorFlow checkpoint). Nine of ten
have bits, bytes or numbers of 4 or 8 bytes changed in one to eight places, or the end
cut off. Half of the places are random; the other half lie where the file has text or
zeros, because lengths, offsets and headers are there. Every tenth copy is random bytes
after the first 4 to 64 bytes of the file.

Each copy is read and matched with all networks, as model.inspect does, in a process
with a time limit. Its memory includes some 590 MB of TensorFlow and Keras. Graft reads
HDF5 in further processes, which have limits of their own.
"""

import collections
import json
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import numpy as np

TIMEOUT_S = 30
EXTREME_BYTES = (0, 1, 0x7F, 0x80, 0xFF)


def header_places(data: bytes) -> np.ndarray:
    """Return the indices of bytes in both ends and in blocks of text or zeros."""
    blocks = np.frombuffer(data, np.uint8, len(data) // 16 * 16).reshape(-1, 16)
    num_text = ((blocks >= 32) & (blocks < 127)).sum(axis=1)
    num_zeros = (blocks == 0).sum(axis=1)
    selected = np.flatnonzero((num_text >= 9) | ((num_zeros >= 6) & (num_zeros < 16)))
    places = (selected[:, None] * 16 + np.arange(16)).ravel()
    ends = np.r_[: min(512, len(data)), max(0, len(data) - 512) : len(data)]
    return np.unique(np.r_[places, ends])


def damage(data: bytes, places: np.ndarray, rng: random.Random) -> bytes:
    """Return a copy of `data` with random changes, half of them in `places`."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        in_header = rng.random() < 0.5
        place = rng.choice(places) if in_header else rng.randrange(len(damaged))
        kind = rng.randrange(4)
        if kind == 0:
            damaged[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            damaged[place] = rng.choice((*EXTREME_BYTES, rng.randrange(256)))
        else:
            size = 4 if kind == 2 else 8
            old = damaged[place : place + size]
            number = int.from_bytes(old, "little")
            number = rng.choice((0, number + 1, number - 1, 2 * number, -1, 1 << 40))
            new = (number % (1 << 8 * size)).to_bytes(size, "little")
            damaged[place : place + len(old)] = new[: len(old)]
    if rng.random() < 0.1:
        del damaged[rng.randrange(len(damaged)) :]
    return bytes(damaged)


def write_copies(path: Path, scratch: Path, count: int, seed: int) -> Iterator[Path]:
    """Write one damaged copy after the other, all to the same path."""
    rng = random.Random(seed)
    is_folder = path.is_dir()
    files = sorted(path.iterdir()) if is_folder else [path]
    # The graph of a TensorFlow checkpoint (.meta) is not read.
    contents = {
        f: f.read_bytes() for f in files if not (is_folder and ".meta" in f.name)
    }
    places = {file: header_places(data) for file, data in contents.items()}
    target = scratch / path.name
    for number in range(count):
        if is_folder:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            for file, data in contents.items():
                (target / file.name).write_bytes(data)
        file = rng.choice(list(contents))
        data = contents[file]
        if number % 10 == 9:
            start = data[: rng.randrange(4, 64)]
            data = start + rng.randbytes(rng.randrange(200_000))
        else:
            data = damage(data, places[file], rng)
        (target / file.name if is_folder else target).write_bytes(data)
        yield target


def read_from_stdin() -> None:
    """Read each file named on stdin; print result, seconds and memory as JSON."""
    from model import inspect
    from model.checkpoints import errors, reading

    def inspect_file(path: Path) -> str:
        try:
            checkpoint = reading.read(path)
        except errors.UnknownFormat:  # a mean image or a text file holds no weights
            if not (text := inspect.report_mean(path)):
                raise
            return text
        inspect.report(path, checkpoint)
        return inspect.report_fittings(checkpoint)

    for line in sys.stdin:
        path = Path(json.loads(line))
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak of the memory
        start = time.perf_counter()
        try:
            result = "read" if inspect_file(path) else "read, NO OUTPUT"
        except errors.CheckpointError as error:
            result = type(error).__name__
            if len(str(error).splitlines()) != 1 or not str(error).isprintable():
                result += ", SEVERAL LINES"
        except Exception as error:  # this benchmark looks for such errors
            result = f"UNNAMED {type(error).__name__}: {str(error)[:150]}"
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
        outcome = {
            "result": result,
            "seconds": time.perf_counter() - start,
            "megabytes": int(peak) / 1024,
        }
        print(json.dumps(outcome), flush=True)


class Reader:
    """Reads files in another process, which is replaced when it crashes or hangs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, path: Path) -> dict[str, Any]:
        """Return result, seconds and megabytes of reading a file."""
        process = self._process = self._process or measure.start_python(
            __file__,
            "--read_from_stdin",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(json.dumps(str(path)), file=process.stdin, flush=True)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            has_output = selector.select(TIMEOUT_S)
        line = process.stdout.readline() if has_output else ""
        if line:
            return json.loads(line)
        process.kill()
        self._process = None
        result = f"CRASH {process.wait()}" if has_output else "HANG"
        return {"result": result, "seconds": TIMEOUT_S, "megabytes": 0.0}


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, photos=False)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument(
        "--mutations", type=int, default=1000, help="damaged copies per file (1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage")
    parser.add_argument(
        "--keep", type=Path, help="folder for copies that fail the check"
    )
    parser.add_argument("--read_from_stdin", action="store_true", help=SUPPRESS)
    options = parser.parse_args()
    if options.read_from_stdin:
        read_from_stdin()
        return
    rows = [["file", "copies", "results", "longest, s", "peak memory, MB"]]
    reader = Reader()
    with tempfile.TemporaryDirectory() as scratch:
        for path in options.files:
            results: collections.Counter[str] = collections.Counter()
            longest_s = peak = 0.0
            copies = write_copies(path, Path(scratch), options.mutations, options.seed)
            for copy in copies:
                outcome = reader.read(copy)
                result = outcome["result"]
                is_good = result.isalpha() and result != "HANG"  # "read" or an error
                if not is_good and options.keep:
                    options.keep.mkdir(exist_ok=True)
                    (shutil.copytree if copy.is_dir() else shutil.copy)(
                        copy, options.keep / f"{results.total()}-{copy.name}"
                    )
                results[result] += 1
                longest_s = max(longest_s, outcome["seconds"])
                peak = max(peak, outcome["megabytes"])
            counts = ", ".join(f"{n} {result}" for result, n in results.most_common())
            figures = (f"{longest_s:.2f}", f"{peak:.0f}")
            rows.append([path.name, str(results.total()), counts, *figures])
            print(rows[-1], file=sys.stderr)
    measure.print_table("Damaged weight files", rows)


if __name__ == "__main__":
    main()
