import cv2
import numpy as np
import pytest

from model.runs import pictures
from tests.support import small_runs

result = small_runs.epoch_result


@pytest.fixture
def draw(tmp_path):
    """Return a function that draws curves; it returns the PNG, BGR."""

    def draw(results):
        pictures.draw_curves(results, tmp_path / "curves.png")
        picture = cv2.imread(str(tmp_path / "curves.png"))
        assert picture.shape == (350, 900, 3)
        return picture

    return draw


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_both_diagrams_show_both_splits(draw, epochs):
    picture = draw({"": [result(epoch) for epoch in range(1, epochs + 1)]}).astype(int)
    for half in (picture[:, :450], picture[:, 450:]):
        # Blue is training, orange validation: more of both than the legend has.
        more_blue = half[..., 0] - half[..., 2]
        assert (more_blue > 100).sum() > 30
        assert (more_blue < -100).sum() > 30


def test_the_picture_depends_on_the_figures(draw):
    first = draw({"": [result(1), result(2)]})
    assert (first == draw({"": [result(1), result(2)]})).all()
    assert (first != draw({"": [result(1), result(2, accuracy=0.1)]})).any()


def test_figures_that_are_not_numbers_are_left_out(draw):
    draw({"": [result(1, validation_loss=np.nan), result(2)]})


def test_smoothing_by_hand():
    expected = [1, 0.8 + 0.4, 0.8 * 1.2 + 0]
    assert pictures.smoothed([1.0, 2.0, 0.0]) == pytest.approx(expected)
    assert pictures.smoothed([]) == []


def test_two_networks_are_drawn_in_stages(draw):
    epochs = [result(n, stage="head" if n < 3 else "all") for n in range(1, 6)]
    both = draw({"pretrained": epochs, "scratch": epochs[:4]})
    assert (both != draw({"pretrained": epochs})).any()
