"""Compute figures of merit with NumPy alone.

Logits are float [num_examples, num_classes], labels int [num_examples], 0-based.
"""

import math
from typing import Any

import numpy as np

LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0
_LOG_TEMPERATURE_DEVIATION = 0.3  # before any photo is seen


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities, float64 [num_examples, num_classes]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def mean_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy in nats; NaN without examples."""
    if not len(labels):
        return math.nan
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of examples whose label is among the k largest logits, 0..1.

    Of equal logits the lower class comes first, as in argmax. NaN without examples.
    """
    if not len(labels):
        return math.nan
    first = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((first == labels[:, None]).any(axis=1).mean())


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of examples whose label has the largest logit, 0..1."""
    return top_k_accuracy(logits, labels, 1)


def wilson_interval(
    hits: float, total: float, z: float = 1.959964
) -> tuple[float, float]:
    """Return an interval that covers the true share, at the default z in 95 % of cases.

    Args:
        hits: Number of successes, 0..total.
        total: Number of independent trials; 0 gives (0, 1).
        z: Quantile of the normal distribution.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical
    Inference".
    """
    if not total:
        return 0.0, 1.0
    share = hits / total
    centre = share + z * z / (2 * total)
    margin = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def confusion_matrix(
    labels: np.ndarray, predicted: np.ndarray, num_classes: int
) -> np.ndarray:
    """Return int64 counts [true class, predicted class] of the examples."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def per_class(confusion: np.ndarray) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of each class; None for 0/0."""

    def ratio(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    counts = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        {
            "precision": ratio(hits, predicted),
            "recall": ratio(hits, support),
            "f1": ratio(2 * hits, support + predicted),
            "support": support,
        }
        for hits, support, predicted in zip(*(c.tolist() for c in counts), strict=True)
    ]


def mean_over_classes(rows: list[dict[str, Any]], name: str) -> float:
    """Return the mean of a figure from `per_class` over the classes that have it.

    The mean of "recall" is the balanced accuracy, that of "f1" the macro F1.
    """
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values) / len(values)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature T > 0 that makes the labels most probable.

    The probabilities are those of logits / T. Before any photo is seen, log T is
    normally distributed around 0, so that few photos, or photos without a mistake,
    leave T near 1. benchmarks/RESULTS.md compares this with other ways.

    It lies within LEAST_TEMPERATURE to MOST_TEMPERATURE, and is 1 without examples.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    if not len(labels):
        return 1.0

    def loss(log_t: float) -> float:
        prior = (log_t / _LOG_TEMPERATURE_DEVIATION) ** 2 / (2 * len(labels))
        return mean_loss(logits / math.exp(log_t), labels) + prior

    # Golden-section search.
    low, high = math.log(LEAST_TEMPERATURE), math.log(MOST_TEMPERATURE)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def calibrate(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Fit a temperature on the validation split; return it with its effect."""
    temperature = fit_temperature(logits, labels)
    return {
        "temperature": temperature,
        "at_bound": at_bound(temperature),
        "fitted_on": "validation",
        "num_examples": len(labels),
        "loss_before": mean_loss(logits, labels),
        "loss_after": mean_loss(logits / temperature, labels),
    }


def at_bound(temperature: float) -> bool:
    """Return whether a temperature lies at a bound of `fit_temperature`."""
    return any(
        math.isclose(temperature, bound, rel_tol=1e-6)
        for bound in (LEAST_TEMPERATURE, MOST_TEMPERATURE)
    )
