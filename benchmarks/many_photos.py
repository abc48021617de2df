"""Measure time and memory of converting many small photos.

    python benchmarks/many_photos.py [--counts=10000,100000]

Draws different thumbnails in twenty classes and converts them. Memory is the peak of
all processes together, and must stay in proportion to the number of photos.
"""

import tempfile
import time
from pathlib import Path

import cv2
import measure
import numpy as np


def draw_photos(folder: Path, count: int) -> None:
    """Write JPEG files of 96 x 72 pixels: discs on a background of blended colours."""
    random = np.random.default_rng(0)
    for number in range(20):
        (folder / f"class{number:02d}").mkdir(parents=True)
    for number in range(count):
        corners = random.integers(0, 256, (2, 2, 3)).astype(np.uint8)
        image = cv2.resize(corners, (96, 72), interpolation=cv2.INTER_LINEAR)
        for _ in range(6):
            x, y, radius = random.integers((0, 0, 4), (96, 72, 30)).tolist()
            colour = random.integers(0, 256, 3).tolist()
            cv2.circle(image, (x, y), radius, colour, -1)
        path = folder / f"class{number % 20:02d}" / f"photo{number:06d}.jpg"
        cv2.imwrite(str(path), image)


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, photos=False)
    parser.add_argument(
        "--counts", default="10000,100000", help="comma-separated numbers of photos"
    )
    options = parser.parse_args()
    rows = [["photos", "seconds", "photos/s", "peak memory, MB"]]
    for count in map(int, options.counts.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            photos = Path(scratch) / "photos"
            draw_photos(photos, count)
            words = ("-m", "pipeline.convert", str(photos), f"--out={scratch}/out")
            start = time.perf_counter()
            peak = measure.peak_memory(*words)
            seconds = time.perf_counter() - start
        figures = (f"{count / seconds:,.0f}", f"{peak / 1e6:.0f}")
        rows.append([f"{count:,}", f"{seconds:.1f}", *figures])
    measure.print_table("Conversion of many small photos", rows)


if __name__ == "__main__":
    main()
