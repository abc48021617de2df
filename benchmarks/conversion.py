"""How fast photos become records.

    python benchmarks/conversion.py [FOLDER] [--copies=8] [--rounds=3]

Whole commands, process starts included: ours; the limit, OpenCV's own full decode with
as many workers; the peer, a single loop. So that starting up does not hide the rate,
the photos are taken several times (as links, under new names).
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import measure


def multiply(photos: list[Path], target: Path, copies: int) -> int:
    """Links every photo `copies` times into class folders; returns their number."""
    for path in photos:
        folder = target / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(copies):
            link = folder / f"{path.stem}-{number}.jpg"
            os.link(path.resolve(), link) if _same_device(path, target) else (
                link.symlink_to(path.resolve())
            )
    return len(photos) * copies


def _same_device(one: Path, other: Path) -> bool:
    return one.resolve().stat().st_dev == other.stat().st_dev


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="demo/flowers", type=Path)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    workers = str(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "photos"
        count = multiply(measure.photo_paths(options.folder), source, options.copies)
        turn = iter(range(10**6))

        def ours() -> float:
            out = f"{scratch}/ours{next(turn)}"
            words = ("pipeline.convert", str(source), f"--out={out}")
            rate = count / measure.command("-m", *words, f"--workers={workers}")
            shutil.rmtree(out)
            os.sync()  # so that nothing is written to disk during the next run
            return rate

        def limit() -> float:
            words = ("benchmarks/opencv_decode.py", str(source), workers)
            return count / measure.command(*words)

        def peer() -> float:
            out = Path(scratch) / f"peer{next(turn)}"
            out.mkdir()
            words = ("benchmarks/single_loop.py", str(source), str(out))
            rate = count / measure.command(*words)
            shutil.rmtree(out)
            os.sync()
            return rate

        found = measure.rounds(
            {
                # What the peer leaves behind in memory slows down whoever writes next.
                "peer: single loop": peer,
                "limit: OpenCV decode": limit,
                "graft: pipeline.convert": ours,
            },
            options.rounds,
        )
    measure.table(
        f"Conversion of {count:,} photos, {workers} workers",
        measure.rate_rows(found, "limit: OpenCV decode"),
    )


if __name__ == "__main__":
    main()
