"""Probabilities and labels -> how far the probabilities can be trusted; NumPy only."""

import dataclasses
import decimal
import math
from typing import Any

import numpy as np

NUM_BINS = 15
_CURVE_POINTS = 100
_DIGITS, _MOST_DIGITS = 3, 20  # after the point of a threshold


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sureness:
    """The likeliest class of each photo.

    Attributes:
        confidence: float64 [num_examples], its probability, 0..1.
        right: bool [num_examples], whether it is the photo's class.
    """

    confidence: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, labels: np.ndarray) -> "Sureness":
        """Of some photos.

        Args:
            probabilities: float [num_examples, num_classes], rows summing to 1. Of
                equal ones the lower class counts as the likeliest, as in argmax.
            labels: int [num_examples], 0-based.
        """
        predicted = probabilities.argmax(axis=1)
        confidence = probabilities[np.arange(len(labels)), predicted]
        return cls(
            confidence=np.asarray(confidence, np.float64), right=predicted == labels
        )


def reliability(sureness: Sureness, num_bins: int = NUM_BINS) -> list[dict[str, Any]]:
    """Compares confidence and accuracy in bins of equal width.

    Args:
        sureness: of the photos.
        num_bins: that 0..1 is cut into; a bin holds its upper end, the first one 0 too.

    Returns:
        A row per bin: its ends `low` and `high`, `num_examples`, their mean
        `confidence` and their `accuracy`, both None in an empty bin.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.
    """
    ends = np.arange(num_bins + 1) / num_bins
    place = np.searchsorted(ends[1:-1], sureness.confidence, side="left")
    rows = []
    for number in range(num_bins):
        inside = place == number
        count = int(inside.sum())
        rows.append(
            {
                "low": float(ends[number]),
                "high": float(ends[number + 1]),
                "num_examples": count,
                "confidence": float(sureness.confidence[inside].mean())
                if count
                else None,
                "accuracy": float(sureness.right[inside].mean()) if count else None,
            }
        )
    return rows


def expected_calibration_error(bins: list[dict[str, Any]]) -> float:
    """Mean distance of confidence and accuracy, bins weighted by their photos.

    Args:
        bins: of `reliability`.

    Returns:
        0 (as right as it is sure) to 1; nan without photos.

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


def coverage(sureness: Sureness) -> list[dict[str, float]]:
    """Accuracy on the photos that are answered when unsure answers are left out.

    Args:
        sureness: of the photos.

    Returns:
        Points from the surest photos to all of them, at most 100, those that leave out
        least among them: a `threshold` of confidence; the share of photos at or above
        it, `coverage`; and their `accuracy`. Photos that are equally sure are answered
        together. Empty without photos.

    Source: El-Yaniv and Wiener 2010, "On the Foundations of Noise-free Selective
    Classification".
    """
    total = len(sureness.right)
    if not total:
        return []
    order = np.argsort(-sureness.confidence, kind="stable")
    confidence = sureness.confidence[order]
    hits = np.cumsum(sureness.right[order])
    last = np.flatnonzero(np.append(confidence[1:] < confidence[:-1], True))
    wanted = np.linspace(0, len(last) - 1, min(len(last), _CURVE_POINTS))
    return [
        {
            "threshold": float(confidence[n]),
            "coverage": float((n + 1) / total),
            "accuracy": float(hits[n] / (n + 1)),
        }
        for n in last[np.rint(wanted).astype(np.int64)]
    ]


def threshold_text(threshold: float, confidence: np.ndarray) -> str:
    """A threshold in few digits, by which the same photos are answered.

    It is rounded down: 0.9996 as 1.000 would leave out the photo that it is made of.

    Args:
        threshold: of a point of `coverage`.
        confidence: float64 [num_examples], of all photos.
    """
    answered = confidence >= threshold
    for digits in range(_DIGITS, _MOST_DIGITS):
        unit = decimal.Decimal(1).scaleb(-digits)
        found = decimal.Decimal(threshold).quantize(unit, decimal.ROUND_FLOOR)
        if np.array_equal(confidence >= float(found), answered):
            return str(found)
    return repr(threshold)


def figures(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """What evaluation/<split>.json says about calibration and abstaining.

    Args:
        before: float [num_examples, num_classes], probabilities as the network gives
            them.
        after: likewise, calibrated.
        labels: int [num_examples], 0-based.
    """
    bins_before = reliability(Sureness.of(before, labels))
    sureness = Sureness.of(after, labels)
    bins = reliability(sureness)
    return {
        "calibration": {
            "ece": expected_calibration_error(bins),
            "ece_before": expected_calibration_error(bins_before),
            "bins": bins,
            "bins_before": bins_before,
        },
        "coverage": coverage(sureness),
    }
