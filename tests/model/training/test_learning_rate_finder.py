import itertools
import math

import cv2
import numpy as np
import pytest

from model.loop import optimization
from model.training import learning_rate_finder
from tests.support import small_training


def curve(losses):
    rates = tuple(np.geomspace(1e-6, 1, len(losses)).tolist())
    return learning_rate_finder.Curve(rates=rates, losses=tuple(map(float, losses)))


def test_smoothing_by_hand():
    assert curve([1, 2]).smoothed == pytest.approx(
        [1, (0.9 * 0.1 * 1 + 0.1 * 2) / (1 - 0.81)]
    )


def test_the_suggestion_is_where_the_loss_falls_fastest():
    """A loss that falls as a logistic function of the rate's logarithm, then rises."""
    places = np.linspace(-6, 0, 200)
    losses = 1 - 0.9 / (1 + np.exp(-6 * (places + 3))) + np.exp(8 * (places + 0.5))
    suggestion = curve(losses).suggestion
    # Smoothing looks back over ten steps of 0.03 decades.
    assert -3.1 < math.log10(suggestion) < -2.4


@pytest.mark.parametrize(
    "losses", [[1.0] * 30, list(range(1, 31)), [3, 2, 1], []], ids=len
)
def test_no_suggestion_from_a_loss_that_does_not_fall(losses):
    flat = curve(losses)
    assert flat.suggestion is None
    assert "no learning rate" in learning_rate_finder.as_text(flat)


def search(inputs, labels, steps=60):
    model = small_training.linear()
    settings = optimization.Settings(optimizer="sgd")
    job = small_training.Job(model, inputs, labels, settings=settings)
    return learning_rate_finder.search(model, job.setup, job, steps)


def test_the_search_stops_when_the_loss_diverges():
    random = np.random.default_rng(0)
    inputs, labels = small_training.separable(random, 40)
    labels[::7] = 1 - labels[::7]  # so that no rate is good for ever
    tested = search(30 * inputs, labels)
    ratios = [b / a for a, b in itertools.pairwise(tested.rates)]
    assert tested.rates[0] == pytest.approx(learning_rate_finder.LOWEST)
    assert ratios == pytest.approx([1e8 ** (1 / 59)] * len(ratios))
    assert 1e-7 < tested.suggestion < 1e-1
    assert len(tested.rates) < 60
    smoothed = tested.smoothed
    assert smoothed[-1] > 4 * smoothed.min()
    assert smoothed[-2] <= 4 * smoothed.min()


def test_the_search_ends_with_the_highest_rate():
    tested = search(np.zeros((40, 2)), np.arange(40) % 2, steps=20)
    assert len(tested.rates) == 20
    assert tested.rates[-1] == pytest.approx(learning_rate_finder.HIGHEST)


def test_the_search_ends_with_a_loss_that_is_no_number():
    assert search(np.full((40, 2), np.nan), np.zeros(40)).losses == ()


def test_the_picture_is_a_png(tmp_path):
    learning_rate_finder.draw(curve(np.linspace(2, 1, 30)), tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")).shape == (350, 450, 3)
