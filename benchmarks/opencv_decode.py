"""The limit of conversion: OpenCV reads and decodes every photo, and forgets it.

python benchmarks/opencv_decode.py FOLDER WORKERS

Run by conversion.py.
"""

import multiprocessing
import sys
from pathlib import Path

import cv2


def start() -> None:
    """One thread per process, as conversion has it."""
    cv2.setNumThreads(1)


def decode(path: str) -> int:
    """Bytes of the decoded photo."""
    return cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION).nbytes


def main(folder: str, workers: str) -> None:
    """Decodes all."""
    paths = sorted(map(str, Path(folder).glob("*/*.jpg")))
    context = multiprocessing.get_context("spawn")
    with context.Pool(int(workers), start) as pool:
        total = sum(pool.imap(decode, paths, chunksize=16))
    print(f"{len(paths)} photos, {total / 1e6:.0f} MB of pixels")


if __name__ == "__main__":
    main(*sys.argv[1:])
