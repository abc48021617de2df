import numpy as np
import pytest

from model.evaluation import label_errors

# Self-confidence of class 0 is on average 0.55, of class 1 it is 0.8.
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]])
LABELS = np.array([0, 0, 1, 1])


def test_thresholds_by_hand():
    found = label_errors.thresholds(PROBABILITIES, LABELS)
    np.testing.assert_allclose(found, [0.55, 0.8])


def test_a_class_without_photos_is_never_suggested():
    probabilities = np.array([[0.1, 0.9], [0.1, 0.9]])
    labels = np.array([0, 0])
    assert label_errors.thresholds(probabilities, labels).tolist() == [0.1, np.inf]
    assert label_errors.find(probabilities, labels) == []


def test_by_hand():
    """The third photo is confidently of neither class, and in no doubt."""
    assert label_errors.find(PROBABILITIES, LABELS) == [
        label_errors.Doubt(
            example=1,
            label=0,
            suggested=1,
            label_probability=0.2,
            suggested_probability=0.8,
        )
    ]


def test_a_mistake_that_is_not_confident_is_no_doubt():
    """Taken for class 1 by argmax, but less surely than photos of class 1 are."""
    probabilities = np.array([[0.45, 0.55], [0.9, 0.1], [0.05, 0.95], [0.1, 0.9]])
    assert label_errors.find(probabilities, np.array([0, 0, 1, 1])) == []


def test_the_likeliest_first_and_the_most_probable_class():
    own = np.eye(3)[[0, 0, 1, 1, 2, 2]] * 0.9 + 0.05
    odd = np.array([[0.02, 0.03, 0.95], [0.01, 0.98, 0.01]])
    probabilities = np.concatenate([own, odd])
    found = label_errors.find(probabilities, np.array([0, 0, 1, 1, 2, 2, 0, 0]))
    assert [(one.example, one.suggested) for one in found] == [(7, 1), (6, 2)]


def test_planted_labels_are_found():
    """Of 300 photos, 15 were given another label; the network was not told."""
    random = np.random.default_rng(0)
    true = random.integers(0, 3, 300)
    logits = random.normal(0, 1, (300, 3)) + 5 * np.eye(3)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = true.copy()
    labels[:15] = (true[:15] + 1) % 3
    found = [one.example for one in label_errors.find(probabilities, labels)]
    assert len(set(found) & set(range(15))) >= 13
    assert len(set(found[:13]) & set(range(15))) == 13


def test_equal_probabilities_are_above_their_own_mean():
    """0.1 + 0.1 + 0.1 is more than 3 x 0.1."""
    probabilities = np.array([[0.1, 0.9]] * 3)
    found = label_errors.find(probabilities, np.array([1, 1, 0]))
    assert [one.example for one in found] == [2]


@pytest.mark.parametrize("num_classes", [2, 5])
def test_no_photos(num_classes):
    assert label_errors.find(np.zeros((0, num_classes)), np.zeros(0, int)) == []
