"""Perceptual hashes: the look of a photo in 64 bits, and which of many are close.

After pHash (C. Zauner, Implementation and Benchmarking of Perceptual Image Hash
Functions, 2010): the 8 x 8 lowest frequencies of the discrete cosine transform of the
grey photo, stretched to a square. A bit is the sign of its coefficient, not whether it
is above their median: the hash of the photo turned or mirrored then follows from the
bits alone. Bit 8u + v, counted from the highest, is frequency u down and v across; the
first stands for the mean and is always set, so that 0 can mean "no hash".
"""

import functools
import itertools

import numpy as np

SIDE = 8
# Grey levels below which a frequency is not there: the sign of nothing is +.
_ABSENT = 1e-3
# Copies of 282 flower photos with 1 % cut off each border, half the size, 1.05 times
# as bright and of JPEG quality 60 differ in 2.6 bits on average, 99 % in at most 8;
# with 2 % cut off, 97 %. Of 634,000 pairs of flower photos in eight orientations, two
# that were not copies differ in no more.
MAX_BITS = 8
# Hashes within 6 bits have two of their eight bytes in common; of those with 7 or 8
# bits between them, hardly one in a hundred has not.
_BYTE_PAIRS = tuple(itertools.combinations(range(SIDE), 2))
ORIENTATIONS = 8
# Hashes with two bytes in common that one hash is compared with, at most.
WINDOW = 32
# Close hashes that are kept for one hash: the closest.
_MOST_CLOSE = 16
_AT_ONCE = 1 << 15  # hashes
_MOST_WAITING = 1 << 20  # pairs


@functools.lru_cache(maxsize=1024)
def _cosines(cells: int, pixels: int, cell: int) -> np.ndarray:
    """The lowest frequencies, summed over each of the cells that cover a side."""
    edges = np.minimum(np.arange(cells + 1) * cell, pixels) / pixels
    angles = np.pi * np.arange(1, SIDE)[:, None]
    waves = np.diff(np.sin(angles * edges)) / angles
    return np.vstack([np.diff(edges), waves]).astype(np.float32)


def of(grey: np.ndarray, height: int, width: int, cell: int) -> str:
    """Hashes a photo.

    The transform is taken over the photo's true size, so that a decoder's padding does
    not stretch it: with that, half as many bits differ between a photo and its copies.

    Args:
        grey: uint8 [ceil(height / cell), ceil(width / cell)], means of square cells.
        height: of the photo, in pixels.
        width: likewise.
        cell: side of a cell, in pixels.

    Returns:
        16 hex digits, not all 0.
    """
    down = _cosines(grey.shape[0], height, cell)
    across = _cosines(grey.shape[1], width, cell)
    found = down.dot(grey.astype(np.float32)).dot(across.T)
    return np.packbits(found > -_ABSENT).tobytes().hex()


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns or mirrors images as `turned` turns their hashes.

    Args:
        pixels: [..., side, side, channels].
        orientation: 0..7; 0 leaves them as they are.
    """
    if orientation & 4:
        pixels = pixels.swapaxes(-3, -2)
    if orientation & 2:
        pixels = pixels[..., ::-1, :, :]
    return pixels[..., ::-1, :] if orientation & 1 else pixels


def turned(hashes: np.ndarray) -> np.ndarray:
    """Hashes of photos in all eight orientations.

    Transposing a photo transposes its coefficients; mirroring it changes the signs of
    the odd frequencies.

    Args:
        hashes: uint64 [n].

    Returns:
        uint64 [8, n], the first row being `hashes`.
    """
    bits = np.unpackbits(_bytes(hashes), axis=1).reshape(-1, SIDE, SIDE)
    transposed = _pack(bits.swapaxes(1, 2))
    odd = np.arange(SIDE, dtype=np.uint8) % 2
    down, across = _pack(np.stack([odd.repeat(SIDE), np.tile(odd, SIDE)]))
    signs = (np.uint64(0), across, down, across ^ down)
    return np.stack([own ^ sign for own in (hashes, transposed) for sign in signs])


def _pack(bits: np.ndarray) -> np.ndarray:
    """uint8 of 0 and 1, [n, ...] of 64 values each -> uint64 [n]."""
    packed = np.packbits(bits.reshape(-1, SIDE**2), axis=1)
    return packed.view(">u8")[:, 0].astype(np.uint64)


def _bytes(hashes: np.ndarray) -> np.ndarray:
    """uint64 [...] -> uint8 [..., 8], the highest first."""
    return hashes.astype(">u8")[..., None].view(np.uint8)


class Close:
    """Pairs of hashes that differ in at most MAX_BITS in one of the orientations.

    Not quadratic: a hash is compared with those that have two bytes in common with it,
    and with no more than WINDOW for each of the 28 pairs of bytes and each orientation.

    Attributes:
        first: int64 [num_pairs], number of a hash.
        second: likewise, a higher one.
        orientations: int8 [num_pairs]: `second` is close to `first` turned so.
        distances: uint8 [num_pairs], bits that differ.
        comparisons: of one hash with one other, that were made.
    """

    def __init__(self, hashes: np.ndarray) -> None:
        """Searches.

        Args:
            hashes: uint64 [n], ascending and all different.
        """
        self.comparisons = 0
        self._hashes = hashes
        self._pairs = [np.zeros(0, np.int64)]
        self._distances = [np.zeros(0, np.uint8)]
        self._waiting = 0
        wanted = turned(hashes).ravel()
        places = np.searchsorted(hashes, wanted)
        own_bytes, wanted_bytes = _bytes(hashes), _bytes(wanted)
        for one, other in _BYTE_PAIRS:
            cells = _Cells(hashes, _key(own_bytes, one, other))
            keys = _key(wanted_bytes, one, other)
            for start in range(0, len(wanted), _AT_ONCE):
                some = slice(start, start + _AT_ONCE)
                self._compare(cells, wanted[some], keys[some], places[some], start)
        pairs, self.distances = self._kept()
        pairs, orientations = np.divmod(pairs, ORIENTATIONS)
        self.first, self.second = np.divmod(pairs, max(1, len(hashes)))
        self.orientations = orientations.astype(np.int8)

    def _compare(
        self,
        cells: "_Cells",
        wanted: np.ndarray,
        keys: np.ndarray,
        places: np.ndarray,
        start: int,
    ) -> None:
        """Compares some of the turned hashes, from number `start`, with their cells."""
        queries, members = cells.members(keys, places)
        self.comparisons += len(queries)
        distances = np.bitwise_count(cells.hashes[members] ^ wanted[queries])
        close = np.flatnonzero(distances <= MAX_BITS)
        orientations, first = np.divmod(queries[close] + start, len(self._hashes))
        second = cells.numbers[members[close]]
        pairs = (first * len(self._hashes) + second) * ORIENTATIONS + orientations
        upward = first < second
        self._pairs.append(pairs[upward])
        self._distances.append(distances[close[upward]])
        self._waiting += int(upward.sum())
        if self._waiting > _MOST_WAITING:
            kept, distances = self._kept()
            self._pairs, self._distances, self._waiting = [kept], [distances], 0

    def _kept(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs found so far, each once; of each hash, only the closest."""
        pairs, once = np.unique(np.concatenate(self._pairs), return_index=True)
        distances = np.concatenate(self._distances)[once]
        first = pairs // (len(self._hashes) * ORIENTATIONS)
        order = np.lexsort((distances, first))
        first = first[order]
        rank = np.arange(len(first)) - np.searchsorted(first, first)
        kept = np.sort(order[rank < _MOST_CLOSE])
        return pairs[kept], distances[kept]


def _key(hash_bytes: np.ndarray, one: int, other: int) -> np.ndarray:
    return hash_bytes[:, one].astype(np.int64) << 8 | hash_bytes[:, other]


class _Cells:
    """Hashes by two of their bytes.

    Attributes:
        hashes: uint64 [n], cell by cell, ascending within each.
        numbers: int64 [n], of each among all hashes.
    """

    def __init__(self, hashes: np.ndarray, keys: np.ndarray) -> None:
        self.numbers = np.argsort(keys.astype(np.uint16), kind="stable")
        self.hashes = hashes[self.numbers]
        self._starts = np.r_[0, np.cumsum(np.bincount(keys, minlength=1 << 16))]
        # Ascending over all cells, to find a place within one.
        self._ranks = keys[self.numbers] * len(keys) + self.numbers

    def members(
        self, keys: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whom to compare with: the whole cell, or the WINDOW nearest in value.

        Args:
            keys: int64 [n], the cells that are wanted.
            places: int64 [n], where the wanted hashes would stand among all.

        Returns:
            int64 [m] twice: number of the wanted one, place of one in its cell.
        """
        starts = self._starts[keys]
        counts = self._starts[keys + 1] - starts
        large = np.flatnonzero(counts > WINDOW)
        if len(large):
            wanted = keys[large] * len(self.numbers) + places[large]
            middle = np.searchsorted(self._ranks, wanted) - WINDOW // 2
            last = starts[large] + counts[large] - WINDOW
            starts[large] = np.clip(middle, starts[large], last)
            counts[large] = WINDOW
        return expand(starts, counts)


def expand(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists runs: run k has the numbers from starts[k], counts[k] of them.

    Returns:
        int64 [sum of the counts] twice: k, and the number.
    """
    before = np.cumsum(counts) - counts
    runs = np.repeat(np.arange(len(counts)), counts)
    return runs, np.repeat(starts - before, counts) + np.arange(len(runs))
