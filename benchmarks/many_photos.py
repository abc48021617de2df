"""Measure time and memory of the whole way from many small photos to a report.

    python benchmarks/many_photos.py [--counts=10000,100000] [--ckpt=FILE]

Draws different photos of 40 x 40 pixels in ten classes, and converts them. With a
weight file of a small network, for instance Caffe's cifar10_quick, a new head is
trained on cached features and evaluated. Memory is the highest resident set of a
process. Time and memory must stay in proportion to the number of photos, and the report
small.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import cv2
import measure
import numpy as np

_SIDE = 40


def draw_photos(folder: Path, count: int) -> None:
    """Write JPEG files: discs on blended colours, most of them in the class's colour.

    Of two such photos, as many have close hashes as of two of CIFAR-10: one pair in
    1.2 and in 1.6 million.
    """
    random = np.random.default_rng(0)
    for number in range(10):
        (folder / f"class{number}").mkdir(parents=True)
    for number in range(count):
        corners = random.integers(90, 166, (2, 2, 3)).astype(np.uint8)
        image = cv2.resize(corners, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
        hsv = np.array([[[number % 10 * 18, *random.integers(120, 256, 2)]]], np.uint8)
        colours = [
            random.integers(0, 256, 3),
            *[cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0]] * 4,
        ]
        for colour in colours:
            x, y, radius = random.integers((0, 0, 3), (_SIDE, _SIDE, 14)).tolist()
            cv2.circle(image, (x, y), radius, colour.tolist(), -1)
        path = folder / f"class{number % 10}" / f"photo{number:07d}.jpg"
        cv2.imwrite(str(path), image)


def run(*words: str) -> tuple[float, float]:
    """Run Python with `words`; return seconds, and the highest memory in bytes."""
    start = time.perf_counter()
    process = measure.start_python(*words)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(words)}: exit code {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024.0


def main() -> None:
    """Print the tables."""
    parser = measure.argument_parser(__doc__, photos=False)
    parser.add_argument(
        "--counts", default="10000,100000", help="comma-separated numbers of photos"
    )
    parser.add_argument("--ckpt", default="", help="weight file; none to convert only")
    options = parser.parse_args()
    rows = [["photos", "step", "seconds", "ratio", "memory, MB", "KB a further photo"]]
    sizes = [["photos", "report, MB"]]
    before: dict[str, tuple[int, float, float]] = {}
    for count in map(int, options.counts.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            draw_photos(Path(scratch) / "photos", count)
            records, run_dir = f"{scratch}/records", f"--run_dir={scratch}/run"
            steps = [
                ("-m", "pipeline.convert", f"{scratch}/photos", f"--out={records}")
            ]
            if options.ckpt:
                weights = f"--ckpt={Path(options.ckpt).absolute()}"
                steps.append(("train.py", f"--data={records}", weights, run_dir))
                steps.append(("evaluate.py", run_dir))
            for words in steps:
                seconds, peak = run(*words)
                name = words[words[0] == "-m"]
                cells = ["", ""]
                if name in before:
                    fewer, seconds_before, peak_before = before[name]
                    more = (peak - peak_before) / (count - fewer) / 1024
                    cells = [f"{seconds / seconds_before:.1f}", f"{more:.2f}"]
                before[name] = count, seconds, peak
                figures = (f"{seconds:.1f}", cells[0], f"{peak / 1e6:.0f}", cells[1])
                rows.append([f"{count:,}", name, *figures])
            if options.ckpt:
                report = Path(scratch, "run", "evaluation", "test.html")
                sizes.append([f"{count:,}", f"{report.stat().st_size / 1e6:.1f}"])
    measure.print_table("From many small photos to a report", rows)
    if options.ckpt:
        measure.print_table("Reports", sizes)


if __name__ == "__main__":
    main()
