import dataclasses
import math

import numpy as np
import pytest

from pipeline.batches import augmentation_settings, crop_and_resize, random_augmentation
from pipeline.batches.input_spec import InputSpec
from pipeline.system import config_flags

SPEC = InputSpec(size_px=14, short_side_px=16, source="a test")
SQUASH = dataclasses.replace(SPEC, resize="squash")
PAD = dataclasses.replace(SPEC, resize="pad")
# (height, width): landscape, portrait, square, thin, single pixel
SIZES = np.array([(40, 64), (64, 40), (50, 50), (3, 200), (200, 3), (1, 1)])
KEY = (7, 3)  # seed, epoch
MANY = {
    "crop_area": "0.08,1",
    "rotation": 20.0,
    "shift": 0.1,
    "shear": 10.0,
    "zoom": 0.2,
    "brightness": 0.3,
    "contrast": 0.4,
    "saturation": 0.5,
    "cutout": 0.3,
    "mixup": 0.4,
    "cutmix": 1.0,
}

SETTINGS = config_flags.settings_of(augmentation_settings.Augmentation)


def random_views(sizes, spec, key):
    """Views that the key decides."""
    uniform = crop_and_resize.seeded_generator(key).random((len(sizes), 3))
    return crop_and_resize.drawn_views(sizes, spec, uniform)


def views_of(sizes, spec=SPEC, key=KEY, order=None, **settings):
    order = np.arange(len(sizes)) if order is None else order
    return random_augmentation.draw_views(
        augmentation_settings.Augmentation(**settings), sizes, spec, order, key
    )


def columns(views, settings):
    """{group of operations: its columns of the numbers}."""
    widths = augmentation_settings.Augmentation(**settings).widths
    ends = np.cumsum(list(widths.values()))
    return dict(zip(widths, np.split(views.numbers, ends[:-1], axis=1), strict=True))


def test_without_augmentation_views_are_random_windows_and_mirrored():
    found = views_of(SIZES)
    plain = random_views(SIZES, SPEC, (*KEY, 1))
    assert found.windows.tobytes() == plain.windows.tobytes()
    assert found.mirrored.tolist() == plain.mirrored.tolist()
    assert any(plain.mirrored)
    assert found.numbers is None


def test_without_mirroring_the_windows_are_the_same():
    found = views_of(SIZES, mirror=False)
    assert (found.windows == views_of(SIZES).windows).all()
    assert not found.mirrored.any()


def test_an_operation_with_a_strength_is_active():
    assert not augmentation_settings.Augmentation(mirror=False).active
    for name, value in MANY.items():
        assert augmentation_settings.Augmentation(**{name: value}).active, name
    assert {"mirror", "crop_aspect", *MANY} == {*SETTINGS}


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"rotation": -1.0}, "rotation=-1.0: expected 0 to 180"),
        ({"shear": float("nan")}, "shear=nan: expected 0 to 90"),
        ({"zoom": float("inf")}, "zoom=inf: expected 0 to 1"),
        ({"cutmix": "1"}, "cutmix='1': expected a number, 0 to 100"),
        ({"crop_area": "0.5"}, "crop_area=0.5: expected the smallest and the largest"),
        ({"crop_area": "0,1"}, "crop_area=0,1: .* above 0, at most 1, such as 0.08,1"),
        ({"crop_area": "0.5,0.4"}, "crop_area=0.5,0.4"),
        ({"crop_area": "0.1,0.2,0.3"}, "crop_area=0.1,0.2,0.3"),
        ({"crop_aspect": ""}, "crop_aspect=: .* 0.01 to 100, such as 0.75,1.3333"),
        ({"crop_aspect": "1,2"}, "crop_aspect=1,2: expected --crop_area"),
        ({"crop_aspect": "nan,1"}, "crop_aspect=nan,1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong, expected):
    with pytest.raises(ValueError, match=expected):
        augmentation_settings.Augmentation(**wrong)


def test_the_limits_of_a_range_are_allowed():
    for name, setting in SETTINGS.items():
        if setting.upper < math.inf:
            numbers = views_of(SIZES, **{name: float(setting.upper)}).numbers
            assert np.isfinite(numbers).all(), name


@pytest.mark.parametrize("name", MANY)
def test_numbers_depend_on_the_key_alone(name):
    sizes = SIZES.repeat(5, axis=0)
    setting = {name: MANY[name]}
    drawn = "windows" if name == "crop_area" else "numbers"
    first, same, epoch, seed = (
        getattr(views_of(sizes, key=key, **setting), drawn).tobytes()
        for key in (KEY, KEY, (7, 4), (8, 3))
    )
    assert first == same
    assert first not in (epoch, seed)


def test_switching_one_operation_on_does_not_change_the_others():
    every = columns(views_of(SIZES, **MANY), MANY)
    for names in (
        ("rotation", "shift", "shear", "zoom"),
        ("brightness", "contrast", "saturation"),
        ("cutout",),
        ("mixup", "cutmix"),
    ):
        some = {name: MANY[name] for name in names}
        ((group, alone),) = columns(views_of(SIZES, **some), some).items()
        assert (every[group] == alone).all()
    alone = views_of(SIZES, brightness=MANY["brightness"]).numbers
    assert (alone[:, 0] == every["colour"][:, 0]).all()
    assert (alone[:, 1:] == 1).all()


class TestCrops:
    def crops(self, size, spec=SPEC, count=3000, **settings):
        sizes = np.repeat([size], count, axis=0)
        return views_of(sizes, spec, **{"crop_area": "0.08,1", **settings}).windows.T

    def test_windows_fill_the_ranges_of_area_aspect_and_place(self):
        """Szegedy's: area even in its range, the logarithm of the aspect, too."""
        top, left, height, width = self.crops((600, 800), crop_area="0.08,0.4")
        area, aspect = height * width / (600 * 800), width / height
        assert 0.079 < area.min() < 0.085
        assert 0.395 < area.max() < 0.401
        assert abs(area.mean() - 0.24) < 0.01
        assert 0.745 < aspect.min() < 0.76
        assert 1.31 < aspect.max() < 1.34
        assert abs(np.log(aspect).mean()) < 0.01
        assert min(top.min(), left.min()) == 0
        assert (top + height).max() >= 598
        assert (left + width).max() >= 798
        assert abs((top / (600 - height)).mean() - 0.5) < 0.02

    @pytest.mark.parametrize("spec", [SPEC, SQUASH], ids=["crop", "squash"])
    @pytest.mark.parametrize("size", SIZES.tolist(), ids=str)
    def test_windows_never_leave_the_image(self, size, spec):
        windows = self.crops(size, spec, count=300).T
        assert windows[:, :2].min() >= 0
        assert windows[:, 2:].min() >= 1
        assert (windows[:, :2] + windows[:, 2:] <= size).all()

    def test_windows_of_a_padded_image_are_those_of_a_square_and_show_some_of_it(self):
        top, left, height, width = self.crops((100, 400), PAD)
        _, _, side, other = self.crops((400, 400))
        np.testing.assert_array_equal((height, width), (side, other))
        assert (top + height / 2 >= 0).all() and (top + height / 2 <= 100).all()
        assert (left >= 0).all() and (left + width <= 400).all()

    def test_a_squashed_image_is_cropped_as_a_square_one(self):
        half = {"crop_area": "0.08,0.5"}  # so that all fit at once
        _, _, height, width = self.crops((100, 1000), SQUASH, **half)
        _, _, side, other = self.crops((1000, 1000), **half)
        assert np.abs(width - other).max() <= 1
        assert np.abs(10 * height - side).max() <= 10

    def test_where_no_window_fits_the_largest_central_one_is_used(self):
        """3 x 200 with at least a fifth of the area: 3 x 4 is the widest allowed."""
        found = self.crops((3, 200), crop_area="0.2,1").T
        assert (found == (0, 98, 3, 4)).all()
        found = self.crops((200, 3), crop_area="0.2,1").T
        assert (found == (98, 0, 4, 3)).all()

    def test_a_window_may_be_the_whole_image(self):
        exact = {"crop_area": "1,1", "crop_aspect": "1,1"}
        assert (self.crops((50, 50), **exact).T == (0, 0, 50, 50)).all()
        assert (self.crops((40, 64), SQUASH, **exact).T == (0, 0, 40, 64)).all()


def test_geometry_equals_that_of_the_keras_generator():
    """rotation @ shift @ shear @ zoom in (row, column), about the centre."""
    settings = {name: MANY[name] for name in ("rotation", "shift", "shear", "zoom")}
    numbers = views_of(SIZES, **settings).numbers
    generator = crop_and_resize.seeded_generator((*KEY, 4))
    uniform = generator.uniform(-1, 1, (len(SIZES), 6))
    for found, u in zip(numbers, uniform, strict=True):
        t, s = np.radians(20 * u[0]), np.radians(10 * u[3])
        rotation = [[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]]
        shift = [[1, 0, 1.4 * u[1]], [0, 1, 1.4 * u[2]], [0, 0, 1]]
        shear = [[1, -np.sin(s), 0], [0, np.cos(s), 0], [0, 0, 1]]
        zoom = np.diag([1 + 0.2 * u[4], 1 + 0.2 * u[5], 1])
        to, back = np.eye(3), np.eye(3)
        to[:2, 2], back[:2, 2] = 6.5, -6.5
        matrix = to @ rotation @ shift @ shear @ zoom @ back
        expected = matrix[[1, 1, 1, 0, 0, 0], [1, 0, 2, 1, 0, 2]]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_colour_factors_fill_their_ranges():
    sizes = SIZES.repeat(500, axis=0)
    factors = views_of(sizes, brightness=0.3, contrast=0.4).numbers
    assert factors.min(axis=0) == pytest.approx((0.7, 0.6, 1), abs=0.01)
    assert factors.max(axis=0) == pytest.approx((1.3, 1.4, 1), abs=0.01)


def test_the_centre_of_cutout_may_be_anywhere():
    """Side 4 of 14: the upper left corner lies two before the centre."""
    found = views_of(SIZES.repeat(100, axis=0), cutout=0.3).numbers
    assert set(found[:, 0]) == set(found[:, 1]) == set(range(-2, 12))


class TestMixing:
    sizes = np.repeat([(40, 64)], 4000, axis=0)

    def test_shares_of_mixup_follow_the_beta_distribution(self):
        numbers = views_of(self.sizes, mixup=0.4).numbers
        assert numbers[:, 0].mean() == pytest.approx(0.5, abs=0.02)
        # Variance of Beta(a, a): 1 / (4 (2 a + 1)).
        assert numbers[:, 0].var() == pytest.approx(1 / 7.2, rel=0.05)
        assert not numbers[:, 1:].any()

    def test_the_share_of_cutmix_equals_its_area(self):
        numbers = views_of(self.sizes, cutmix=1.0).numbers
        share, top, left, bottom, right, pasted = numbers.T
        assert (share == (bottom - top) * (right - left) / 14**2).all()
        assert min(top.min(), left.min()) == 0
        assert max(bottom.max(), right.max()) == 14
        assert (pasted == 1).all()
        assert len(set(share)) > 50

    def test_mixup_and_cutmix_take_half_of_the_batches_each(self):
        both = views_of(self.sizes, mixup=0.4, cutmix=1.0).numbers
        pasted = both[:, 5] == 1
        assert 0.47 < pasted.mean() < 0.53
        mixup = views_of(self.sizes, mixup=0.4).numbers
        cutmix = views_of(self.sizes, cutmix=1.0).numbers
        assert (both[pasted] == cutmix[pasted]).all()
        assert (both[~pasted] == mixup[~pasted]).all()

    def test_mixing_depends_on_the_place_in_the_epoch_not_on_the_row(self):
        order = np.random.default_rng(0).permutation(len(self.sizes))
        settings = {"cutout": 0.3, "mixup": 0.4}
        shuffled = views_of(self.sizes, order=order, **settings)
        plain = views_of(self.sizes, **settings)
        assert (shuffled.numbers[order, 2:] == plain.numbers[:, 2:]).all()
        assert (shuffled.numbers[:, :2] == plain.numbers[:, :2]).all()


def test_no_images_have_no_views():
    found = views_of(np.zeros((0, 2), np.int64), **MANY)
    assert found.windows.shape == (0, 4)
    assert found.numbers.shape == (0, 17)
