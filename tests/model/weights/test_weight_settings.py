import dataclasses

import numpy as np
import pytest

from model.checkpoints import errors
from model.weights import weight_settings
from pipeline.batches.input_spec import InputSpec

SPEC = InputSpec(
    size_px=224, short_side_px=256, mean=(1.0, 2.0, 3.0), source="the weights"
)


def apply(spec=SPEC, bgr=False, **settings):
    return weight_settings.Overrides(**settings).apply(spec, bgr=bgr)


@pytest.mark.parametrize("bgr", [False, True])
def test_nothing_is_replaced_by_default(bgr):
    assert apply(bgr=bgr) == SPEC


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"image_size": 112}, {"size_px": 112, "short_side_px": 128}),
        ({"image_size": 256, "short_side": 256}, {"size_px": 256}),
        ({"resize": "squash"}, {"resize": "squash", "short_side_px": 256}),
        ({"resize": "pad"}, {"resize": "pad", "short_side_px": 224}),
        ({"short_side": 240, "resize": "pad"}, {"short_side_px": 240}),
        ({"scale": 2.0}, {"scale": 2.0}),
        ({"mean": "9,8,7"}, {"mean": (9.0, 8.0, 7.0)}),
        ({"mean": "127.5"}, {"mean": (127.5, 127.5, 127.5)}),
        ({"std": "0.5,1,2"}, {"std": (0.5, 1.0, 2.0)}),
    ],
    ids=str,
)
def test_the_source_names_the_flags_that_replaced_something(settings, expected):
    spec = apply(**settings)
    for name, value in expected.items():
        assert getattr(spec, name) == value
    assert spec.source == f"the weights; by flags: {', '.join(settings)}"


def test_photos_that_are_padded_already_keep_their_short_side():
    spec = dataclasses.replace(SPEC, resize="pad")
    assert apply(spec, resize="pad").short_side_px == 256


@pytest.mark.parametrize(
    "settings",
    [
        *({"scale": 255.0}, {"mean": "9999"}, {"std": "0"}, {"std": "nan"}),
        {"image_size": 300, "short_side": 256},
    ],
    ids=str,
)
def test_impossible_values_are_refused_with_their_flags(settings):
    flags = ", ".join(f"--{name}" for name in settings)
    with pytest.raises(errors.MismatchedCheckpoint, match=f"^{flags}[:=]"):
        apply(**settings)


@pytest.mark.parametrize("text", ["1,2", "a,b,c", "1,2,nan", "1,2,3,4", "mean"])
@pytest.mark.parametrize("flag", ["mean", "std"])
def test_other_texts_than_three_numbers_are_refused(flag, text):
    message = f"--{flag}={text}: .*three numbers"
    with pytest.raises(errors.MismatchedCheckpoint, match=message):
        apply(**{flag: text})


@pytest.mark.parametrize(
    ("order", "default", "is_bgr"),
    [("auto", False, False), ("auto", True, True), ("bgr", 0, True), ("rgb", 1, False)],
)
def test_the_channel_order_is_that_of_the_weights_or_the_flag(order, default, is_bgr):
    overrides = weight_settings.Overrides(channel_order=order)
    assert overrides.is_bgr(default) == is_bgr


class TestMeanFile:
    @pytest.fixture
    def mean(self, tmp_path):
        """8 x 8 pixels; blue, green, red are 0, 100 and 200 plus the pixel's number."""
        values = np.arange(64).reshape(8, 8, 1) + np.array([0, 100, 200])
        np.save(tmp_path / "mean.npy", values.astype(np.float32))
        return str(tmp_path / "mean.npy")

    def spec(self, size, short_side):
        return InputSpec(size_px=size, short_side_px=short_side, source="the weights")

    def test_its_central_window_is_used_in_rgb(self, mean):
        spec = apply(self.spec(4, 8), bgr=True, mean=mean)
        image = np.array(spec.mean_image)
        assert image.shape == (4, 4, 3)
        assert image[0, 0].tolist() == [2 * 8 + 2 + 200, 18 + 100, 18]

    def test_it_may_have_the_size_of_the_input(self, mean):
        spec = apply(self.spec(8, 10), mean=mean)
        assert np.array(spec.mean_image)[7, 7].tolist() == [63, 163, 263]

    def test_another_size_is_refused(self, mean):
        message = r"Expected 5 x 5 .* or 4 x 4, found 8 x 8.*Three numbers"
        with pytest.raises(errors.MismatchedCheckpoint, match=message):
            apply(self.spec(4, 5), mean=mean)

    def test_a_mean_of_the_weights_becomes_a_colour_for_another_size(self, mean):
        of_weights = apply(self.spec(8, 8), mean=mean)
        spec = apply(of_weights, image_size=16)
        assert spec.mean_image is None
        assert spec.mean == (31.5, 131.5, 231.5)

    @pytest.mark.parametrize("name", ["gone.npy", "gone.binaryproto"])
    def test_a_missing_file_is_refused(self, name):
        with pytest.raises(errors.MissingCheckpoint, match=f"{name}: no such file"):
            apply(mean=name)
