"""Find photos that show the same picture: hashes propose pairs, pixels decide.

Found: a photo and its copy encoded again (down to JPEG quality 20), of another size,
turned by quarter turns, mirrored, made grey, a little brighter or darker, with up to
2 % of each border cut off; or several of these. benchmarks/RESULTS.md has the shares.

Not found: larger cuts, turns by other angles, frames or writing added; and another
photo of the same thing. In plain pictures (discs on white), an object that moved or has
another colour makes another picture, so cropped or grey copies of these are not found.

Only proposed photos are decoded again, from their records.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from pipeline.grouping import thumbnail_comparison
from pipeline.grouping.thumbnail_comparison import AT_ONCE, PAIR, SIDE, Thumbnails
from pipeline.images import decode_files, opencv, perceptual_hash
from pipeline.records.manifest_row import ImageError, Row
from pipeline.sources.photo_source import Source
from pipeline.system import command_line, process_pool
from pipeline.system.errors import DataError

# Version of the search, as part of a data set's settings.
VERSION = 1
LIMIT = (
    "re-encoded, mirrored, turned by 90 degrees, resized, grey, or cropped by up to "
    "2 % on each side"
)
# Photos of equal hash that a photo is compared with: those nearest in brightness. Plain
# white or black pictures all have the same hash.
_NEAREST = 16
_CLOSE_AT_ONCE = 1 << 16  # pairs of hashes, to save memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Photos that show the same picture.

    Pairs are indices of rows, int64 [n, 2]: not every pair, but all photos that belong
    together are connected.
    """

    pairs: np.ndarray  # of similar photos
    identical: np.ndarray  # of photos of different classes with the same pixels
    indices: np.ndarray  # int64 [num_thumbnails], rows of the thumbnails
    thumbnails: Thumbnails  # of photos whose hashes are close to another's
    proposed: np.ndarray  # PAIR [n], pairs of thumbnails that could be similar

    def among(self, is_included: np.ndarray) -> Self:
        """Return the same without skipped photos, and without links through them."""
        if is_included[self.pairs].all():
            return self
        stays = is_included[self.indices]
        proposed = self.proposed
        proposed = proposed[stays[proposed["first"]] & stays[proposed["second"]]]
        agreeing, _ = _compare(proposed, self.thumbnails)
        pairs = self.indices[agreeing]
        return dataclasses.replace(self, pairs=pairs, proposed=proposed)


def search(
    rows: Sequence[Row],
    source: Source,
    *,
    encoded: Callable[[int], bytes],
    num_workers: int,
) -> NearDuplicates:
    """Search near-duplicates among the rows of all files of a source.

    This process decodes the proposed photos; its limit of pixels is that of its start.
    `encoded` is a function from the index of a row to an upright JPEG or PNG. Raises
    DataError if a photo no longer decodes.
    """

    def thumbnail(index: int) -> np.ndarray:
        try:
            return opencv.thumbnail(encoded(index), SIDE)
        except ImageError as error:
            raise DataError(
                f"{source.root}/{rows[index].path}: cannot be compared with others "
                f"({error}). Run again if it has just been changed. For a high "
                f"--max_pixels, set {opencv.MAX_PIXELS_NAME} to the same number"
            ) from error

    def digests(indices: Sequence[int]) -> list[bytes]:
        digests = process_pool.map_blocks(
            functools.partial(decode_files.digest_block, source.root),
            (source.photos[index] for index in indices),
            on_crash=decode_files.no_digest,
            initializer=decode_files.start_worker,
            num_workers=num_workers,
        )
        return [digest for _, digest in digests]

    return find(rows, thumbnail, digests)


def find(
    rows: Sequence[Row],
    thumbnail: Callable[[int], np.ndarray],
    digests: Callable[[Sequence[int]], Sequence[bytes]],
) -> NearDuplicates:
    """Search all photos with a record; of exact copies, the first stands for all.

    `thumbnail` is a function from the index of a row to uint8 [SIDE, SIDE, 3];
    `digests` one from indices to digests, which only files of the same pixels share.
    """
    indices, labels = _different_files(rows)
    phashes = (int(rows[index].phash or "0", 16) for index in indices.tolist())
    hashes, cells = np.unique(
        np.fromiter(phashes, np.uint64, len(indices)), return_inverse=True
    )
    close = perceptual_hash.ClosePairs(hashes)
    has_neighbour = np.bincount(cells, minlength=len(hashes)) > 1
    has_neighbour[close.first] = has_neighbour[close.second] = True
    candidates = np.flatnonzero(has_neighbour[cells])
    indices, labels, cells = indices[candidates], labels[candidates], cells[candidates]
    thumbnails = _decode(indices, labels, thumbnail)
    proposed = _pairs(cells, thumbnails, close)
    agreeing, alike = _compare(proposed, thumbnails)
    return NearDuplicates(
        pairs=indices[agreeing],
        identical=_identical(indices[alike], digests),
        indices=indices,
        thumbnails=thumbnails,
        proposed=proposed,
    )


def _different_files(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Return, for the first photo of each SHA-256, its index and a number of its class.

    A photo that is filed under several classes has a number of its own.
    """
    first: dict[str, int] = {}
    several_classes: set[int] = set()
    for index, row in enumerate(rows):
        if row.is_included:
            other = first.setdefault(row.sha256, index)
            if rows[other].class_name != row.class_name:
                several_classes.add(other)
    numbers: dict[str, int] = {}
    labels = [
        -1 - index
        if index in several_classes
        else numbers.setdefault(rows[index].class_name, len(numbers))
        for index in first.values()
    ]
    indices = np.fromiter(first.values(), np.int64, len(first))
    return indices, np.array(labels, np.int64)


def _decode(
    indices: np.ndarray, labels: np.ndarray, thumbnail: Callable[[int], np.ndarray]
) -> Thumbnails:
    thumbnails = Thumbnails(labels)

    def fill(start: int) -> None:
        block = range(start, min(start + AT_ONCE, len(indices)))
        thumbnails.store(start, [thumbnail(int(indices[place])) for place in block])

    with concurrent.futures.ThreadPoolExecutor(command_line.available_cpus()) as pool:
        list(pool.map(fill, range(0, len(indices), AT_ONCE)))  # raises its errors
    return thumbnails


def _pairs(
    cells: np.ndarray, thumbnails: Thumbnails, close: perceptual_hash.ClosePairs
) -> np.ndarray:
    """Return which thumbnails to compare, as PAIR, those of the closest hashes first.

    Each is compared with at most _NEAREST thumbnails of its own hash and of each close
    one: those most alike in brightness. `cells` has the number of each one's hash.
    """
    values = cells + thumbnails.brightness  # ordered by hash, then by brightness
    order = np.argsort(values, kind="stable")
    values, ordered = values[order], cells[order]
    pairs = [np.zeros(0, PAIR)]
    for distance in range(1, min(_NEAREST + 1, len(order))):
        same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        pairs.append(_as_pairs(order[same], order[same + distance]))

    for start in range(0, len(close.first), _CLOSE_AT_ONCE):
        block = slice(start, start + _CLOSE_AT_ONCE)
        hashes = np.stack([close.first[block], close.second[block]])
        starts = np.searchsorted(ordered, hashes)
        ends = np.searchsorted(ordered, hashes, "right")
        pair, places = perceptual_hash.expand(starts[0], ends[0] - starts[0])
        sought = hashes[1, pair] + values[places] % 1  # the same brightness there
        begin = np.searchsorted(values, sought) - _NEAREST // 2
        begin = np.minimum(begin, (ends[1] - _NEAREST)[pair])
        begin = np.maximum(begin, starts[1, pair])
        sizes = np.minimum(ends[1, pair] - begin, _NEAREST)
        first, second = perceptual_hash.expand(begin, sizes)
        turn, bits = close.orientations[block], close.distances[block]
        turn, bits = turn[pair[first]], bits[pair[first]]
        found = _as_pairs(order[places[first]], order[second], turn, bits)
        pairs.append(found[thumbnail_comparison.could_agree(found, thumbnails)])
    joined = np.concatenate(pairs)
    return joined[np.argsort(joined["bits"], kind="stable")]


def _as_pairs(
    first: np.ndarray, second: np.ndarray, turn: Any = 0, bits: Any = 0
) -> np.ndarray:
    pairs = np.zeros(len(first), PAIR)
    pairs["first"], pairs["second"] = first, second
    pairs["turn"], pairs["bits"] = turn, bits
    return pairs


def _compare(
    pairs: np.ndarray, thumbnails: Thumbnails
) -> tuple[np.ndarray, np.ndarray]:
    """Compare pairs of thumbnails, unless earlier pairs already connect them.

    The results are int64 [n, 2]: pairs that show the same picture, and pairs of
    different classes that might have the same pixels.
    """
    roots = np.arange(len(thumbnails.labels))
    agreeing, alike = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
    for start in range(0, len(pairs), AT_ONCE):
        block = pairs[start : start + AT_ONCE]
        places = np.stack([block["first"], block["second"]], axis=1)
        labels = thumbnails.labels[places]
        # Only photos that are not turned against each other may have the same pixels.
        crossing = (block["turn"] == 0) & (labels[:, 0] != labels[:, 1])
        apart = np.diff(roots[places])[:, 0] != 0
        useful = apart | crossing
        agree, closely = thumbnail_comparison.compare_pairs(
            block[useful], apart[useful], thumbnails
        )
        agreeing.append(places[useful][agree])
        alike.append(places[useful][closely & crossing[useful]])
        if agree.any():  # a copy of all roots for each block would be quadratic
            roots = join(roots, *agreeing[-1].T)
    return np.concatenate(agreeing), np.concatenate(alike)


def join(roots: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return `roots`, the lowest number of each one's group, after joining groups."""
    roots = roots.copy()
    while True:
        root, other = roots[first], roots[second]
        if (root == other).all():
            return roots
        np.minimum.at(roots, np.maximum(root, other), np.minimum(root, other))
        while (roots[roots] != roots).any():
            roots = roots[roots]


def _identical(
    pairs: np.ndarray, digests: Callable[[Sequence[int]], Sequence[bytes]]
) -> np.ndarray:
    """Return the pairs of rows whose pixels are the same."""
    if not len(pairs):
        return pairs
    indices, places = np.unique(pairs, return_inverse=True)
    contents = np.array(digests(indices.tolist()), "S32")[places.reshape(-1, 2)]
    return pairs[contents[:, 0] == contents[:, 1]]
