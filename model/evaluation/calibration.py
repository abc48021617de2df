"""Compute how far probabilities can be trusted, and what abstaining is worth."""

import dataclasses
import decimal
import math
from typing import Any

import numpy as np

NUM_BINS = 15
_CURVE_POINTS = 100
_DIGITS, _MOST_DIGITS = 3, 20  # after the point of a threshold


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopPredictions:
    """The most probable class of each photo.

    Attributes:
        confidence: float64 [num_examples], probability of that class, 0..1.
        correct: bool [num_examples], whether that class is the label.
    """

    confidence: np.ndarray
    correct: np.ndarray

    @classmethod
    def from_probabilities(
        cls, probabilities: np.ndarray, labels: np.ndarray
    ) -> "TopPredictions":
        """Take the most probable class of each photo; of equal ones the lower label.

        Args:
            probabilities: float [num_examples, num_classes], rows summing to 1.
            labels: int [num_examples], 0-based.
        """
        predicted = probabilities.argmax(axis=1)
        confidence = probabilities[np.arange(len(labels)), predicted]
        return cls(
            confidence=np.asarray(confidence, np.float64), correct=predicted == labels
        )


def reliability(
    predictions: TopPredictions, num_bins: int = NUM_BINS
) -> list[dict[str, Any]]:
    """Compare confidence and accuracy in bins of 0..1, each including its upper end.

    Returns:
        One row per bin: its ends `low` and `high`, `num_examples`, mean `confidence`
        and `accuracy`; the last two are None in an empty bin.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.
    """
    ends = np.arange(num_bins + 1) / num_bins
    bin_of = np.searchsorted(ends[1:-1], predictions.confidence, side="left")
    return [
        {
            "low": float(ends[number]),
            "high": float(ends[number + 1]),
            "num_examples": int((bin_of == number).sum()),
            "confidence": _mean(predictions.confidence[bin_of == number]),
            "accuracy": _mean(predictions.correct[bin_of == number]),
        }
        for number in range(num_bins)
    ]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def expected_calibration_error(bins: list[dict[str, Any]]) -> float:
    """Return the mean distance of confidence and accuracy, weighted by photos.

    It is 0 (calibrated) to 1 for the bins of `reliability`; nan without photos.

    Source: Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian
    Binning"; Guo et al. 2017.
    """
    total = sum(row["num_examples"] for row in bins)
    if not total:
        return math.nan
    gaps = (
        row["num_examples"] * abs(row["accuracy"] - row["confidence"])
        for row in bins
        if row["num_examples"]
    )
    return float(sum(gaps) / total)


def coverage(predictions: TopPredictions) -> list[dict[str, float]]:
    """Return the accuracy on the photos at or above each confidence threshold.

    Returns:
        At most 100 points, from the most confident photos to all photos: `threshold` of
        the confidence, `coverage` (share of the photos at or above it) and their
        `accuracy`. Photos with equal confidence share a point. Empty without photos.

    Source: El-Yaniv and Wiener 2010, "On the Foundations of Noise-free Selective
    Classification".
    """
    total = len(predictions.correct)
    if not total:
        return []
    order = np.argsort(-predictions.confidence, kind="stable")
    confidence = predictions.confidence[order]
    num_correct = np.cumsum(predictions.correct[order])
    last = np.flatnonzero(np.append(confidence[1:] < confidence[:-1], True))
    selected = np.linspace(0, len(last) - 1, min(len(last), _CURVE_POINTS))
    return [
        {
            "threshold": float(confidence[n]),
            "coverage": float((n + 1) / total),
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

    Args:
        before: float [num_examples, num_classes], uncalibrated probabilities.
        after: float [num_examples, num_classes], calibrated probabilities.
        labels: int [num_examples], 0-based.
    """
    predictions = TopPredictions.from_probabilities(after, labels)
    bins = reliability(predictions)
    bins_before = reliability(TopPredictions.from_probabilities(before, labels))
    return {
        "calibration": {
            "ece": expected_calibration_error(bins),
            "ece_before": expected_calibration_error(bins_before),
            "bins": bins,
            "bins_before": bins_before,
        },
        "coverage": coverage(predictions),
    }
