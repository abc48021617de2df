"""Compare thumbnails pixel by pixel: do two photos show the same picture?"""

import math
import mmap
import tempfile
from collections.abc import Sequence

import numpy as np

from pipeline.images import opencv, perceptual_hash
from pipeline.system import platform_support

SIDE = 32  # of a thumbnail, in pixels
# Limits of the difference (root of the mean square), as a share of the thumbnail's own
# standard deviation. Below this one, two thumbnails show the same, whatever it is:
_SAME = 0.15
# Below these, one may be the other made brighter and cut off a little: the difference
# before and after fitting that. Copies of flowers leave at most 0.18 after fitting, the
# most similar other photos 0.36.
_MAY_BE_CUT = 0.6
_CUT = 0.2
_ROUNDING = 0.01  # levels by which means of pixels may be inexact
# Share of a thumbnail's pixels that must belong to its texture for that: of photos, 99
# in 100 have 0.38 or more; discs on white have 0.24 at most.
_TEXTURED = 1 / 3
_TEXTURE = 0.1  # slope, as a share of the standard deviation
# Levels between the channels of a grey thumbnail; and weights of BGR that make grey.
_GREY = 6
_LUMA = np.array([0.114, 0.587, 0.299], np.float32)
AT_ONCE = 128  # thumbnails or pairs, whose float32 copies take 12 KB each
# Matrix that takes the means of neighbours, weighted 1, 2, 1.
_NEIGHBOURS = np.sum([np.eye(SIDE, k=k, dtype=np.float32) for k in (-1, 0, 0, 1)], 0)
_MEANS = _NEIGHBOURS / _NEIGHBOURS.sum(axis=1, keepdims=True)
# Indices of two thumbnails, how the first is turned, bits between their hashes.
PAIR = np.dtype([("first", "<i4"), ("second", "<i4"), ("turn", "i1"), ("bits", "i1")])


class Thumbnails:
    """Thumbnails of the photos that may have near-duplicates, as columns.

    Their pixels are in a nameless file, and only while they are used in memory.

    Attributes:
        labels: int64 [n], equal for photos of the same class.
        brightness: float64 [n], mean of the pixels, 0..1.
        deviation: float32 [n], standard deviation; 0 for one colour all over.
        quarters: float32 [n, 2, 2, 3], BGR, means of the four quarters.
        is_grey: bool [n].
    """

    def __init__(self, labels: np.ndarray) -> None:
        """Make room for a thumbnail of each label."""
        self.labels = labels
        self.brightness = np.zeros(len(labels))
        self.deviation = np.zeros(len(labels), np.float32)
        self.quarters = np.zeros((len(labels), 2, 2, 3), np.float32)
        self.is_grey = np.zeros(len(labels), np.bool_)
        shape = (len(labels), SIDE, SIDE, 3)
        with tempfile.TemporaryFile() as file:
            file.truncate(max(1, math.prod(shape)))
            mapped = mmap.mmap(file.fileno(), 0)
        self._pixels = np.ndarray(shape, np.uint8, mapped)

    def store(self, start: int, images: Sequence[np.ndarray]) -> None:
        """Store and measure images, uint8 [SIDE, SIDE, 3], BGR, from place `start` on.

        Threads may store different ones at once.
        """
        pixels = np.stack(images)
        block = slice(start, start + len(images))
        self._pixels[block] = pixels
        platform_support.release_pages(self._pixels)
        self.brightness[block] = pixels.reshape(len(images), -1).mean(axis=1) / 256
        values, half = pixels.astype(np.float32), SIDE // 2
        self.deviation[block] = _deviation(values)
        rows = values.reshape(-1, 2, half, SIDE * 3).sum(
            axis=2
        )  # faster than both at once
        self.quarters[block] = rows.reshape(-1, 2, 2, half, 3).sum(axis=3) / half**2
        blue, green, red = np.moveaxis(pixels, -1, 0)
        highest = np.maximum(np.maximum(blue, green), red)
        lowest = np.minimum(np.minimum(blue, green), red)
        self.is_grey[block] = (highest - lowest).max(axis=(1, 2)) <= _GREY

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """Return thumbnails as float32 [len(indices), SIDE, SIDE, 3], BGR."""
        pixels = self._pixels[indices].astype(np.float32)
        platform_support.release_pages(self._pixels)
        return pixels


def compare_pairs(
    pairs: np.ndarray, may_be_cut: np.ndarray, thumbnails: Thumbnails
) -> tuple[np.ndarray, np.ndarray]:
    """Compare thumbnails, pair by pair: PAIR [n], of places in `thumbnails`.

    Where `may_be_cut`, bool [n], a photo also counts as the same when it is made
    brighter and cut off a little; finding that out takes longer.

    Returns:
        bool [n] twice: whether both show the same picture, and whether so closely that
        the photos might have the same pixels.
    """
    pixels, others = map(thumbnails.pixels, (pairs["first"], pairs["second"]))
    difference, deviation, grey = _differences(pairs, pixels, others, thumbnails)
    for images in (pixels, others):
        deviation[grey] = np.minimum(deviation[grey], _deviation(images[grey]))
    closely = (difference <= _SAME * deviation) & ~grey
    agree = closely.copy()
    to_fit = ~closely & may_be_cut & (difference <= _MAY_BE_CUT * deviation)
    for index in np.flatnonzero(to_fit):
        agree[index] = _difference_when_fitted(pixels[index], others[index]) <= _CUT
    return agree, closely


def could_agree(pairs: np.ndarray, thumbnails: Thumbnails) -> np.ndarray:
    """Return which pairs could agree, by the means of their quarters alone: bool [n].

    Two thumbnails differ at least as much as these means. `pairs` are PAIR [n].
    """
    first, second = (thumbnails.quarters[pairs[n]] for n in ("first", "second"))
    difference, deviation, _ = _differences(pairs, first, second, thumbnails)
    return difference <= _MAY_BE_CUT * deviation + _ROUNDING


def _differences(
    pairs: np.ndarray, images: np.ndarray, others: np.ndarray, thumbnails: Thumbnails
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn the first images of pairs, make both grey if one is, and compare them.

    The results are [n] each: the root of the mean square of the difference, the smaller
    standard deviation of the thumbnails, and whether only one of them was grey.
    """
    for turn in range(1, perceptual_hash.ORIENTATIONS):
        turned = pairs["turn"] == turn
        images[turned] = opencv.turn_pixels(images[turned], turn)
    first, second = pairs["first"], pairs["second"]
    grey = thumbnails.is_grey[first] != thumbnails.is_grey[second]
    for changed in (images, others):
        changed[grey] = (changed[grey] @ _LUMA)[..., None]
    residual = (images - others).reshape(len(pairs), math.prod(images.shape[1:]))
    difference = np.sqrt(np.einsum("nk,nk->n", residual, residual) / residual.shape[1])
    deviation = np.minimum(thumbnails.deviation[first], thumbnails.deviation[second])
    return difference, deviation, grey


def _deviation(images: np.ndarray) -> np.ndarray:
    """Return the standard deviation, [...], of float32 [..., SIDE, SIDE, 3]."""
    channels = images.reshape(*images.shape[:-3], SIDE * SIDE, 3)
    residual = channels - np.einsum("...kc->...c", channels)[..., None, :] / SIDE**2
    return np.sqrt(np.einsum("...kc,...kc->...", residual, residual) / SIDE**2 / 3)


def _smooth(image: np.ndarray) -> np.ndarray:
    """Return the means of neighbours in both directions."""
    across = _MEANS @ image
    return (_MEANS @ across.swapaxes(0, 1)).swapaxes(0, 1)


def _difference_when_fitted(first: np.ndarray, second: np.ndarray) -> float:
    """Return what differs if one may be moved, stretched and made brighter a little.

    To the first order that adds multiples of six images to it; least squares find how
    much of each. The result is the root of the mean square, as a share of the smaller
    standard deviation; infinity for a plain picture. Source: B. D. Lucas and T. Kanade,
    An Iterative Image Registration Technique, 1981.
    """
    first, second = _smooth(first), _smooth(second)
    slope_down, slope_across = np.gradient((first + second) / 2, axis=(0, 1))
    grey_slope = np.hypot(slope_down.mean(axis=2), slope_across.mean(axis=2))
    if (grey_slope > _TEXTURE * _deviation(first)).mean() < _TEXTURED:
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
    residual = np.sqrt(((difference - matrix @ fitted) ** 2).mean())
    return float(residual / min(_deviation(first), _deviation(second)))
