"""Compute the tables of the HTML report: confusion matrix and coverage."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from model.evaluation import calibration
from model.loop import metrics

_MAX_CLASSES = 40  # in the confusion matrix
_MAX_CONFUSIONS = 30
_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.5)
_ACCURACIES = (0.9, 0.95, 0.99)
_UNREACHED = {"threshold": None}


def class_matrix(confusion_matrix: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the confusion matrix for display; of many classes the most confused.

    `labels` are the classes shown, and `rows`, of true classes, have cells {true,
    predicted, count, share}; `left_out` is the number of classes not shown, `mixed_up`
    has the most frequent confusions among all classes.
    """
    confusion = np.array(confusion_matrix)
    num_classes = len(confusion)
    labels = np.arange(num_classes)
    wrong = confusion * (1 - np.eye(num_classes, dtype=np.int64))
    if num_classes > _MAX_CLASSES:
        mistakes = wrong.sum(axis=0) + wrong.sum(axis=1)
        most_confused = np.argsort(-mistakes, kind="stable")[:_MAX_CLASSES]
        labels = np.sort(most_confused)
    largest = max(1, int(confusion.max()))
    rows = [
        [
            {
                "true": int(true),
                "predicted": int(predicted),
                "count": int(confusion[true, predicted]),
                # The root makes a single mistake among hundreds of hits visible.
                "share": round(float(np.sqrt(confusion[true, predicted] / largest)), 3),
            }
            for predicted in labels
        ]
        for true in labels
    ]
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return {
        "labels": labels.tolist(),
        "rows": rows,
        "left_out": num_classes - len(labels),
        "mixed_up": [
            {"true": int(t), "predicted": int(p), "count": int(wrong[t, p])}
            for t, p in pairs
            if wrong[t, p]
        ],
    }


def coverage_table(
    points: Sequence[dict[str, float]],
    confidence: np.ndarray,
    effective_share: float = 1,
) -> list[dict[str, Any]]:
    """Return what abstaining on uncertain photos is worth.

    There is a row per goal (a share of photos to classify, or an accuracy): {goal,
    threshold, coverage, answered, accuracy, low, high}. `threshold` is text, `answered`
    the number of photos, `low` and `high` the 95 % interval of `accuracy`. If no
    threshold reaches the goal, `threshold` is None and the rest is missing.

    The points are those of `calibration.coverage`, `confidence` the probability of each
    photo's predicted class; `effective_share` is the number of independent photos that
    one photo counts as, 0..1, below 1 for photos in groups.
    """
    goals: list[tuple[str, dict[str, float] | None]] = []
    for share in _COVERAGES:
        nearest = min(points, key=lambda point: abs(point["coverage"] - share))
        goals.append((f"classify {100 * share:.0f} % of the photos", nearest))
    for accuracy in _ACCURACIES:
        reaching = [point for point in points if point["accuracy"] >= accuracy]
        widest = max(reaching, key=lambda point: point["coverage"], default=None)
        goals.append((f"be right for {100 * accuracy:.0f} % of them", widest))
    return [
        {"goal": goal}
        | (_coverage_row(point, confidence, effective_share) if point else _UNREACHED)
        for goal, point in goals
    ]


def _coverage_row(
    point: dict[str, float], confidence: np.ndarray, effective_share: float
) -> dict[str, Any]:
    num_classified = round(point["coverage"] * len(confidence))
    num_correct = round(point["accuracy"] * num_classified)
    low, high = metrics.wilson_interval(
        num_correct * effective_share, num_classified * effective_share
    )
    return {
        **point,
        "threshold": calibration.threshold_text(point["threshold"], confidence),
        "answered": num_classified,
        "low": low,
        "high": high,
    }
