"""Hash the look of a photo to 64 bits, and find the hashes that are close.

After pHash (C. Zauner, Implementation and Benchmarking of Perceptual Image Hash
Functions, 2010): the 8 x 8 lowest frequencies of the discrete cosine transform of the
grey photo, stretched to a square. A bit is the sign of its coefficient, not whether it
is above their median: the hash of the photo turned or mirrored then follows from the
bits alone. Bit 8u + v, counted from the highest, is frequency u down and v across; the
first stands for the mean and is always set, so that 0 can mean "no hash".
"""

import functools
import itertools
import threading
from concurrent import futures

import numpy as np

from pipeline.system import command_line

SIDE = 8
# Grey levels below which a frequency counts as absent; its bit is then set.
_ABSENT = 1e-3
# Bits in which 99 % of copies differ at most (flower photos, shrunk, brighter, of JPEG
# quality 60, cropped by 1 % on each side); so do 2 of 634,000 other pairs.
MAX_BITS = 8
# Hashes that differ in up to 6 bits have two of their eight bytes in common; of those
# that differ in 7 or 8 bits, about 99 % do.
_BYTE_PAIRS = tuple(itertools.combinations(range(SIDE), 2))
ORIENTATIONS = 8
# Hashes with two bytes in common that one hash is compared with, at most.
WINDOW = 32
# Close hashes that are kept for one hash, at most.
MAX_CLOSE = 16
_BLOCK_HASHES = 1 << 14
_MAX_WAITING_PAIRS = 1 << 20


@functools.lru_cache(maxsize=1024)
def _cosines(cells: int, pixels: int, cell: int) -> np.ndarray:
    """Return the lowest frequencies, summed over each of the cells along a side."""
    edges = np.minimum(np.arange(cells + 1) * cell, pixels) / pixels
    angles = np.pi * np.arange(1, SIDE)[:, None]
    waves = np.diff(np.sin(angles * edges)) / angles
    return np.vstack([np.diff(edges), waves]).astype(np.float32)


def hash_grey(grey: np.ndarray, height: int, width: int, cell: int) -> str:
    """Return the hash of a photo as 16 hex digits, not all 0.

    The transform is taken over the photo's true size, so that a decoder's padding does
    not stretch it: with that, half as many bits differ between a photo and its copies.

    Grey is uint8 [ceil(height / cell), ceil(width / cell)], means of square cells.
    """
    down = _cosines(grey.shape[0], height, cell)
    across = _cosines(grey.shape[1], width, cell)
    frequencies = down.dot(grey.astype(np.float32)).dot(across.T)
    return np.packbits(frequencies > -_ABSENT).tobytes().hex()


def turn_hashes(hashes: np.ndarray) -> np.ndarray:
    """Return the hashes that photos have in all eight orientations.

    Transposing a photo transposes its coefficients; mirroring it changes the signs of
    the odd frequencies. The result for uint64 [num_hashes] is uint64 [8, num_hashes];
    its first row is `hashes`.
    """
    bits = np.unpackbits(_bytes(hashes), axis=1).reshape(-1, SIDE, SIDE)
    transposed = _pack(bits.swapaxes(1, 2))
    odd = np.arange(SIDE, dtype=np.uint8) % 2
    down, across = _pack(np.stack([odd.repeat(SIDE), np.tile(odd, SIDE)]))
    signs = (np.uint64(0), across, down, across ^ down)
    return np.stack([base ^ sign for base in (hashes, transposed) for sign in signs])


def _pack(bits: np.ndarray) -> np.ndarray:
    """Pack uint8 of 0 and 1, [n, ...] with 64 values each, to uint64 [n]."""
    packed = np.packbits(bits.reshape(-1, SIDE**2), axis=1)
    return packed.view(">u8")[:, 0].astype(np.uint64)


def _bytes(hashes: np.ndarray) -> np.ndarray:
    """Split uint64 [...] into uint8 [..., 8], the highest byte first."""
    return hashes.astype(">u8")[..., None].view(np.uint8)


class ClosePairs:
    """Pairs of hashes that differ in at most MAX_BITS in one of the orientations.

    The search is not quadratic: a hash is compared with those that have two bytes in
    common with it, and with at most WINDOW for each of the 28 pairs of bytes and each
    orientation.

    Attributes:
        first, second: int64 [num_pairs], numbers of the two hashes, the lower first.
        orientations: int8 [num_pairs], 0..7: how `first` is turned to be like `second`.
        distances: uint8 [num_pairs], number of bits that differ.
        comparisons: number of pairs that were compared.
    """

    def __init__(self, hashes: np.ndarray) -> None:
        """Search all pairs of uint64 [num_hashes], ascending and all different."""
        self.comparisons = 0
        self._hashes = hashes
        self._pairs = [np.zeros(0, np.int64)]  # two hashes and orientation in one
        self._distances = [np.zeros(0, np.uint8)]
        self._waiting, self._lock = 0, threading.Lock()
        # Block by block: each further array of all queries takes 64 bytes a photo.
        by_turn = np.empty((ORIENTATIONS, len(hashes)), np.uint64)
        places_by_turn = np.empty(by_turn.shape, np.int32)
        for start in range(0, len(hashes), _BLOCK_HASHES):
            block = slice(start, start + _BLOCK_HASHES)
            by_turn[:, block] = turn_hashes(hashes[block])
            places_by_turn[:, block] = np.searchsorted(hashes, by_turn[:, block])
        queries, places = by_turn.ravel(), places_by_turn.ravel()

        def search(pair: tuple[int, int]) -> None:
            cells = _Cells(hashes, pair)
            for start in range(0, len(queries), _BLOCK_HASHES):
                block = slice(start, start + _BLOCK_HASHES)
                self._compare(cells, queries[block], places[block], start)

        with futures.ThreadPoolExecutor(command_line.available_cpus()) as pool:
            list(pool.map(search, _BYTE_PAIRS))  # raises its errors
        pairs, self.distances = self._closest()
        pairs, orientations = np.divmod(pairs, ORIENTATIONS)
        self.first, self.second = np.divmod(pairs, max(1, len(hashes)))
        self.orientations = orientations.astype(np.int8)

    def _compare(
        self, cells: "_Cells", queries: np.ndarray, places: np.ndarray, start: int
    ) -> None:
        """Compare a block of turned hashes, from number `start`, with their cells."""
        starts, counts = cells.members(queries, places)
        bits = cells.windows[starts]  # whole windows are faster than members alone
        distances = np.bitwise_count(np.bitwise_xor(bits, queries[:, None], out=bits))
        near = np.flatnonzero(distances <= MAX_BITS)
        numbers, columns = np.divmod(near, distances.shape[1])
        orientations, first = np.divmod(numbers + start, len(self._hashes))
        place = np.minimum(starts[numbers] + columns, len(self._hashes) - 1)
        second = cells.numbers[place]
        kept = (columns < counts[numbers]) & (first < second)
        pairs = (first * len(self._hashes) + second) * ORIENTATIONS + orientations
        with self._lock:
            self.comparisons += int(counts.sum())
            self._pairs.append(pairs[kept])
            self._distances.append(distances.ravel()[near[kept]])
            self._waiting += int(kept.sum())
            if self._waiting > _MAX_WAITING_PAIRS:
                closest, distances = self._closest()
                self._pairs, self._distances, self._waiting = [closest], [distances], 0

    def _closest(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs so far, each once, and for each hash only the closest."""
        pairs, once = np.unique(np.concatenate(self._pairs), return_index=True)
        distances = np.concatenate(self._distances)[once]
        first = pairs // (len(self._hashes) * ORIENTATIONS)
        order = np.lexsort((distances, first))
        first = first[order]
        rank = np.arange(len(first)) - np.searchsorted(first, first)
        closest = np.sort(order[rank < MAX_CLOSE])
        return pairs[closest], distances[closest]


class _Cells:
    """Hashes in cells; those of a cell have the same two bytes.

    Attributes:
        windows: uint64 [num_hashes, width], each hash and those after it, cell by cell,
            ascending within each; no query has more members.
        numbers: int64 [num_hashes], the number of each among all hashes.
    """

    def __init__(self, hashes: np.ndarray, pair: tuple[int, int]) -> None:
        self._pair = pair
        keys = self._keys(hashes)
        self.numbers = np.argsort(keys.astype(np.uint16), kind="stable")
        sizes = np.bincount(keys, minlength=1 << 16)
        self._starts = np.r_[0, np.cumsum(sizes)]
        # Ascending over all cells, to find a place within one.
        self._ranks = keys[self.numbers] * len(keys) + self.numbers
        width = min(WINDOW, int(sizes.max()))
        ordered = np.r_[hashes[self.numbers], np.zeros(width, np.uint64)]
        self.windows = np.lib.stride_tricks.sliding_window_view(ordered, width)

    def _keys(self, hashes: np.ndarray) -> np.ndarray:
        first, second = _bytes(hashes)[:, self._pair].T
        return first.astype(np.int64) << 8 | second

    def members(
        self, queries: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the hashes to compare with: a whole cell, or the WINDOW nearest in it.

        `places` has the place of each query among all hashes. The result is int64
        [num_queries] twice: place of the first one in `numbers`, and how many.
        """
        keys = self._keys(queries)
        starts = self._starts[keys]
        counts = self._starts[keys + 1] - starts
        large = np.flatnonzero(counts > WINDOW)
        if len(large):
            ranks = keys[large] * len(self.numbers) + places[large]
            middle = np.searchsorted(self._ranks, ranks) - WINDOW // 2
            last = starts[large] + counts[large] - WINDOW
            starts[large] = np.clip(middle, starts[large], last)
            counts[large] = WINDOW
        return starts, counts


def expand(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List (k, number) for all numbers of runs: run k has counts[k], from starts[k]."""
    before = np.cumsum(counts) - counts
    runs = np.repeat(np.arange(len(counts)), counts)
    return runs, np.repeat(starts - before, counts) + np.arange(len(runs))
