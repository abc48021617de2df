"""Whether a conversion's memory and search stay in bounds with the number of photos.

    python benchmarks/many_photos.py [--counts=10000,100000]

Draws thumbnails, all different, in twenty classes; converts them; prints seconds,
photos a second and the highest memory of all processes together.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import measure

sys.path.insert(0, str(measure.ROOT))

import cv2
import numpy as np


def draw(folder: Path, count: int) -> None:
    """Writes JPEGs of 96 x 72: a few discs over a background of two colours."""
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
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--counts", default="10000,100000")
    options = parser.parse_args()
    rows = [["photos", "seconds", "photos/s", "peak memory, MB"]]
    for count in map(int, options.counts.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            photos = Path(scratch) / "photos"
            draw(photos, count)
            words = ("-m", "pipeline.convert", str(photos), f"--out={scratch}/out")
            start = time.perf_counter()
            peak = measure.peak_memory(*words)
            seconds = time.perf_counter() - start
        rows.append(
            [
                f"{count:,}",
                f"{seconds:.1f}",
                f"{count / seconds:,.0f}",
                f"{peak / 1e6:.0f}",
            ]
        )
    measure.table("Conversion of many small photos", rows)


if __name__ == "__main__":
    main()
