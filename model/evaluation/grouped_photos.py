"""Compute how many independent photos a split with groups of photos is worth.

Copies, near-duplicates and the groups of --group_by tend to be right or wrong together.
An interval that counted each photo as independent would be too narrow.
"""

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from model.loop import metrics

_Z95 = statistics.NormalDist().inv_cdf(0.975)
# Counts as one group with a mistake: with few mistakes the data cannot tell how alike
# the photos of a group are.
_ASSUMED_CORRELATION = 0.5


def effective_number(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the number of independent photos with the same information on a mean.

    It is the number of photos divided by the design effect: the variance of the mean,
    estimated from the groups, over that of independent photos. With few groups it is
    smaller still, by the ratio of normal and t quantile, so that an interval with the
    normal quantile covers the mean in 95 % of cases. Without groups it is the number of
    photos.

    Args:
        values: number or bool [num_photos], such as whether a prediction is correct.
        groups: [num_photos], name of each photo's group.

    Sources: Kish 1965, "Survey Sampling", section 5.4 (design effect); Korn and
    Graubard 1998, "Confidence Intervals for Proportions with Small Expected Number of
    Positive Counts Estimated from Survey Data" (effective sample size).
    """
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    total, num_groups = len(values), len(sizes)
    if num_groups == total:
        return float(total)
    largest_effect = float((sizes**2).sum() / total)  # where groups are wholly alike
    deviations = values - np.mean(values)
    of_photos = float((deviations**2).sum())
    of_groups = float((np.bincount(group_of, weights=deviations) ** 2).sum())
    of_groups *= num_groups / max(1, num_groups - 1)
    effect = of_groups / of_photos if of_photos else 0
    distinct, counts = np.unique(values, return_counts=True)
    is_rare = values != distinct[counts.argmax()]
    num_informative = np.count_nonzero(np.bincount(group_of, weights=is_rare))
    assumed = 1 + _ASSUMED_CORRELATION * (largest_effect - 1)
    effect = (num_informative * effect + assumed) / (num_informative + 1)
    effect = min(largest_effect, max(1.0, effect))
    shrinkage = _Z95 / _t_quantile(total / largest_effect - 1)
    return total / effect * shrinkage**2


def wilson_interval(correct: np.ndarray, groups: np.ndarray) -> list[float]:
    """Return the 95 % interval of the accuracy, low and high, which allows for groups.

    Args:
        correct: bool [num_photos], whether each prediction is correct.
        groups: [num_photos], name of each photo's group.
    """
    number = effective_number(correct, groups)
    hits = float(correct.sum() * (number / len(correct)))
    return list(metrics.wilson_interval(hits, number))


def sums(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the sum of the values of each group, int64 [num_groups].

    Args:
        values: int [num_photos].
        groups: [num_photos], name of each photo's group.
    """
    _, group_of = np.unique(groups, return_inverse=True)
    return np.bincount(group_of, weights=values).astype(np.int64)


def _t_quantile(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t, too low below 2 degrees of freedom.

    Source: Abramowitz and Stegun 1964, "Handbook of Mathematical Functions", 26.7.5.
    """
    z, v = _Z95, max(1.0, freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def describe(figures: Mapping[str, Any]) -> list[str]:
    """Return how intervals and tests allow for groups, as a line; [] without groups.

    `figures` are those of an evaluation or of a comparison.
    """
    total, num_groups = figures["num_examples"], figures["num_groups"]
    if num_groups == total:
        return []
    worth = figures.get("effective_examples")
    return [
        f"intervals and tests allow for {num_groups:,} groups (copies, near-duplicates "
        f"or --group_by) of {total:,} photos"
        + (f", which count as {worth:,.0f} independent ones" if worth else "")
    ]
