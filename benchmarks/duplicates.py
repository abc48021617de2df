"""What the search of near-duplicates costs, and that it is not quadratic.

    python benchmarks/duplicates.py [FOLDER] [--counts=3670,30000,100000]

Hashes of the photos of FOLDER, repeated with a quarter of their bits changed, so that
they are as unevenly distributed; and hashes that are all within a few bits of each
other. Beside it, in the same run, a conversion of the same photos: how long one of so
many would take. That is the search of hashes alone. Photos that it proposes are decoded
again, so what a conversion takes also depends on how many there are: the last lines
compare three exact copies of each photo, which propose nothing, with three files of the
same pixels, all of which are decoded again.
"""

import argparse
import functools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import measure

sys.path.insert(0, str(measure.ROOT))

import numpy as np

from pipeline.images import perceptual_hash, record_image


def resembling(photos: list[Path], count: int, changed: float) -> np.ndarray:
    """Hashes like those of some photos.

    Args:
        photos: JPEGs.
        count: hashes.
        changed: share of the bits that are changed at random.
    """
    random = np.random.default_rng(0)
    own = [
        record_image.encode_for_record(p.read_bytes(), resize_min=512).phash
        for p in photos
    ]
    bits = np.unpackbits(
        np.array([[*bytes.fromhex(one)] for one in own], np.uint8), axis=1
    )
    bits = bits[random.integers(0, len(bits), count)]
    bits ^= random.random(bits.shape) < changed
    return np.unique(np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64))


def seconds_a_photo(photos: list[Path], *, exact: bool) -> float:
    """What conversion takes with each photo three times.

    Args:
        photos: JPEGs.
        exact: same bytes; otherwise the same pixels, and a comment that differs.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "photos"
        for path in photos:
            data = path.read_bytes()
            (source / path.parent.name).mkdir(parents=True, exist_ok=True)
            for number in range(3):
                comment = b"" if exact else b"\xff\xfe\x00\x03" + bytes([number])
                copy = source / path.parent.name / f"{path.stem}-{number}.jpg"
                copy.write_bytes(data[:2] + comment + data[2:])
        count = 3 * len(photos)
        words = ("-m", "pipeline.convert", str(source), f"--out={scratch}/out")
        return measure.command(*words) / count


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="demo/flowers", type=Path)
    parser.add_argument("--counts", default="3670,30000,100000")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    photos = measure.photo_paths(options.folder)
    comparisons: dict[str, int] = {}
    sizes: dict[str, int] = {}
    candidates = {
        "exact copies": functools.partial(seconds_a_photo, photos, exact=True),
        "near-duplicates": functools.partial(seconds_a_photo, photos, exact=False),
    }

    def search(name: str, hashes: np.ndarray) -> float:
        start = time.perf_counter()
        comparisons[name] = perceptual_hash.ClosePairs(hashes).comparisons
        return time.perf_counter() - start

    for count in map(int, options.counts.split(",")):
        for kind, some, changed in (
            ("as photos", photos, 0.25),
            ("all alike", photos[:1], 0.06),
        ):
            name = f"{count:,} {kind}"
            hashes = resembling(some, count, changed)
            sizes[name] = len(hashes)
            candidates[name] = functools.partial(search, name, hashes)
    found = measure.rounds(candidates, options.rounds)
    rows = [["hashes", "seconds", "comparisons", "for each", "share of conversion"]]
    for name, size in sizes.items():
        share = measure.ratio(found[name], found["exact copies"]) / size
        rows.append(
            [
                name,
                f"{statistics.median(found[name]):.2f}",
                f"{comparisons[name]:,}",
                f"{comparisons[name] / size:,.0f}",
                f"{share:.3f}",
            ]
        )
    measure.table("Search of hashes", rows)
    rows = [["each photo three times", "photos/s", "of exact copies"]]
    for name in ("exact copies", "near-duplicates"):
        rate = 1 / statistics.median(found[name])
        ratio = measure.ratio(found["exact copies"], found[name])
        rows.append([name, f"{rate:,.0f}", f"{ratio:.2f}"])
    measure.table("Conversion", rows)


if __name__ == "__main__":
    main()
