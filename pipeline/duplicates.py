"""Photos that show the same picture: hashes propose pairs, pixels decide.

Found: a photo and its copy encoded anew (down to JPEG quality 20), of another size,
turned by quarter turns, mirrored, a little brighter or darker, with up to 2 % of each
border cut off, made grey; or all of that together. Of 282 flower photos treated so, 99 % were
found, and 95 % of those with 2 % cut off.

Not found: larger cuts, turns by other angles, frames or writing added; and another
photo of the same thing. In plain pictures (discs on white) an object that
moved is another picture, so there nothing may be cut off.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline import command, phash, table

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
# Grey levels by which thumbnails of the same pixels differ if one was encoded anew.
_ENCODED_ANEW = 2
# Levels between the channels of a thumbnail that is grey; and what of BGR makes grey.
_GREY = 6
_LUMA = np.array([0.114, 0.587, 0.299], np.float32)
_AT_ONCE = 512  # pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Similar:
    """Which files show the same picture.

    Attributes:
        pairs: int64 [num_pairs, 2], numbers of files: not every pair that is similar,
            but all that are similar are connected.
        identical: int64 [n, 2], those of different classes whose pixels are the same,
            likewise connected.
        comparisons: of hashes and of thumbnails, that were made.
    """

    pairs: np.ndarray
    identical: np.ndarray
    comparisons: tuple[int, int]


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
    found: table.Table,
    thumbnail: Callable[[int], np.ndarray],
    digest: Callable[[int], bytes],
    partial: Path,
) -> Similar:
    """Searches all photos that are taken; of exact copies, one stands for all.

    Args:
        found: all files.
        thumbnail: number of a file -> uint8 [SIDE, SIDE, 3].
        digest: number of a file -> what only files of the same pixels have in common.
        partial: staging folder, for the thumbnails of those that have to be looked at.
    """
    taken = np.flatnonzero(found.taken)
    _, once = np.unique(found.found["sha256"][taken], return_index=True)
    numbers = taken[np.sort(once)]
    hashes, cells = np.unique(found.found["phash"][numbers], return_inverse=True)
    close = phash.Close(hashes)
    proposed = np.bincount(cells, minlength=len(hashes)) > 1
    proposed[close.first] = proposed[close.second] = True
    looked_at = np.flatnonzero(proposed[cells])
    numbers, cells = numbers[looked_at], cells[looked_at]
    thumbnails = _thumbnails(numbers, thumbnail, partial / "thumbnails")
    pairs = _pairs(cells, thumbnails, close)
    labels = found.labels[numbers]
    agreeing, alike = _compare(pairs, thumbnails, labels)
    return Similar(
        pairs=numbers[agreeing],
        identical=_identical(numbers[alike], digest),
        comparisons=(close.comparisons, len(pairs)),
    )


def _thumbnails(
    numbers: np.ndarray, thumbnail: Callable[[int], np.ndarray], path: Path
) -> np.ndarray:
    """uint8 [n, SIDE, SIDE, 3] of some files, in a file without a name."""
    if not len(numbers):
        return np.zeros((0, SIDE, SIDE, 3), np.uint8)
    found = np.memmap(path, np.uint8, "w+", shape=(len(numbers), SIDE, SIDE, 3))
    path.unlink()

    def fill(start: int) -> None:
        for place in range(start, min(start + _AT_ONCE, len(numbers))):
            found[place] = thumbnail(int(numbers[place]))

    with concurrent.futures.ThreadPoolExecutor(command.available_cpus()) as pool:
        for done in [pool.submit(fill, n) for n in range(0, len(numbers), _AT_ONCE)]:
            done.result()
    return found


# Two places among the thumbnails, how the first is turned, bits between the hashes.
_PAIR = np.dtype([("first", "<i8"), ("second", "<i8"), ("turn", "i1"), ("bits", "i1")])


def _pairs(
    cells: np.ndarray, thumbnails: np.ndarray, close: phash.Close
) -> np.ndarray:
    """Which thumbnails to compare, those of the closest hashes first.

    Args:
        cells: int64 [n], number of each one's hash.
        thumbnails: uint8 [n, SIDE, SIDE, 3].
        close: pairs of hashes.

    Returns:
        _PAIR [num_pairs], at most _NEAREST for each thumbnail and hash close to it.
    """
    # By hash, then by brightness, a mean over 256.
    values = cells + np.array([one.mean() / 256 for one in thumbnails])
    order = np.argsort(values, kind="stable")
    values, ordered = values[order], cells[order]
    found = []
    for distance in range(1, min(_NEAREST + 1, len(order))):
        same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        found.append(_listed(order[same], order[same + distance], 0, 0))

    starts = np.searchsorted(ordered, (close.first, close.second))
    counts = np.searchsorted(ordered, (close.first, close.second), "right") - starts
    pair, places = phash.expand(starts[0], counts[0])
    wanted = close.second[pair] + values[places] % 1
    ends = starts[1] + counts[1]
    nearest = np.searchsorted(values, wanted) - _NEAREST // 2
    begin = np.maximum(np.minimum(nearest, (ends - _NEAREST)[pair]), starts[1][pair])
    one, other = phash.expand(begin, np.minimum(ends[pair] - begin, _NEAREST))
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
    pairs: np.ndarray, thumbnails: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Looks at pairs of thumbnails, unless what is known already connects them.

    Returns:
        int64 [n, 2] twice: places of those that agree, and of those of different
        classes that might have the same pixels.
    """
    roots = np.arange(len(thumbnails))
    agreeing, alike = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
    for start in range(0, len(pairs), _AT_ONCE):
        some = pairs[start : start + _AT_ONCE]
        apart = roots[some["first"]] != roots[some["second"]]
        crossing = labels[some["first"]] != labels[some["second"]]
        some = some[apart | (crossing & (some["turn"] == 0))]
        if not len(some):
            continue
        first = thumbnails[some["first"]]
        for turn in np.unique(some["turn"]):
            first[some["turn"] == turn] = phash.turn(first[some["turn"] == turn], turn)
        second = thumbnails[some["second"]]
        agree, difference = _agree(first, second)
        places = np.stack([some["first"], some["second"]], axis=1)
        agreeing.append(places[agree])
        roots = join(roots, *places[agree].T)
        crossing = labels[some["first"]] != labels[some["second"]]
        crossing &= (some["turn"] == 0) & (difference <= _ENCODED_ANEW)
        alike.append(places[crossing])
    return np.concatenate(agreeing), np.concatenate(alike)


def _agree(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compares thumbnails, pair by pair.

    Args:
        first: uint8 [n, SIDE, SIDE, 3].
        second: likewise.

    Returns:
        bool [n], whether they show the same picture; float32 [n], root of the mean
        square of their difference.
    """
    one, other = first.astype(np.float32), second.astype(np.float32)
    grey = (np.ptp(first, axis=3).max((1, 2)) <= _GREY) != (
        np.ptp(second, axis=3).max((1, 2)) <= _GREY
    )
    for image in (one, other):
        image[grey] = (image[grey] @ _LUMA)[..., None]
    difference = np.sqrt(((one - other) ** 2).mean(axis=(1, 2, 3)))
    spread = np.minimum(_spread(one), _spread(other))
    agree = difference <= _SAME * spread
    for place in np.flatnonzero(~agree & (difference <= _MAY_BE_CUT * spread)):
        left = _left_when_fitted(_smooth(one[place]), _smooth(other[place]))
        agree[place] = left <= _CUT
    return agree, difference


def _spread(images: np.ndarray) -> np.ndarray:
    """float32 [..., SIDE, SIDE, 3] -> [...], 0 for one colour all over."""
    return np.sqrt(images.var(axis=(-3, -2)).mean(axis=-1))


def _smooth(image: np.ndarray) -> np.ndarray:
    """Means of neighbours, weighted 1, 2, 1 in both directions."""
    for axis in (0, 1):
        around = [(0, 0)] * 3
        around[axis] = (1, 1)
        padded = np.moveaxis(np.pad(image, around, "edge"), axis, 0)
        sums = padded[:-2] + 2 * padded[1:-1] + padded[2:]
        image = np.moveaxis(sums / 4, 0, axis)
    return image


def _left_when_fitted(first: np.ndarray, second: np.ndarray) -> float:
    """What differs if one may be moved, stretched and made brighter a little.

    To the first order that adds multiples of six images to it; least squares find how
    much of each. Source: B. D. Lucas and T. Kanade, An Iterative Image Registration
    Technique, 1981.

    Args:
        first: float32 [SIDE, SIDE, 3], smooth.
        second: likewise.

    Returns:
        Root of the mean square, as a share of the smaller standard deviation; infinity
        for a plain picture.
    """
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
    fitted = np.linalg.solve(matrix.T @ matrix, matrix.T @ difference)
    left = np.sqrt(((difference - matrix @ fitted) ** 2).mean())
    return float(left / min(_spread(first), _spread(second)))


def _identical(pairs: np.ndarray, digest: Callable[[int], bytes]) -> np.ndarray:
    """Those of the pairs of files whose pixels are the same."""
    digests = {int(number): digest(int(number)) for number in np.unique(pairs)}
    same = [digests[int(one)] == digests[int(other)] for one, other in pairs]
    return pairs[np.array(same, np.bool_)]
