"""Compute how far probabilities can be trusted, and what abstaining is worth."""

import decimal
from typing import Any

import numpy as np

NUM_BINS = 15
_CURVE_POINTS = 100
_CHANCE_DRAWS = 50
_DIGITS, _MOST_DIGITS = 3, 20  # after the point of a threshold


def reliability(
    confidence: np.ndarray, correct: np.ndarray, num_bins: int = NUM_BINS
) -> list[dict[str, Any]]:
    """Compare confidence and accuracy in bins of 0..1, each including its upper end.

    `confidence` is the probability of the predicted class, float64 [num_examples],
    `correct` whether it is the label. Returns one row per bin: its ends `low` and
    `high`, `num_examples`, mean `confidence` and `accuracy`, None in an empty bin.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.
    """

    def mean(values: np.ndarray) -> float | None:
        return float(values.mean()) if len(values) else None

    ends = np.arange(num_bins + 1) / num_bins
    bin_of = np.searchsorted(ends[1:-1], confidence, side="left")
    return [
        {
            "low": float(ends[number]),
            "high": float(ends[number + 1]),
            "num_examples": int((bin_of == number).sum()),
            "confidence": mean(confidence[bin_of == number]),
            "accuracy": mean(correct[bin_of == number]),
        }
        for number in range(num_bins)
    ]


def expected_calibration_error(bins: list[dict[str, Any]]) -> float:
    """Return the mean distance of confidence and accuracy, weighted by photos.

    It is 0 (calibrated) to 1 for the bins of `reliability`.

    Source: Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian
    Binning"; Guo et al. 2017.
    """
    gaps = (
        row["num_examples"] * abs(row["accuracy"] - row["confidence"])
        for row in bins
        if row["num_examples"]
    )
    return float(sum(gaps) / sum(row["num_examples"] for row in bins))


def error_by_chance(confidence: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Return the expected calibration error of calibrated probabilities, by chance.

    It is the mean over draws in which each prediction is correct with its probability.
    With few photos it is far from 0.
    """
    random = np.random.default_rng(0)
    draws = [
        reliability(confidence, random.random(len(confidence)) < confidence, num_bins)
        for _ in range(_CHANCE_DRAWS)
    ]
    return float(np.mean([expected_calibration_error(bins) for bins in draws]))


def coverage(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, float]]:
    """Return the accuracy on the photos at or above each confidence threshold.

    These are at most 100 points, from the most confident photos to all photos:
    `threshold` of the confidence, `coverage` (share of the photos at or above it) and
    their `accuracy`. Photos with equal confidence share a point.

    Source: El-Yaniv and Wiener 2010, "On the Foundations of Noise-free Selective
    Classification".
    """
    order = np.argsort(-confidence, kind="stable")
    confidence = confidence[order]
    num_correct = np.cumsum(correct[order])
    last = np.flatnonzero(np.append(confidence[1:] < confidence[:-1], True))
    selected = np.linspace(0, len(last) - 1, min(len(last), _CURVE_POINTS))
    return [
        {
            "threshold": float(confidence[n]),
            "coverage": float((n + 1) / len(correct)),
            "accuracy": float(num_correct[n] / (n + 1)),
        }
        for n in last[np.rint(selected).astype(np.int64)]
    ]


def threshold_text(threshold: float, confidence: np.ndarray) -> str:
    """Round a threshold from `coverage` to few digits; the same photos reach it.

    It is rounded down: 0.9996 as 1.000 would leave out its own photo.
    """
    reached = confidence >= threshold
    for digits in range(_DIGITS, _MOST_DIGITS):
        unit = decimal.Decimal(1).scaleb(-digits)
        rounded = decimal.Decimal(threshold).quantize(unit, decimal.ROUND_FLOOR)
        if np.array_equal(confidence >= float(rounded), reached):
            return str(rounded)
    return repr(threshold)


def figures(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Return the figures of evaluation/<split>.json on calibration and coverage.

    Probabilities [num_examples, num_classes] are those before and after calibration.
    """
    # Of equal probabilities the lower class is the predicted one.
    correct = after.argmax(axis=1) == labels
    bins = reliability(after.max(axis=1), correct)
    bins_before = reliability(before.max(axis=1), before.argmax(axis=1) == labels)
    return {
        "calibration": {
            "ece": expected_calibration_error(bins),
            "ece_by_chance": error_by_chance(after.max(axis=1)),
            "ece_before": expected_calibration_error(bins_before),
            "bins": bins,
            "bins_before": bins_before,
        },
        "coverage": coverage(after.max(axis=1), correct),
    }
