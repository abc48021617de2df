"""Photos that show the same picture: hashes propose pairs, pixels decide.

Found: a photo and its copy encoded anew (down to JPEG quality 20), of another size,
turned by quarter turns, mirrored, made grey, a little brighter or darker, with up to
2 % of each border cut off; or several of these. Of 640 photos treated so on which no
limit was chosen (flowers, bees, cats and dogs), 99 % were found, and 93 % of those with
2 % cut off; none was taken for another.

Not found: larger cuts, turns by other angles, frames or writing added; and another
photo of the same thing. In plain pictures (discs on white) an object that moved or has
another colour makes another picture, so there nothing may be cut off or made grey.

Only proposed photos are decoded again, from their records. Where few are, as in flower
photos, that costs conversion a percent; where each has a near-duplicate, as much again
as converting it. Thumbnails kept by the workers would cost all conversions a little.
"""

import concurrent.futures
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from pipeline.images import perceptual_hash
from pipeline.records import file_table
from pipeline.system import command_line

# Of the rules below, as part of a data set's settings.
VERSION = 1
SIDE = 32  # of a thumbnail, in pixels
# Differences (root of the mean square) as a share of the thumbnail's own standard
# deviation. Two that differ in nearly nothing, whatever they show:
_SAME = 0.15
# Two of which one may be the other, brighter and cut off a little: what is left when
# that is fitted. Copies of flowers leave at most 0.18, the most similar others 0.36.
_MAY_BE_CUT = 0.6
_CUT = 0.2
# Pixels of a thumbnail that must be part of its texture for that: of photos, 99 in 100
# have 0.38 or more; discs on white have 0.24 at most.
_TEXTURED = 1 / 3
_TEXTURE = 0.1  # slope, as a share of the standard deviation
# Photos of equal hash that one is compared with: those nearest in brightness. Plain
# white or black pictures all have the same hash.
_NEAREST = 16
# Levels between the channels of a thumbnail that is grey; and what of BGR makes grey.
_GREY = 6
_LUMA = np.array([0.114, 0.587, 0.299], np.float32)
_AT_ONCE = 512  # pairs
# Matrix that takes the means of neighbours, weighted 1, 2, 1.
_NEIGHBOURS = np.add.reduce(
    [np.eye(SIDE, k=k, dtype=np.float32) for k in (-1, 0, 0, 1)]
)
_MEANS = _NEIGHBOURS / _NEIGHBOURS.sum(axis=1, keepdims=True)


def join(roots: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Joins groups.

    Args:
        roots: int [n], the lowest number of each one's group, as this function gives
            it; np.arange(n) when all are alone.
        first: int [m], numbers.
        second: int [m], what to join each of them with.

    Returns:
        The new `roots`.
    """
    roots = roots.copy()
    while True:
        one, other = roots[first], roots[second]
        if (one == other).all():
            return roots
        np.minimum.at(roots, np.maximum(one, other), np.minimum(one, other))
        while (roots[roots] != roots).any():
            roots = roots[roots]


def find(
    found: file_table.Table,
    thumbnail: Callable[[int], np.ndarray],
    digests: Callable[[Sequence[int]], Sequence[bytes]],
) -> "Similar":
    """Searches all photos that are taken; of exact copies, one stands for all.

    Args:
        found: all files.
        thumbnail: number of a file -> uint8 [SIDE, SIDE, 3].
        digests: numbers of files -> for each, what it has in common with files of the
            same pixels alone.
    """
    taken = np.flatnonzero(found.taken)
    _, once = np.unique(found.found["sha256"][taken], return_index=True)
    numbers = taken[np.sort(once)]
    hashes, cells = np.unique(found.found["phash"][numbers], return_inverse=True)
    close = perceptual_hash.ClosePairs(hashes)
    not_alone = np.bincount(cells, minlength=len(hashes)) > 1
    not_alone[close.first] = not_alone[close.second] = True
    looked_at = np.flatnonzero(not_alone[cells])
    numbers, cells = numbers[looked_at], cells[looked_at]
    pixels = _decode(numbers, thumbnail)
    thumbnails = _Thumbnails.of(pixels, _labels(found)[numbers])
    proposed = _pairs(cells, thumbnails.brightness, close)
    agreeing, alike = _compare(proposed, thumbnails)
    return Similar(
        pairs=numbers[agreeing],
        identical=_identical(numbers[alike], digests),
        numbers=numbers,
        thumbnails=thumbnails,
        proposed=proposed,
        comparisons=close.comparisons,
    )


def _labels(found: file_table.Table) -> np.ndarray:
    """int64 [num_files]; one of its own for a file that has copies in other classes."""
    labels = found.labels.astype(np.int64)
    taken = np.flatnonzero(found.taken)
    _, first, copies = np.unique(
        found.found["sha256"][taken], return_index=True, return_inverse=True
    )
    differ = labels[taken[first]][copies] != labels[taken]
    crossing = np.isin(copies, copies[differ])
    labels[taken[crossing]] = -1 - taken[first][copies[crossing]]
    return labels


def _decode(numbers: np.ndarray, thumbnail: Callable[[int], np.ndarray]) -> np.ndarray:
    """uint8 [n, SIDE, SIDE, 3] of some files, in a file without a name."""
    if not len(numbers):
        return np.zeros((0, SIDE, SIDE, 3), np.uint8)
    with tempfile.TemporaryFile() as file:
        found = np.memmap(file, np.uint8, "w+", shape=(len(numbers), SIDE, SIDE, 3))

    def fill(start: int) -> None:
        for place in range(start, min(start + _AT_ONCE, len(numbers))):
            found[place] = thumbnail(int(numbers[place]))

    with concurrent.futures.ThreadPoolExecutor(command_line.available_cpus()) as pool:
        for done in [pool.submit(fill, n) for n in range(0, len(numbers), _AT_ONCE)]:
            done.result()
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Thumbnails:
    """Those that are looked at, as columns.

    Attributes:
        pixels: uint8 [n, SIDE, SIDE, 3], BGR.
        labels: int64 [n].
        brightness: float64 [n], 0..1.
        spread: float32 [n], standard deviation; 0 for one colour all over.
        is_grey: bool [n].
    """

    pixels: np.ndarray
    labels: np.ndarray
    brightness: np.ndarray
    spread: np.ndarray
    is_grey: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray, labels: np.ndarray) -> Self:
        """Looks at each by itself."""
        brightness = np.zeros(len(pixels))
        spread = np.zeros(len(pixels), np.float32)
        is_grey = np.zeros(len(pixels), np.bool_)
        for start in range(0, len(pixels), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            brightness[some] = pixels[some].mean(axis=(1, 2, 3)) / 256
            spread[some] = _spread(pixels[some].astype(np.float32))
            is_grey[some] = np.ptp(pixels[some], axis=3).max(axis=(1, 2)) <= _GREY
        return cls(
            pixels=pixels,
            labels=labels,
            brightness=brightness,
            spread=spread,
            is_grey=is_grey,
        )


# Two places among the thumbnails, how the first is turned, bits between the hashes.
_PAIR = np.dtype([("first", "<i8"), ("second", "<i8"), ("turn", "i1"), ("bits", "i1")])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Similar:
    """Which files show the same picture.

    Attributes:
        pairs: int64 [num_pairs, 2], numbers of files: not every pair that is similar,
            but all that are similar are connected.
        identical: int64 [n, 2], those of different classes whose pixels are the same,
            likewise connected.
        numbers: int64 [num_thumbnails], of the files that were looked at.
        thumbnails: of them.
        proposed: _PAIR [n], pairs of thumbnails that could be similar.
        comparisons: of hashes, that were made.
    """

    pairs: np.ndarray
    identical: np.ndarray
    numbers: np.ndarray
    thumbnails: "_Thumbnails"
    proposed: np.ndarray
    comparisons: int

    def among(self, taken: np.ndarray) -> Self:
        """The same without files that are left out, and what they alone connected.

        Args:
            taken: bool [num_files].
        """
        if taken[self.pairs].all():
            return self
        taken = taken[self.numbers]
        proposed = self.proposed
        proposed = proposed[taken[proposed["first"]] & taken[proposed["second"]]]
        agreeing, _ = _compare(proposed, self.thumbnails)
        return dataclasses.replace(
            self, pairs=self.numbers[agreeing], proposed=proposed
        )


def _pairs(
    cells: np.ndarray, brightness: np.ndarray, close: perceptual_hash.ClosePairs
) -> np.ndarray:
    """Which thumbnails to compare, those of the closest hashes first.

    Args:
        cells: int64 [n], number of each one's hash.
        brightness: float64 [n], 0..1.
        close: pairs of hashes.

    Returns:
        _PAIR [num_pairs], at most _NEAREST for each thumbnail and hash close to it.
    """
    values = cells + brightness
    order = np.argsort(values, kind="stable")
    values, ordered = values[order], cells[order]
    found = []
    for distance in range(1, min(_NEAREST + 1, len(order))):
        same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        found.append(_listed(order[same], order[same + distance], 0, 0))

    starts = np.searchsorted(ordered, (close.first, close.second))
    counts = np.searchsorted(ordered, (close.first, close.second), "right") - starts
    pair, places = perceptual_hash.expand(starts[0], counts[0])
    wanted = close.second[pair] + values[places] % 1
    ends = starts[1] + counts[1]
    nearest = np.searchsorted(values, wanted) - _NEAREST // 2
    begin = np.maximum(np.minimum(nearest, (ends - _NEAREST)[pair]), starts[1][pair])
    one, other = perceptual_hash.expand(begin, np.minimum(ends[pair] - begin, _NEAREST))
    found.append(
        _listed(
            order[places[one]],
            order[other],
            close.orientations[pair[one]],
            close.distances[pair[one]],
        )
    )
    pairs = np.concatenate(found)
    return pairs[np.argsort(pairs["bits"], kind="stable")]


def _listed(
    first: np.ndarray,
    second: np.ndarray,
    turn: np.ndarray | int,
    bits: np.ndarray | int,
) -> np.ndarray:
    pairs = np.zeros(len(first), _PAIR)
    pairs["first"], pairs["second"], pairs["turn"], pairs["bits"] = (
        first,
        second,
        turn,
        bits,
    )
    return pairs


def _compare(
    pairs: np.ndarray, thumbnails: _Thumbnails
) -> tuple[np.ndarray, np.ndarray]:
    """Looks at pairs of thumbnails, unless what is known already connects them.

    Returns:
        int64 [n, 2] twice: places of those that agree, and of those of different
        classes that might have the same pixels.
    """
    roots = np.arange(len(thumbnails.labels))
    agreeing, alike = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
    for start in range(0, len(pairs), _AT_ONCE):
        some = pairs[start : start + _AT_ONCE]
        crossing = _are_crossing(some, thumbnails.labels)
        some = some[(roots[some["first"]] != roots[some["second"]]) | crossing]
        apart = roots[some["first"]] != roots[some["second"]]
        agree, closely = _agree(some, apart, thumbnails)
        crossing = _are_crossing(some, thumbnails.labels)
        places = np.stack([some["first"], some["second"]], axis=1)
        agreeing.append(places[agree])
        alike.append(places[crossing & closely])
        roots = join(roots, *places[agree].T)
    return np.concatenate(agreeing), np.concatenate(alike)


def _are_crossing(pairs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether pairs are of different classes, and none of them turned."""
    return (pairs["turn"] == 0) & (labels[pairs["first"]] != labels[pairs["second"]])


def _agree(
    pairs: np.ndarray, apart: np.ndarray, thumbnails: _Thumbnails
) -> tuple[np.ndarray, np.ndarray]:
    """Compares thumbnails, pair by pair.

    Args:
        pairs: _PAIR [n].
        apart: bool [n], whether it is worth a closer look.
        thumbnails: all that are looked at.

    Returns:
        bool [n] twice: whether they show the same picture, and whether so closely that
        the photos might have the same pixels.
    """
    first, second = pairs["first"], pairs["second"]
    one = thumbnails.pixels[first].astype(np.float32)
    other = thumbnails.pixels[second].astype(np.float32)
    for turn in range(1, perceptual_hash.ORIENTATIONS):
        turned = pairs["turn"] == turn
        one[turned] = perceptual_hash.turn_pixels(one[turned], turn)
    spread = np.minimum(thumbnails.spread[first], thumbnails.spread[second])
    grey = thumbnails.is_grey[first] != thumbnails.is_grey[second]
    for image in (one, other):
        image[grey] = (image[grey] @ _LUMA)[..., None]
        spread[grey] = np.minimum(spread[grey], _spread(image[grey]))
    left = (one - other).reshape(len(pairs), SIDE * SIDE * 3)
    difference = np.sqrt(np.einsum("nk,nk->n", left, left) / left.shape[1])
    closely = (difference <= _SAME * spread) & ~grey
    agree = closely.copy()
    may_be_cut = ~closely & apart & (difference <= _MAY_BE_CUT * spread)
    for place in np.flatnonzero(may_be_cut):
        agree[place] = _left_when_fitted(one[place], other[place]) <= _CUT
    return agree, closely


def _spread(images: np.ndarray) -> np.ndarray:
    """float32 [..., SIDE, SIDE, 3] -> [...], 0 for one colour all over."""
    return np.sqrt(images.var(axis=(-3, -2)).mean(axis=-1))


def _smooth(image: np.ndarray) -> np.ndarray:
    """Means of neighbours in both directions."""
    across = _MEANS @ image
    return (_MEANS @ across.swapaxes(0, 1)).swapaxes(0, 1)


def _left_when_fitted(first: np.ndarray, second: np.ndarray) -> float:
    """What differs if one may be moved, stretched and made brighter a little.

    To the first order that adds multiples of six images to it; least squares find how
    much of each. Source: B. D. Lucas and T. Kanade, An Iterative Image Registration
    Technique, 1981.

    Args:
        first: float32 [SIDE, SIDE, 3].
        second: likewise.

    Returns:
        Root of the mean square, as a share of the smaller standard deviation; infinity
        for a plain picture.
    """
    first, second = _smooth(first), _smooth(second)
    slope_down, slope_across = np.gradient((first + second) / 2, axis=(0, 1))
    grey_slope = np.hypot(slope_down.mean(axis=2), slope_across.mean(axis=2))
    if (grey_slope > _TEXTURE * _spread(first)).mean() < _TEXTURED:
        return np.inf
    along = np.linspace(-1, 1, SIDE, dtype=np.float32)
    down, across = along[:, None, None], along[None, :, None]
    terms = (
        np.ones_like(second),
        second - second.mean(),
        slope_down,
        slope_down * down,
        slope_across,
        slope_across * across,
    )
    matrix = np.stack([term.ravel() for term in terms], axis=1)
    difference = (first - second).ravel()
    squares = (matrix.T @ matrix).astype(np.float64)
    squares += 1e-6 * np.trace(squares) * np.eye(len(terms))  # some may be zero
    fitted = np.linalg.solve(squares, matrix.T @ difference)
    left = np.sqrt(((difference - matrix @ fitted) ** 2).mean())
    return float(left / min(_spread(first), _spread(second)))


def _identical(
    pairs: np.ndarray, digests: Callable[[Sequence[int]], Sequence[bytes]]
) -> np.ndarray:
    """Those of the pairs of files whose pixels are the same."""
    if not len(pairs):
        return pairs
    numbers, places = np.unique(pairs, return_inverse=True)
    found = np.array(digests(numbers.tolist()), "S32")[places.reshape(-1, 2)]
    return pairs[found[:, 0] == found[:, 1]]
