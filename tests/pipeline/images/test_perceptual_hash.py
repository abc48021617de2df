import collections
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images import opencv, perceptual_hash

HASHES = st.integers(1, 2**64 - 1)


def hash_of(image):
    return int(perceptual_hash.hash_grey(image, *image.shape, 1), 16)


def distances(hashes):
    """{(first, second): bits that differ, in the best of the orientations}."""
    turned = perceptual_hash.turn_hashes(hashes)
    bits = np.bitwise_count(turned[:, :, None] ^ hashes).min(axis=0)
    pairs = itertools.combinations(range(len(hashes)), 2)
    return {pair: int(bits[pair]) for pair in pairs}


def pairs_of(close):
    return set(zip(close.first.tolist(), close.second.tolist(), strict=True))


@pytest.mark.parametrize("orientation", range(perceptual_hash.ORIENTATIONS))
def test_the_hash_of_a_turned_photo_follows_from_its_hash(orientation):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (32, 32, 1)).astype(np.uint8)
    hashes = np.array([hash_of(image[..., 0])], np.uint64)
    turned = opencv.turn_pixels(image, orientation)[..., 0]
    assert hash_of(turned) == perceptual_hash.turn_hashes(hashes)[orientation, 0]


@given(HASHES)
def test_turning_twice_gives_one_of_the_eight_orientations(number):
    """Turned in any way, the set of all eight stays the same."""
    hashes = np.array([number], np.uint64)
    eight = perceptual_hash.turn_hashes(hashes)[:, 0]
    assert {*eight.tolist()} == {*perceptual_hash.turn_hashes(eight).ravel().tolist()}


@pytest.mark.parametrize("level", [0, 1, 128, 255])
@pytest.mark.parametrize("shape", [(32, 32), (42, 63), (1, 1), (3, 200)])
def test_plain_photos_have_the_hash_of_all_ones(level, shape):
    plain = np.full(shape, level, np.uint8)
    assert perceptual_hash.hash_grey(plain, *shape, 1) == "f" * 16
    height, width = shape[0] * 8 - 5, shape[1] * 8 - 1  # the last cells are cut off
    assert perceptual_hash.hash_grey(plain, height, width, 8) == "f" * 16


def test_incomplete_cells_at_the_border_do_not_stretch_the_photo():
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (9, 9)).astype(np.float32)
    image = coarse.repeat(37, axis=0).repeat(41, axis=1).astype(np.uint8)
    height, width = image.shape
    padded = np.pad(image, ((0, -height % 8), (0, -width % 8)), "edge")
    cells = padded.reshape(len(padded) // 8, 8, -1, 8).mean(axis=(1, 3))
    by_cells = perceptual_hash.hash_grey(cells.astype(np.uint8), height, width, 8)
    assert (hash_of(image) ^ int(by_cells, 16)).bit_count() <= 2


def similar_hashes(random, count, share):
    """Hashes in which this share of the bits is set, at random."""
    bits = random.random((count, 64)) < share
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


class TestClosePairs:
    @given(
        st.lists(HASHES, min_size=1, max_size=8),
        st.lists(
            st.tuples(
                st.integers(0, 7),
                st.integers(0, 7),
                st.sets(st.integers(0, 63), max_size=8),
            ),
            max_size=12,
        ),
    )
    def test_hashes_within_six_bits_are_found_in_any_orientation(self, base, changes):
        hashes = {*base}
        for which, orientation, bits in changes:
            own = np.array([base[which % len(base)]], np.uint64)
            turned = int(perceptual_hash.turn_hashes(own)[orientation, 0])
            hashes.add(turned ^ sum(1 << bit for bit in bits))
        hashes = np.array(sorted(hashes), np.uint64)
        close = perceptual_hash.ClosePairs(hashes)
        all_pairs = distances(hashes)
        found = pairs_of(close)
        missed = {pair for pair, bits in all_pairs.items() if bits <= 6} - found
        # A hash that looks the same in many orientations soon has the most pairs.
        per_hash = collections.Counter(close.first.tolist())
        assert all(per_hash[one] == perceptual_hash.MAX_CLOSE for one, _ in missed)
        assert all(all_pairs[pair] <= perceptual_hash.MAX_BITS for pair in found)

    def test_a_pair_states_how_its_first_hash_is_turned(self):
        random = np.random.default_rng(0)
        own = random.integers(1, 2**63, 1, dtype=np.uint64)
        for orientation, turned in enumerate(perceptual_hash.turn_hashes(own)[:, 0]):
            hashes = np.unique(np.r_[own, turned ^ np.uint64(5)])
            close = perceptual_hash.ClosePairs(hashes)
            assert pairs_of(close) == {(0, 1)}, orientation
            first = perceptual_hash.turn_hashes(hashes)[close.orientations, 0]
            assert (np.bitwise_count(first ^ hashes[1]) == close.distances).all()

    @pytest.mark.parametrize("kind", ["any", "alike", "one byte"])
    def test_comparisons_are_not_quadratic(self, kind):
        """However the hashes are distributed; time follows from their number."""
        random = np.random.default_rng(0)
        most = 28 * perceptual_hash.ORIENTATIONS * perceptual_hash.WINDOW
        for count in (1000, 4000):
            if kind == "any":
                hashes = random.integers(1, 2**63, count, dtype=np.uint64)
            elif kind == "alike":  # all within a few bits
                hashes = similar_hashes(random, count, 0.06)
            else:  # differ in one byte and a half
                hashes = random.integers(1, 2**12, count, dtype=np.uint64)
            hashes = np.unique(hashes)
            close = perceptual_hash.ClosePairs(hashes)
            assert close.comparisons <= most * len(hashes)
            assert np.bincount(close.first, minlength=1).max() <= 16
        if kind == "any":
            assert close.comparisons < 100 * count

    def test_copies_are_found_among_many_similar_hashes(self):
        """Among thousands that are alike, the closest are compared."""
        random = np.random.default_rng(1)
        crowd = similar_hashes(random, 4000, 0.15)
        copies = crowd[:200] ^ np.uint64(1) << random.integers(0, 64, 200).astype("u8")
        hashes = np.unique(np.r_[crowd, copies])
        expected = {
            tuple(sorted(np.searchsorted(hashes, pair).tolist()))
            for pair in zip(crowd[:200], copies, strict=True)
        }
        close = pairs_of(perceptual_hash.ClosePairs(hashes))
        assert len(close & expected) >= 0.98 * len(expected)

    @pytest.mark.parametrize("count", [0, 1])
    def test_no_hash_or_one_makes_no_pair(self, count):
        close = perceptual_hash.ClosePairs(np.arange(1, count + 1).astype(np.uint64))
        assert len(close.first) == len(close.orientations) == 0
