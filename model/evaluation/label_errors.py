"""Held-out probabilities -> photos whose label is likely wrong; NumPy only."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doubt:
    """A photo that is confidently another class than its label says.

    Attributes:
        example: index of the photo.
        label: that it was given, 0-based.
        suggested: class that it is likely of.
        label_probability: of the given label, 0..1.
        suggested_probability: of the suggested class.
    """

    example: int
    label: int
    suggested: int
    label_probability: float
    suggested_probability: float


def thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How sure a network is of each class on the photos that are labelled so.

    Args:
        probabilities: float [num_examples, num_classes], held out.
        labels: int [num_examples], 0-based.

    Returns:
        float64 [num_classes]: the mean self-confidence; inf for a class that no photo
        has, so that nothing is confidently of it.
    """
    num_classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    totals = np.bincount(labels, weights=own, minlength=num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    return np.where(counts > 0, totals / np.maximum(1, counts), np.inf)


def find(probabilities: np.ndarray, labels: np.ndarray) -> list[Doubt]:
    """Finds labels that are likely wrong, the likeliest first.

    A photo is confidently of a class if that class is at least as probable as it is on
    average for the photos that are labelled so; of several such classes it is the most
    probable. Where that is not the label, the label is in doubt. Doubts are ordered by
    how much less probable the label is than the suggested class.

    Args:
        probabilities: float [num_examples, num_classes], rows summing to 1, each by a
            network that was not trained on the photo.
        labels: int [num_examples], 0-based.

    Source: Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating
    Uncertainty in Dataset Labels", section 3.1 (the confident joint) and 3.2 (pruning
    by its off-diagonal entries).
    """
    if not len(labels):
        return []
    # The mean of equal numbers may be a rounding error above them.
    confident = probabilities >= thresholds(probabilities, labels) - 1e-9
    candidates = np.where(confident, probabilities, -1.0)
    suggested = candidates.argmax(axis=1)
    examples = np.flatnonzero(confident.any(axis=1) & (suggested != labels))
    own = probabilities[examples, labels[examples]]
    other = probabilities[examples, suggested[examples]]
    order = np.argsort(own - other, kind="stable")
    return [
        Doubt(
            example=int(examples[n]),
            label=int(labels[examples[n]]),
            suggested=int(suggested[examples[n]]),
            label_probability=float(own[n]),
            suggested_probability=float(other[n]),
        )
        for n in order
    ]
