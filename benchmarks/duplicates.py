"""Measure the cost of the search for near-duplicates, and that it is not quadratic.

    python benchmarks/duplicates.py [FOLDER] [--counts=3670,30000,100000] [--rounds=3]

The first table times the search alone on two kinds of perceptual hashes: those of the
photos, repeated with a quarter of their bits changed so that they stay as unevenly
distributed; and hashes that all lie within a few bits of each other. It compares the
time with a conversion of as many photos in the same session.

Conversion decodes the candidate pairs of the search again, so its time also depends on
their number. The second table converts three exact copies of each photo, which give no
candidates, and three files of the same pixels, which are all decoded again.
"""

import functools
import statistics
import tempfile
import time
from pathlib import Path

import measure
import numpy as np

from pipeline.images import perceptual_hash, record_image


def make_hashes(photos: list[Path], count: int, changed_share: float) -> np.ndarray:
    """Return distinct hashes, distributed like those of the photos.

    Args:
        photos: JPEG files.
        count: Number of hashes that are drawn, before equal ones are removed.
        changed_share: Share of the bits that are changed at random, 0 to 1.
    """
    random = np.random.default_rng(0)
    hashes = [
        record_image.encode_for_record(path.read_bytes(), resize_min=512).phash
        for path in photos
    ]
    bits = np.unpackbits(
        np.array([[*bytes.fromhex(phash)] for phash in hashes], np.uint8), axis=1
    )
    bits = bits[random.integers(0, len(bits), count)]
    bits ^= random.random(bits.shape) < changed_share
    return np.unique(np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64))


def conversion_seconds(photos: list[Path], *, exact: bool) -> float:
    """Return the conversion time per file, in seconds, with three files of each photo.

    Args:
        photos: JPEG files.
        exact: Whether the three files have the same bytes; otherwise they have the same
            pixels and different comments.
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
        words = ("-m", "pipeline.convert", str(source), f"--out={scratch}/out")
        return measure.time_python(*words) / (3 * len(photos))


def main() -> None:
    """Print both tables."""
    parser = measure.argument_parser(__doc__, rounds=3)
    parser.add_argument(
        "--counts",
        default="3670,30000,100000",
        help="comma-separated numbers of hashes",
    )
    options = parser.parse_args()
    photos = measure.list_photos(options.folder)
    comparisons: dict[str, int] = {}
    num_hashes: dict[str, int] = {}
    candidates = {
        "exact copies": functools.partial(conversion_seconds, photos, exact=True),
        "near-duplicates": functools.partial(conversion_seconds, photos, exact=False),
    }

    def search(name: str, hashes: np.ndarray) -> float:
        start = time.perf_counter()
        comparisons[name] = perceptual_hash.ClosePairs(hashes).comparisons
        return time.perf_counter() - start

    for count in map(int, options.counts.split(",")):
        for kind, originals, changed_share in (
            ("like photos", photos, 0.25),
            ("all similar", photos[:1], 0.06),
        ):
            name = f"{count:,} {kind}"
            hashes = make_hashes(originals, count, changed_share)
            num_hashes[name] = len(hashes)
            candidates[name] = functools.partial(search, name, hashes)
    seconds = measure.run_rounds(candidates, options.rounds)
    rows = [["hashes", "seconds", "comparisons", "per hash", "share of conversion"]]
    for name, count in num_hashes.items():
        share = measure.median_ratio(seconds[name], seconds["exact copies"]) / count
        rows.append(
            [
                name,
                f"{statistics.median(seconds[name]):.2f}",
                f"{comparisons[name]:,}",
                f"{comparisons[name] / count:,.0f}",
                f"{share:.3f}",
            ]
        )
    measure.print_table("Search for near-duplicates", rows)
    rows = [["three files of each photo", "photos/s", "ratio to exact copies"]]
    for name in ("exact copies", "near-duplicates"):
        rate = 1 / statistics.median(seconds[name])
        ratio = measure.median_ratio(seconds["exact copies"], seconds[name])
        rows.append([name, f"{rate:,.0f}", f"{ratio:.2f}"])
    measure.print_table("Conversion", rows)


if __name__ == "__main__":
    main()
