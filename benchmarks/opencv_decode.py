"""Decode every photo with OpenCV and discard it: the limit of conversion.

    python benchmarks/opencv_decode.py FOLDER WORKERS

Run by conversion.py.
"""

import multiprocessing
import sys
from pathlib import Path

import cv2


def limit_threads() -> None:
    """Use one OpenCV thread per process, as conversion does."""
    cv2.setNumThreads(1)


def decode(path: str) -> int:
    """Return the number of bytes of the decoded photo."""
    return cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION).nbytes


def main(folder: str, workers: str) -> None:
    """Decode all photos."""
    paths = sorted(map(str, Path(folder).glob("*/*.jpg")))
    context = multiprocessing.get_context("spawn")
    with context.Pool(int(workers), limit_threads) as pool:
        total_bytes = sum(pool.imap(decode, paths, chunksize=16))
    print(f"{len(paths)} photos, {total_bytes / 1e6:.0f} MB of pixels")


if __name__ == "__main__":
    main(*sys.argv[1:])
