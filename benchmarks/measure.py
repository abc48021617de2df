"""Share command lines, timing, memory and tables among the benchmarks.

Other programs can slow a machine down for minutes. Each round therefore runs every
candidate once, and ratios are computed within a round. Tables show medians over rounds.
Importing this module makes Graft's own modules importable.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def argument_parser(
    doc: str | None, *, photos: bool = True, rounds: int = 0
) -> argparse.ArgumentParser:
    """Return a parser whose help shows a benchmark's docstring.

    Args:
        doc: Docstring of the benchmark.
        photos: Whether the benchmark has an argument for a folder of photos.
        rounds: Default of --rounds; 0 for a benchmark without that flag.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if photos:
        parser.add_argument(
            "folder",
            nargs="?",
            default="demo/flowers",
            type=lambda path: Path(path).absolute(),
            metavar="FOLDER",
            help="folder with a subfolder of JPEG files per class (demo/flowers)",
        )
    if rounds:
        text = f"number of measured rounds ({rounds})"
        parser.add_argument("--rounds", type=int, default=rounds, help=text)
    return parser


def run_rounds(
    candidates: Mapping[str, Callable[[], float]], count: int
) -> dict[str, list[float]]:
    """Run all candidates in turn, `count` times, after a warm-up round.

    Args:
        candidates: {name: function that returns a rate or a duration}.
        count: Number of measured rounds.

    Returns:
        {name: one figure per measured round}.
    """
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(count + 1):
        for name, measure_once in candidates.items():
            figure = measure_once()
            if round_number:
                figures[name].append(figure)
    return figures


def per_second(work: Callable[[], int]) -> Callable[[], float]:
    """Turn a function that returns its number of images into images per second."""

    def rate() -> float:
        start = time.perf_counter()
        count = work()
        return count / (time.perf_counter() - start)

    return rate


def median_ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median over all rounds of value / reference."""
    return statistics.median(a / b for a, b in zip(values, reference, strict=True))


def print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a title, the machine and a table, whose first row is the header."""
    print(f"\n{title}\n{describe_machine()}\n")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def rate_rows(rates: Mapping[str, Sequence[float]], reference: str) -> list[list[str]]:
    """Return table rows: median, lowest and highest rate, and ratio to `reference`."""
    ratio_to = f"ratio to {reference.partition(':')[0]}"
    rows = [["", "images/s", "lowest", "highest", ratio_to]]
    for name, values in rates.items():
        figures = (statistics.median(values), min(values), max(values))
        ratio = f"{median_ratio(values, rates[reference]):.2f}"
        rows.append([name, *(f"{figure:,.0f}" for figure in figures), ratio])
    return rows


def describe_machine() -> str:
    """Return processor, number of cores and Python version in one line."""
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {processor}, Python {platform.python_version()}"


def start_python(*words: str, **options: Any) -> subprocess.Popen[Any]:
    """Start Python with `words` in the project's root.

    Output is discarded unless `options`, those of Popen, redirect it.
    """
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, **options)


def kill(process: subprocess.Popen[Any]) -> None:
    """Send SIGKILL to a process with start_new_session=True, and to its children."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_python(*words: str) -> str:
    """Run Python with `words` in the project's root and return what it prints.

    Raises:
        SystemExit: The command failed.
    """
    command = [sys.executable, *words]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def time_python(*words: str) -> float:
    """Return the seconds of `run_python`, including the start of the process."""
    start = time.perf_counter()
    run_python(*words)
    return time.perf_counter() - start


def convert(folder: Path, records: str) -> None:
    """Convert a folder of photos with default flags."""
    run_python("-m", "pipeline.convert", str(folder), f"--out={records}")


def convert_sample(folder: Path, scratch: Path, count: int) -> str:
    """Convert about `count` photos, evenly spaced; return the folder of records."""
    sample, records = scratch / "sample", f"{scratch}/sample-records"
    photos = list_photos(folder)
    for path in photos[:: max(1, len(photos) // count)]:
        target = sample / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    convert(sample, records)
    return records


def list_photos(folder: Path) -> list[Path]:
    """Return the JPEG files of a folder of class folders, sorted."""
    paths = sorted(folder.glob("*/*.jpg"))
    if not paths:
        sys.exit(f"{folder}: expected class folders with .jpg files")
    return paths


def train_and_evaluate(records: str, run: str, *flags: str) -> dict[str, Any]:
    """Train with `flags`, evaluate, and return the figures of the test split."""
    run_python("train.py", f"--data={records}", f"--run_dir={run}", *flags)
    run_python("evaluate.py", f"--run_dir={run}")
    return json.loads((Path(run) / "evaluation" / "test.json").read_text())


def read_epochs(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl, one per epoch."""
    return list(map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))


def keras_predict(
    model: Any, folder: Path, size_px: int, batch_size: int
) -> Callable[[], int]:
    """Return a function that classifies a folder as plain Keras does.

    The function calls `predict` on image_dataset_from_directory, without shuffling, and
    returns the number of photos.
    """
    import keras

    photos = keras.utils.image_dataset_from_directory(
        str(folder),
        image_size=(size_px, size_px),
        batch_size=batch_size,
        shuffle=False,
        verbose=False,
    ).map(lambda image, _: image)
    return lambda: len(model.predict(photos, verbose=0))


def peak_memory(*words: str) -> float:
    """Run Python with `words`; return the peak memory of all its processes in bytes.

    Memory is PSS, in which shared memory is divided among the processes. Sampling it
    every 0.1 s slows the command down.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    with start_python(*words) as process:
        sampler = _MemorySampler(process.pid)
        code = process.wait()
    peak_bytes = sampler.stop()
    if code:
        raise subprocess.CalledProcessError(code, words)
    return peak_bytes


class _MemorySampler:
    """Samples the memory of a process and its children in a thread."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(0.1):
            try:
                processes = [self._process, *self._process.children(recursive=True)]
                total = sum(process.memory_full_info().pss for process in processes)
            except psutil.Error:  # a process ended meanwhile
                continue
            self._peak_bytes = max(self._peak_bytes, total)

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return float(self._peak_bytes)
