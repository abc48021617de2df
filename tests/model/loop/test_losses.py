import math

import numpy as np
import pytest

from model.loop import losses

LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32))
LABELS = np.array([0, 1], np.int32)
PLAIN = [-math.log(0.7), -math.log(0.1)]


def test_cross_entropy_by_hand():
    np.testing.assert_allclose(
        losses.Loss().per_example(LOGITS, LABELS), PLAIN, rtol=1e-5
    )


def test_label_smoothing_by_hand():
    """Of 0.3, each of three classes gets 0.1: 0.8, 0.1, 0.1 for the first example."""
    found = losses.Loss(label_smoothing=0.3).per_example(LOGITS, LABELS)
    expected = [
        -(0.8 * math.log(0.7) + 0.1 * math.log(0.2) + 0.1 * math.log(0.1)),
        -(0.1 * math.log(0.1) + 0.8 * math.log(0.1) + 0.1 * math.log(0.8)),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_class_weights_by_hand():
    loss = losses.Loss(class_weights=(2.0, 0.5, 1.0))
    expected = [2 * PLAIN[0], 0.5 * PLAIN[1]]
    np.testing.assert_allclose(loss.per_example(LOGITS, LABELS), expected, rtol=1e-5)


# Of the second example, a quarter is of class 0 and the rest of class 2.
SHARES = np.array([[1, 0, 0], [0.25, 0, 0.75]], np.float32)


def test_mixed_labels_by_hand():
    expected = [PLAIN[0], -(0.25 * math.log(0.1) + 0.75 * math.log(0.8))]
    np.testing.assert_allclose(
        losses.Loss().per_example(LOGITS, SHARES), expected, rtol=1e-5
    )


def test_mixed_labels_are_smoothed():
    found = losses.Loss(label_smoothing=0.3).per_example(LOGITS, SHARES)
    by_hand = 0.275 * math.log(0.1) + 0.1 * math.log(0.1) + 0.625 * math.log(0.8)
    assert float(found[1]) == pytest.approx(-by_hand, rel=1e-5)


def test_mixed_labels_are_weighted():
    """An example counts as the mean of its classes."""
    loss = losses.Loss(class_weights=(2.0, 0.5, 1.0))
    plain = losses.Loss().per_example(LOGITS, SHARES).numpy()
    expected = plain * [2, 0.25 * 2 + 0.75 * 1]
    np.testing.assert_allclose(loss.per_example(LOGITS, SHARES), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [(), (2.0, 0.5, 1.0)])
def test_a_share_of_one_counts_as_a_label(smoothing, weights):
    loss = losses.Loss(label_smoothing=smoothing, class_weights=weights)
    whole = np.eye(3, dtype=np.float32)[LABELS]
    found, expected = loss.per_example(LOGITS, whole), loss.per_example(LOGITS, LABELS)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_extreme_logits_stay_finite():
    logits = np.array([[1e4, -1e4]], np.float32)
    for share in (0.0, 0.1):
        found = losses.Loss(label_smoothing=share).per_example(
            logits, np.array([1], np.int32)
        )
        assert np.isfinite(found).all()
        assert float(found[0]) == pytest.approx(2e4 * (1 - share / 2))


def test_balanced_classes_have_the_same_total_weight():
    counts = np.array([10, 30, 60])
    weights = np.array(losses.balanced(counts))
    assert (weights * counts).tolist() == pytest.approx([100 / 3] * 3)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    assert losses.balanced(np.array([7, 7])) == (1.0, 1.0)
