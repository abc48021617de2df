import numpy as np
import pytest

from model.evaluation import test_time_augmentation
from model.loop import metrics
from pipeline.batches import crop_and_resize
from pipeline.batches.input_spec import InputSpec

SPEC = InputSpec(size_px=8, short_side_px=9, source="test")
SIZES = np.array([[120, 160], [9, 9]])


def test_the_central_window_alone():
    (found,) = test_time_augmentation.views_of("none", SIZES, SPEC)
    expected = crop_and_resize.central_views(SIZES, SPEC)
    np.testing.assert_array_equal(found.windows, expected.windows)
    assert not found.mirrored.any()


def test_flip():
    upright, mirrored = test_time_augmentation.views_of("flip", SIZES, SPEC)
    np.testing.assert_array_equal(upright.windows, mirrored.windows)
    assert not upright.mirrored.any()
    assert mirrored.mirrored.all()


def test_ten_crop():
    """Five windows, each also mirrored."""
    found = test_time_augmentation.views_of("ten_crop", SIZES, SPEC)
    windows = [view.windows[0].tolist() for view in found]
    assert windows[:5] == windows[5:]
    assert len({tuple(window) for window in windows}) == 5
    assert [bool(view.mirrored[0]) for view in found] == [False] * 5 + [True] * 5


def test_another_name():
    with pytest.raises(ValueError, match="--tta=five_crop: expected none, flip, ten"):
        test_time_augmentation.views_of("five_crop", SIZES, SPEC)


class TestAveragedLogits:
    def test_the_mean_is_geometric(self):
        """The geometric mean of (1/2, 1/2) and (8/9, 1/9) is as 4 to sqrt(2)."""
        mean = test_time_augmentation.AveragedLogits(2, (1, 2))
        mean.add(np.array([0]), np.log(np.array([[3, 3]], np.float32)))
        with pytest.raises(RuntimeError, match="once in each view"):
            mean.logits()
        mean.add(np.array([0]), np.log(np.array([[8, 1]], np.float32)))
        odds = np.exp(mean.logits()[0])
        assert odds[0] / odds[1] == pytest.approx(np.sqrt(8))
        assert mean.logits().dtype == np.float32

    def test_a_constant_in_one_views_logits_changes_nothing(self):
        logits = np.array([[[1.0, 2.0]], [[0.5, 0.0]]], np.float32)
        plain, moved = (
            test_time_augmentation.AveragedLogits(2, (1, 2)),
            test_time_augmentation.AveragedLogits(2, (1, 2)),
        )
        for view, offset in zip(logits, (100, -7), strict=True):
            plain.add(np.array([0]), view)
            moved.add(np.array([0]), view + np.float32(offset))
        np.testing.assert_allclose(
            metrics.log_softmax(plain.logits()), metrics.log_softmax(moved.logits())
        )
        np.testing.assert_allclose(plain.logits(), moved.logits(), atol=1e-4)

    def test_one_view_is_kept_to_the_bit(self):
        logits = np.random.default_rng(0).normal(0, 9, (3, 4)).astype(np.float32)
        mean = test_time_augmentation.AveragedLogits(1, (3, 4))
        mean.add(np.array([2, 0, 1]), logits[[2, 0, 1]])
        np.testing.assert_array_equal(mean.logits(), logits)

    def test_a_photo_seen_twice_is_a_bug(self):
        mean = test_time_augmentation.AveragedLogits(1, (2, 2))
        for _ in range(2):
            mean.add(np.array([0]), np.zeros((1, 2), np.float32))
        with pytest.raises(RuntimeError, match="once in each view"):
            mean.logits()
