import numpy as np
import pytest

from model.checkpoints import errors
from model.weights import preprocessing_overrides
from pipeline.batches.input_spec import InputSpec

SPEC = InputSpec(
    size_px=224, short_side_px=256, mean=(1.0, 2.0, 3.0), source="the weights"
)


def apply(spec=SPEC, bgr=False, **how):
    return preprocessing_overrides.Overrides(**how).apply(spec, by_weights_bgr=bgr)


def test_nothing_is_replaced_by_default():
    assert apply() == SPEC
    assert apply(bgr=True) == SPEC


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"image_size": 112}, {"size_px": 112, "short_side_px": 128}),
        ({"image_size": 256, "short_side": 256}, {"size_px": 256}),
        ({"resize": "squash"}, {"resize": "squash"}),
        ({"scale": 2.0}, {"scale": 2.0}),
        ({"mean": "9,8,7"}, {"mean": (9.0, 8.0, 7.0)}),
        ({"mean": "127.5"}, {"mean": (127.5, 127.5, 127.5)}),
        ({"std": "0.5,1,2"}, {"std": (0.5, 1.0, 2.0)}),
    ],
    ids=str,
)
def test_what_is_replaced_is_said(how, expected):
    found = apply(**how)
    for name, value in expected.items():
        assert getattr(found, name) == value
    assert found.source == f"the weights; by flags: {', '.join(how)}"


@pytest.mark.parametrize(
    "how", [{"scale": 255.0}, {"mean": "9999"}, {"std": "0"}, {"std": "nan"}], ids=str
)
def test_what_cannot_be_is_refused_by_name(how):
    with pytest.raises(errors.MismatchedCheckpoint, match=next(iter(how))):
        apply(**how)


def test_channel_order_is_the_weights_unless_told():
    assert not preprocessing_overrides.Overrides().bgr(by_weights=False)
    assert preprocessing_overrides.Overrides().bgr(by_weights=True)
    assert preprocessing_overrides.Overrides(channel_order="bgr").bgr(by_weights=False)
    assert not preprocessing_overrides.Overrides(channel_order="rgb").bgr(
        by_weights=True
    )


class TestMeanFile:
    @pytest.fixture
    def mean(self, tmp_path):
        """8 x 8 pixels; blue, green, red are 0, 100 and 200 plus the pixel's number."""
        values = np.arange(64).reshape(8, 8, 1) + np.array([0, 100, 200])
        np.save(tmp_path / "mean.npy", values.astype(np.float32))
        return str(tmp_path / "mean.npy")

    def spec(self, size, short_side):
        return InputSpec(size_px=size, short_side_px=short_side, source="the weights")

    def test_central_window_in_rgb(self, mean):
        found = apply(self.spec(4, 8), bgr=True, mean=mean)
        image = np.array(found.mean_image)
        assert image.shape == (4, 4, 3)
        assert image[0, 0].tolist() == [2 * 8 + 2 + 200, 18 + 100, 18]

    def test_of_the_inputs_size(self, mean):
        found = apply(self.spec(8, 10), mean=mean)
        assert np.array(found.mean_image)[7, 7].tolist() == [63, 163, 263]

    def test_of_another_size(self, mean):
        with pytest.raises(
            errors.MismatchedCheckpoint,
            match=r"8 x 8 pixels; expected 5 x 5, .* or 4 x 4.*three numbers",
        ):
            apply(self.spec(4, 5), mean=mean)

    def test_of_the_weights_gives_its_colour_to_another_size(self, mean):
        by_weights = apply(self.spec(8, 8), mean=mean)
        found = apply(by_weights, image_size=16)
        assert found.mean_image is None
        assert found.mean == (31.5, 131.5, 231.5)

    @pytest.mark.parametrize("name", ["gone.npy", "gone.binaryproto"])
    def test_missing(self, name):
        with pytest.raises(errors.MissingCheckpoint, match=f"--mean={name}: no such"):
            apply(mean=name)


@pytest.mark.parametrize("text", ["1,2", "a,b,c", "1,2,nan", "1,2,3,4", "mean"])
@pytest.mark.parametrize("flag", ["mean", "std"])
def test_no_numbers(flag, text):
    with pytest.raises(
        errors.MismatchedCheckpoint, match=f"--{flag}={text}: .*three numbers"
    ):
        apply(**{flag: text})


def test_values_that_do_not_go_together():
    with pytest.raises(ValueError, match="size_px=300, short_side_px=256"):
        apply(image_size=300, short_side=256)
