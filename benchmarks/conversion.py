"""Measure how fast photos become records.

    python benchmarks/conversion.py [FOLDER] [--copies=8] [--rounds=3]

Compares pipeline.convert with OpenCV's full decode in as many processes (the limit) and
with a single loop (the baseline). Times include the start of each command. Every photo
is converted several times, as links with new names, so that the start weighs little.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import measure


def link_copies(photos: list[Path], target: Path, copies: int) -> int:
    """Link every photo `copies` times by class; return the number of links."""
    for path in photos:
        folder, photo = target / path.parent.name, path.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(copies):
            link = folder / f"{path.stem}-{number}.jpg"
            if photo.stat().st_dev == folder.stat().st_dev:
                link.hardlink_to(photo)
            else:
                link.symlink_to(photo)
    return len(photos) * copies


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, rounds=3)
    parser.add_argument("--copies", type=int, default=8, help="links per photo (8)")
    options = parser.parse_args()
    workers = str(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch) / "photos", Path(scratch) / "records"
        count = link_copies(measure.list_photos(options.folder), source, options.copies)

        def rate_of(*words: str) -> Callable[[], float]:
            def rate() -> float:
                out.mkdir()
                photos_per_s = count / measure.time_python(*words)
                shutil.rmtree(out)
                os.sync()  # so that nothing is written to disk during the next run
                return photos_per_s

            return rate

        # The single loop leaves unwritten pages that slow down the next writer, so the
        # decoder, which writes nothing, comes between the two.
        limit = "limit: OpenCV decode"
        graft = ("-m", "pipeline.convert", str(source), f"--out={out}")
        rates = measure.run_rounds(
            {
                "baseline: single loop": rate_of(
                    "benchmarks/single_loop.py", str(source), str(out)
                ),
                limit: rate_of("benchmarks/opencv_decode.py", str(source), workers),
                "graft: pipeline.convert": rate_of(*graft, f"--workers={workers}"),
            },
            options.rounds,
        )
    title = f"Conversion of {count:,} photos, {workers} workers"
    measure.print_table(title, measure.rate_rows(rates, limit))


if __name__ == "__main__":
    main()
