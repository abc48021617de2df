import math

import numpy as np
import pytest

from model.loop import optimization, train_step

LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32))
LABELS = np.array([0, 1], np.int32)
# Of the second example, a quarter is of class 0 and the rest of class 2.
SHARES = np.array([[1, 0, 0], [0.25, 0, 0.75]], np.float32)
LN = [[-math.log(0.7), -math.log(0.2), -math.log(0.1)]]
LN += [[-math.log(0.1), -math.log(0.1), -math.log(0.8)]]
MIXED = 0.25 * LN[1][0] + 0.75 * LN[1][2]
SMOOTHED = [np.dot([0.8, 0.1, 0.1], LN[0]), np.dot([0.1, 0.8, 0.1], LN[1])]
WEIGHTS = (2.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("settings", "labels", "expected"),
    [
        ({}, LABELS, [LN[0][0], LN[1][1]]),
        # Of 0.3, each of three classes gets 0.1.
        ({"label_smoothing": 0.3}, LABELS, SMOOTHED),
        ({"class_weights": WEIGHTS}, LABELS, [2 * LN[0][0], 0.5 * LN[1][1]]),
        ({}, SHARES, [LN[0][0], MIXED]),
        (
            {"label_smoothing": 0.3},
            SHARES,
            [SMOOTHED[0], np.dot([0.275, 0.1, 0.625], LN[1])],
        ),
        # A mixed example counts as the mean of its classes.
        ({"class_weights": WEIGHTS}, SHARES, [2 * LN[0][0], 1.25 * MIXED]),
    ],
    ids=[
        *("plain", "smoothed", "weighted"),
        *("mixed", "mixed and smoothed", "mixed and weighted"),
    ],
)
def test_losses_match_those_computed_by_hand(settings, labels, expected):
    losses_of_each = train_step.Loss(**settings).per_example(LOGITS, labels)
    np.testing.assert_allclose(losses_of_each, expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_a_share_of_one_counts_as_a_label(smoothing, weights):
    loss = train_step.Loss(label_smoothing=smoothing, class_weights=weights)
    whole = loss.per_example(LOGITS, np.eye(3, dtype=np.float32)[LABELS])
    np.testing.assert_allclose(whole, loss.per_example(LOGITS, LABELS), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_logits_stay_finite(smoothing):
    logits = np.array([[1e4, -1e4]], np.float32)
    loss = train_step.Loss(label_smoothing=smoothing)
    (value,) = loss.per_example(logits, np.array([1], np.int32)).numpy()
    assert value == pytest.approx(2e4 * (1 - smoothing / 2))


def test_balanced_classes_have_the_same_total_weight():
    counts = np.array([10, 30, 60])
    settings = optimization.Settings(class_weights="balanced", label_smoothing=0.1)
    loss = train_step.loss_from_settings(settings, counts)
    assert loss.label_smoothing == 0.1
    assert (loss.class_weights * counts).tolist() == pytest.approx([100 / 3] * 3)
    assert (
        train_step.loss_from_settings(optimization.Settings(), counts).class_weights
        == ()
    )
