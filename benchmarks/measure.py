"""What all benchmarks share: rounds in turn, medians, a table, the machine's name.

Machines are noisy for minutes at a time, so all candidates run in turn within a round,
and ratios are taken within a round. The median of the rounds is quoted.
"""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]


def rounds(
    candidates: Mapping[str, Callable[[], float]], count: int
) -> dict[str, list[float]]:
    """Runs the candidates in turn, `count` times, after one round that is not counted.

    Args:
        candidates: {name: function that returns a rate or a time}.
        count: rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(count + 1):
        for name, run in candidates.items():
            figure = run()
            if number:
                found[name].append(figure)
    return found


def per_second(work: Callable[[], int]) -> Callable[[], float]:
    """Turns work that returns its number of images into images per second."""

    def run() -> float:
        start = time.perf_counter()
        count = work()
        return count / (time.perf_counter() - start)

    return run


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Median of the ratios within the rounds."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of cells, the first row being the header."""
    print(f"\n{title}\n{machine()}\n")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def rate_rows(found: Mapping[str, Sequence[float]], limit: str) -> list[list[str]]:
    """Rows of a table: name, median rate, its spread, and the ratio to the limit."""
    rows = [["", "images/s", "lowest", "highest", f"of {limit}"]]
    for name, rates in found.items():
        rows.append(
            [
                name,
                f"{statistics.median(rates):,.0f}",
                f"{min(rates):,.0f}",
                f"{max(rates):,.0f}",
                f"{ratio(rates, found[limit]):.2f}",
            ]
        )
    return rows


def machine() -> str:
    """Processor, cores and versions, in one line."""
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {name}, Python {platform.python_version()}"


def command(*words: str) -> float:
    """Runs a Python command of the project in a process of its own.

    Returns:
        Seconds it took, its start included.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def peak_memory(*words: str) -> float:
    """Runs a command likewise; watching slows it down.

    Returns:
        The highest memory that it and its children had at one time, in bytes (PSS: what
        processes share is divided among them).

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        peak = _Peak(process.pid)
        code = process.wait()
    highest = peak.stop()
    if code:
        raise subprocess.CalledProcessError(code, words)
    return highest


class _Peak:
    """Watches the memory of a process and its children."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._highest = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            total = 0
            try:
                for one in (self._process, *self._process.children(recursive=True)):
                    total += one.memory_full_info().pss
            except psutil.Error:
                continue
            self._highest = max(self._highest, total)

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return float(self._highest)


def some_photos(folder: Path, target: Path, count: int) -> None:
    """Copies about `count` photos of a folder of class folders, evenly spread."""
    paths = photo_paths(folder)
    for path in paths[:: max(1, len(paths) // count)]:
        place = target / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def photo_paths(folder: Path) -> list[Path]:
    """The JPEGs of a folder of class folders."""
    paths = sorted(folder.glob("*/*.jpg"))
    if not paths:
        sys.exit(f"{folder}: no class folders with .jpg files")
    return paths
