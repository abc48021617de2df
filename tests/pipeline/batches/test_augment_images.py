import functools

import numpy as np
import pytest

from pipeline.batches import augmentation_settings, random_augmentation

MOVES = augmentation_settings.Augmentation(rotation=1.0)
RECOLOURS = augmentation_settings.Augmentation(
    brightness=0.5, contrast=0.5, saturation=0.5
)
GREY = np.array([0.299, 0.587, 0.114])


@pytest.fixture
def change(apply):
    """Changes one image."""

    def change(augmentation, image, numbers):
        numbers = np.asarray(numbers, np.float64)
        augment = functools.partial(random_augmentation.augment, augmentation)
        found = apply(augment, image, numbers)
        assert found.shape == image.shape
        assert found.dtype == np.uint8
        return found

    return change


def scene(size_px=9):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (size_px, size_px, 3), np.uint8)


def moving(size_px, turn=0.0, down=0.0, right=0.0, shear=0.0, tall=1.0, wide=1.0):
    """The six numbers of a move, by matrices of (row, column)."""
    turn, shear = np.radians([turn, shear])
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    offset = matrix @ (down, right)
    matrix = matrix @ [[1, -np.sin(shear)], [0, np.cos(shear)]] @ np.diag([tall, wide])
    centre = np.full(2, (size_px - 1) / 2)
    offset += centre - matrix @ centre
    (e, d), (b, a) = matrix
    return [a, b, offset[1], d, e, offset[0]]


def sampled(image, numbers):
    """Each pixel from its place in the image, bilinearly."""
    last = len(image) - 1
    y, x = np.mgrid[: last + 1, : last + 1]
    column, row = (
        np.clip(a * x + b * y + c, 0, last) for a, b, c in np.reshape(numbers, (2, 3))
    )
    left, top = column.astype(int), row.astype(int)
    right, bottom = np.minimum(left + 1, last), np.minimum(top + 1, last)
    over, under = (column - left)[..., None], (row - top)[..., None]
    upper = (1 - over) * image[top, left] + over * image[top, right]
    lower = (1 - over) * image[bottom, left] + over * image[bottom, right]
    return (1 - under) * upper + under * lower


@pytest.mark.parametrize("quarters", [0, -1, 1, 2])
@pytest.mark.parametrize("size_px", [8, 9])
def test_quarter_turns_move_every_pixel_exactly(change, size_px, quarters):
    image = scene(size_px)
    found = change(MOVES, image, moving(size_px, turn=90 * quarters))
    expected = np.rot90(image, -quarters)
    assert np.abs(found.astype(int) - expected).max() <= bool(quarters)


@pytest.mark.parametrize(("down", "right"), [(2, 0), (0, -3), (-1, 4), (20, 0)])
def test_whole_shifts_repeat_the_border(change, down, right):
    image = scene()
    found = change(MOVES, image, moving(9, down=down, right=right))
    rows = np.clip(np.arange(9) + down, 0, 8)
    columns = np.clip(np.arange(9) + right, 0, 8)
    assert (found == image[rows][:, columns]).all()


@pytest.mark.parametrize(
    "move",
    [
        {"turn": 17.0},
        {"down": 0.3, "right": -1.6},
        {"shear": 25.0},
        {"tall": 0.7, "wide": 1.4},
        {"turn": -40.0, "down": 1.2, "right": 0.4, "shear": -8.0, "tall": 1.3},
        {"tall": 0.0, "wide": 0.0},
    ],
    ids=str,
)
def test_fractional_moves_are_bilinear(change, move):
    image = scene()
    numbers = moving(9, **move)
    found = change(MOVES, image, numbers)
    assert np.abs(found - sampled(image, numbers)).max() <= 0.51


def by_hand(image, brightness=1.0, contrast=1.0, saturation=1.0):
    """One after the other, as the definitions read."""
    pixels = image.astype(np.float64) * brightness
    mean = (pixels @ GREY).mean()
    pixels = contrast * pixels + (1 - contrast) * mean
    grey = (pixels @ GREY)[..., None]
    pixels = saturation * pixels + (1 - saturation) * grey
    return np.clip(pixels, 0, 255)


@pytest.mark.parametrize(
    "factors",
    [
        {"brightness": 1.7},
        {"contrast": 0.4},
        {"contrast": 1.8},
        {"saturation": 1.6},
        {"brightness": 1.3, "contrast": 0.7, "saturation": 1.5},
    ],
    ids=str,
)
def test_colours_equal_those_computed_by_hand(change, factors):
    image = scene()
    numbers = [factors.get(n, 1.0) for n in ("brightness", "contrast", "saturation")]
    difference = change(RECOLOURS, image, numbers) - by_hand(image, **factors)
    assert np.abs(difference).max() <= 0.9  # OpenCV has ten bits for a factor


def test_extreme_factors_give_known_colours(change):
    image = scene()
    assert (change(RECOLOURS, image, (1, 1, 1)) == image).all()
    assert not change(RECOLOURS, image, (0, 1, 1)).any()
    even = change(RECOLOURS, image, (1, 0, 1))
    assert (even == np.rint((image @ GREY).mean())).all()
    grey = change(RECOLOURS, image, (1, 1, 0))
    assert (grey == grey[..., :1]).all()
    grey = np.repeat(image[..., :1], 3, axis=2)  # has no colour to change
    assert np.abs(change(RECOLOURS, grey, (1, 1, 1.7)).astype(int) - grey).max() <= 1


def test_an_image_is_moved_before_it_is_recoloured(change):
    both = augmentation_settings.Augmentation(rotation=1.0, brightness=0.5)
    image, numbers = scene(), moving(9, turn=30.0)
    found = change(both, image, [*numbers, 1.5, 1.0, 1.0])
    expected = by_hand(sampled(image, numbers), brightness=1.5)
    assert np.abs(found - expected).max() <= 0.5 * 1.5 + 0.6


@pytest.mark.parametrize("corner", [(3, 4), (-2, 7), (-1, -1), (8, 8)])
def test_cutout_covers_a_grey_square_inside_the_image(change, corner):
    image = scene()
    top, left = corner
    expected = image.copy()
    expected[max(0, top) : top + 3, max(0, left) : left + 3] = 128
    found = change(augmentation_settings.Augmentation(cutout=1 / 3), image, corner)
    assert (found == expected).all()


def test_cutout_is_not_recoloured(change):
    both = augmentation_settings.Augmentation(brightness=0.5, cutout=1.0)
    assert (change(both, scene(), [0.5, 1, 1, 0, 0]) == 128).all()


def test_an_image_of_one_pixel_is_augmented(change):
    every = augmentation_settings.Augmentation(rotation=9.0, brightness=0.5, cutout=0.1)
    image = np.array([[[10, 20, 30]]], np.uint8)
    numbers = [*moving(1, turn=50.0, down=0.7), 1.5, 1, 1]
    assert (change(every, image, [*numbers, 1, 1])[0, 0] == (15, 30, 45)).all()
    assert (change(every, image, [*numbers, 0, 0]) == 128).all()


class TestMix:
    images = np.stack([np.full((8, 8, 3), 50 * n, np.uint8) for n in range(4)])
    labels = np.array([0, 2, 1, 2], np.int32)
    one_hot = np.eye(3)[labels]

    def mix(self, apply, augmentation, numbers, count=4):
        """The numbers of the first image decide; the others must have no effect."""
        lines = np.zeros((count, len(numbers)))
        lines[0], lines[1:] = numbers, 0.3
        images, labels = self.images[:count], self.labels[:count]

        def run(place):
            return lambda *batch: random_augmentation.mix(augmentation, *batch, 3)[
                place
            ]

        found = [apply(run(place), images, labels, lines) for place in (0, 1)]
        assert found[0].dtype == np.uint8
        assert found[0].shape == images.shape
        assert found[1].dtype == np.float32
        assert found[1].shape == (count, 3)
        np.testing.assert_allclose(found[1].sum(axis=1), 1, rtol=1e-6)
        return found

    @pytest.mark.parametrize("share", [0, 0.25, 1])
    def test_mixup_blends_images_and_labels(self, apply, share):
        mixup = augmentation_settings.Augmentation(mixup=0.2)
        images, labels = self.mix(apply, mixup, [share, 0, 0, 0, 0, 0])
        expected = (1 - share) * self.images + share * np.roll(self.images, 1, axis=0)
        assert (images == np.floor(expected + 0.5)).all()
        expected = (1 - share) * self.one_hot + share * np.roll(self.one_hot, 1, axis=0)
        np.testing.assert_allclose(labels, expected, rtol=1e-6)

    def test_cutmix_pastes_a_box_and_shares_the_label(self, apply):
        cutmix = augmentation_settings.Augmentation(cutmix=1.0)
        images, labels = self.mix(apply, cutmix, [12 / 64, 2, 1, 5, 5, 1])
        expected = self.images.copy()
        expected[:, 2:5, 1:5] = np.roll(self.images, 1, axis=0)[:, 2:5, 1:5]
        assert (images == expected).all()
        # Example 1 of class 2 has 12 pixels of example 0, of class 0.
        assert (images[1] == 0).all(axis=2).sum() == 12
        np.testing.assert_allclose(labels[1], [12 / 64, 0, 52 / 64])

    def test_with_both_a_batch_is_blended_or_pasted(self, apply):
        both = augmentation_settings.Augmentation(mixup=0.2, cutmix=1.0)
        numbers = [0.5, 0, 0, 8, 4, 0]
        images, labels = self.mix(apply, both, numbers)
        assert (images[1] == 25).all()
        images, same = self.mix(apply, both, [*numbers[:5], 1])
        assert (images[1, :, :4] == 0).all()
        assert (images[1, :, 4:] == 50).all()
        assert (same == labels).all()

    def test_an_image_alone_is_mixed_with_itself(self, apply):
        mixup = augmentation_settings.Augmentation(mixup=0.2)
        images, labels = self.mix(apply, mixup, [0.3, 0, 0, 0, 0, 0], count=1)
        assert (images == self.images[:1]).all()
        np.testing.assert_allclose(labels, self.one_hot[:1], rtol=1e-6)
