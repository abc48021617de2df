import dataclasses

import cv2
import numpy as np
import pytest

from pipeline.batches import crop_and_resize
from pipeline.batches.input_spec import InputSpec

SPEC = InputSpec(size_px=14, short_side_px=16, source="a test")
# (height, width): landscape, portrait, square, thin, single pixel
SIZES = np.array([(40, 64), (64, 40), (50, 50), (3, 200), (200, 3), (1, 1)])


def random_views(sizes, spec, key):
    """Views that the key decides."""
    uniform = crop_and_resize.seeded_generator(key).random((len(sizes), 3))
    return crop_and_resize.drawn_views(sizes, spec, uniform)


def gradient(height, width):
    """Each pixel says where it is."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows + columns], 2).astype(np.uint8)


def encode(pixels, extension):
    return cv2.imencode(extension, pixels[..., ::-1])[1].tobytes()


def test_the_central_window_is_seven_eighths_of_the_short_side():
    views = crop_and_resize.central_views(SIZES, SPEC)
    assert views.windows.tolist() == [
        [2, 14, 35, 35],
        [14, 2, 35, 35],
        [3, 3, 44, 44],
        [0, 98, 3, 3],
        [98, 0, 3, 3],
        [0, 0, 1, 1],
    ]
    assert not views.mirrored.any()


@pytest.mark.parametrize(
    ("resize", "corners", "side"),
    [
        ("crop", [(2, 14), (0, 12), (0, 17), (5, 12), (5, 17)], (35, 35)),
        ("squash", [(2, 4), (0, 0), (0, 8), (5, 0), (5, 8)], (35, 56)),
        ("pad", [(-8, 4), (-12, 0), (-12, 8), (-4, 0), (-4, 8)], (56, 56)),
    ],
)
def test_corners_are_those_of_the_central_square_or_of_all_of_the_image(
    resize, corners, side
):
    spec = dataclasses.replace(SPEC, resize=resize)
    views = crop_and_resize.cornered_views(np.array([(40, 64)]), spec)
    assert [(*view.windows[0],) for view in views] == [(*c, *side) for c in corners]


def test_corner_windows_never_leave_the_image():
    for view in crop_and_resize.cornered_views(SIZES, SPEC):
        corners, sides = view.windows[:, :2], view.windows[:, 2:]
        assert (corners >= 0).all()
        assert (corners + sides <= SIZES).all()


@pytest.mark.parametrize("size", SIZES.tolist(), ids=str)
@pytest.mark.parametrize("short_side", [14, 16, 80])
def test_each_window_of_a_padded_image_shows_a_part_of_it(size, short_side):
    spec = dataclasses.replace(SPEC, resize="pad", short_side_px=short_side)
    sizes = np.array([size] * 100)
    drawn = random_views(sizes, spec, (4,))
    cornered = crop_and_resize.cornered_views(sizes[:1], spec)
    windows = np.concatenate([view.windows for view in (drawn, *cornered)])
    first, sides = windows[:, :2], windows[:, 2:]
    assert (sides == max(1, round(max(size) * 14 / short_side))).all()
    assert (np.minimum(size, first + sides) - np.maximum(0, first) >= 1).all()
    whole = crop_and_resize.central_views(sizes[:1], spec).windows[0]
    if short_side == 14:
        assert (whole[:2] <= 0).all() and (whole[:2] + whole[2:] >= size).all()
        # Both margins are equal, if their sum is even.
        assert np.abs(2 * whole[:2] + whole[2:] - size).max() <= 1


@pytest.mark.parametrize("size", [(3, 20), (1, 1)], ids=str)
def test_a_window_is_filled_beyond_the_image(apply, size):
    pixels = gradient(*size)
    for window in ((-2, -3, 25, 30), (0, 0, 4, 22), (-5, 0, 6, 1)):
        found = apply(
            lambda encoded, window, flag: crop_and_resize.decode_window(
                encoded, flag, window, (9, 8, 7)
            ),
            encode(pixels, ".png"),
            np.array(window, np.int32),
            True,
        )
        top, left, height, width = window
        expected = np.full((height, width, 3), (9, 8, 7), np.uint8)
        for row, column in np.ndindex(height, width):
            at = row + top, column + left
            if min(at) >= 0 and at[0] < size[0] and at[1] < size[1]:
                expected[row, column] = pixels[at]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("settings", "fill"),
    [
        ({"mean": (0.4, 0.5, 1.2), "scale": 255.0}, (102, 128, 255)),
        ({"mean": (104.2, 116.7, -1.0)}, (104, 117, 0)),
        ({}, (124, 116, 104)),
        ({"size_px": 2, "mean_image": (((1.0,) * 3, (4.0,) * 3),) * 2}, (2, 2, 2)),
    ],
    ids=str,
)
def test_padding_has_the_colour_that_the_network_subtracts(settings, fill):
    settings = {"resize": "pad", "source": "a test", **settings}
    assert InputSpec(**settings).fill == fill
    assert InputSpec(**settings | {"resize": "squash"}).fill is None


def test_random_windows_reach_every_place_and_never_leave_the_image():
    sizes = np.repeat([(40, 48)], 4000, axis=0)
    views = random_views(sizes, SPEC, (0, 0))
    top, left, height, width = views.windows.T
    assert (height == 35).all()
    assert (width == 35).all()
    assert set(top) == set(range(6))
    assert set(left) == set(range(14))
    assert np.bincount(left).min() > 4000 / 14 * 0.7  # evenly
    assert 0.45 < views.mirrored.mean() < 0.55


@pytest.mark.parametrize("size", SIZES.tolist(), ids=str)
def test_random_windows_lie_inside_odd_images(size):
    windows = random_views(np.array([size] * 200), SPEC, (3,)).windows
    assert windows[:, :2].min() >= 0
    assert windows[:, 2:].min() >= 1
    assert (windows[:, :2] + windows[:, 2:] <= size).all()


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("size", [(40, 64), (1, 1)], ids=str)
@pytest.mark.parametrize("is_png", ["python", "tensor"])
def test_a_decoded_window_equals_that_part_of_the_whole_image(
    apply, extension, size, is_png
):
    height, width = size
    encoded = encode(gradient(height, width), extension)
    whole = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    window = (height // 4, width // 3, (height + 1) // 2, (width + 1) // 2)

    def decode(encoded, window, flag):
        png = flag if is_png == "tensor" else extension == ".png"
        return crop_and_resize.decode_window(encoded, png, window)

    found = apply(decode, encoded, np.array(window, np.int32), extension == ".png")
    expected = whole[window[0] :, window[1] :][: window[2], : window[3]]
    # At the border of a crop of a JPEG, colours are interpolated from less.
    allowed = 0 if extension == ".png" else 8
    assert np.abs(found.astype(int) - expected).max() <= allowed
    assert found.dtype == np.uint8


def test_jpegs_decode_to_the_same_bits_as_in_opencv(apply):
    random = np.random.default_rng(0)
    pixels = cv2.resize(random.integers(0, 256, (12, 16, 3), np.uint8), (160, 120))
    encoded = encode(pixels, ".jpg")
    expected = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    found = apply(
        lambda data, window: crop_and_resize.decode_window(data, False, window),
        encoded,
        np.array([0, 0, 120, 160], np.int32),
    )
    assert (found == expected).all()


def bilinear(image, size_px):
    """Resize with two pixels in each direction and centres at half pixels."""

    def weights(length):
        centres = (np.arange(size_px) + 0.5) * length / size_px - 0.5
        low = np.floor(centres)
        matrix = np.zeros((size_px, length))
        for place, share in ((low, 1 - (centres - low)), (low + 1, centres - low)):
            index = np.clip(place, 0, length - 1).astype(int)
            matrix[np.arange(size_px), index] += share
        return matrix

    rows, columns = weights(image.shape[0]), weights(image.shape[1])
    return np.einsum("ij,jkc,lk->ilc", rows, image.astype(float), columns)


@pytest.mark.parametrize("halve", [False, True])
@pytest.mark.parametrize("side", [1, 14, 27])
def test_resizing_below_a_factor_of_two_is_bilinear(apply, side, halve):
    image = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    found = apply(lambda x: crop_and_resize.resize(x, 14, halving=halve), image)
    assert found.shape == (14, 14, 3)
    assert np.abs(found - bilinear(image, 14)).max() <= 0.51


@pytest.mark.parametrize(("side", "halvings"), [(55, 1), (56, 2), (127, 3)])
def test_large_windows_are_halved_first(apply, side, halvings):
    image = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    expected = image.astype(float)
    for _ in range(halvings):
        even = expected[: len(expected) // 2 * 2, : len(expected) // 2 * 2]
        expected = (even[::2] + even[1::2]) / 2
        expected = (expected[:, ::2] + expected[:, 1::2]) / 2
    found = apply(lambda x: crop_and_resize.resize(x, 14, halving=True), image)
    assert np.abs(found - bilinear(expected, 14)).max() <= 0.51


@pytest.mark.parametrize("mirrored", [False, True])
def test_mirroring_exchanges_left_and_right(apply, mirrored):
    image = gradient(7, 9)
    found = apply(crop_and_resize.mirror, image, mirrored)
    assert (found == (image[:, ::-1] if mirrored else image)).all()


@pytest.mark.parametrize(
    "wrong",
    [{"size_px": 0}, {"size_px": 300}, {"std": (1.0, 0.0, 1.0)}, {"scale": 0.0}],
    ids=str,
)
def test_impossible_specs_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        InputSpec(source="a test", **wrong)
