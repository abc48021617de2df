"""Compute figures of merit with NumPy alone.

Logits are float [num_examples, num_classes], labels int [num_examples], 0-based.
"""

import math
from typing import Any

import numpy as np

LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0
_Z95 = 1.959964
# Correlation of the photos of a group; the assumption counts as much as one group with
# a mistake. Few mistakes alone cannot show how alike the photos of a group are.
_GROUP_CORRELATION = 0.5
_LOG_TEMPERATURE_DEVIATION = 0.3  # before any photo is seen


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities, float64 [num_examples, num_classes]."""
    result = logits.astype(np.float64)
    for part in np.array_split(result, len(result) // 4096 + 1):  # to save memory
        part -= part.max(axis=1, keepdims=True)
        part -= np.log(np.exp(part).sum(axis=1, keepdims=True))
    return result


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of each example in nats, float64 [num_examples]."""
    return np.asarray(-log_softmax(logits)[np.arange(len(labels)), labels])


def mean_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy in nats; NaN without examples."""
    return float(losses(logits, labels).mean()) if len(labels) else math.nan


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of examples whose label is among the k largest logits, 0..1.

    Of equal logits the lower class comes first, as in argmax. NaN without examples.
    """
    if not len(labels):
        return math.nan
    first = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((first == labels[:, None]).any(axis=1).mean())


def wilson_interval(hits: float, total: float) -> tuple[float, float]:
    """Return an interval that covers the true share in 95 % of cases.

    `hits` of `total` independent trials have succeeded; 0 trials give (0, 1).

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical
    Inference".
    """
    if not total:
        return 0.0, 1.0
    share, z = hits / total, _Z95
    centre = share + z * z / (2 * total)
    margin = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def effective_number(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the number of independent photos with the same information on a mean.

    The photos of a group (copies, near-duplicates, --group_by) tend to be right or
    wrong together; an interval that counted each photo would be too narrow. The result
    is the number of photos divided by the design effect: the variance of the mean,
    estimated from the groups, over that of independent photos. Few groups make it
    smaller still, by the ratio of normal and t quantile. Without groups it is the
    number of photos. `values` are numbers or bool [num_photos], such as whether a
    prediction is correct, `groups` the name of each photo's group.

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
    assumed = 1 + _GROUP_CORRELATION * (largest_effect - 1)
    effect = (num_informative * effect + assumed) / (num_informative + 1)
    effect = min(largest_effect, max(1.0, effect))
    # The less groups can matter, the less their small number does.
    shrinkage = _Z95 / _t_quantile(total / largest_effect - 1)
    return float(total / effect * shrinkage ** (2 - 2 / largest_effect))


def effective_in_folds(
    correct: np.ndarray, groups: np.ndarray, folds: np.ndarray
) -> float:
    """Return the number of independent photos that the photos of all folds are worth.

    If the accuracies of the folds differ more than by chance, it is smaller by the
    ratio of the variances, and by that of squared t and normal quantile, because a few
    folds estimate it. In simulations of 5 and 10 folds, such intervals cover the true
    accuracy in 94 to 98 of 100 cases. No estimate is right for all data, because the
    folds share most of their training photos.

    Sources: Williams 1982, "Extra-binomial Variation in Logistic Linear Models"; Bayle
    et al. 2020, "Cross-validation Confidence Intervals for Test Error"; Bengio and
    Grandvalet 2004, "No Unbiased Estimator of the Variance of K-Fold Cross-Validation".
    """
    number, total = effective_number(correct, groups), len(correct)
    _, fold_of, sizes = np.unique(folds, return_inverse=True, return_counts=True)
    share, freedom = float(correct.mean()), len(sizes) - 1
    if not 0 < share < 1 or not freedom:
        return number
    surplus = np.bincount(fold_of, weights=correct) - share * sizes
    effect = float((surplus**2 / sizes).sum()) / (share * (1 - share) * freedom)
    if effect <= 1:
        return number
    effect *= (_t_quantile(freedom) / _Z95) ** 2
    return min(number, max(1.0, total / effect))


def accuracy_interval(
    correct: np.ndarray, groups: np.ndarray, folds: np.ndarray | None = None
) -> list[float]:
    """Return low and high end of the accuracy's 95 % interval.

    It allows for groups and, if the networks of several folds predicted, for folds.
    """
    number = effective_number(correct, groups)
    if folds is not None:
        number = effective_in_folds(correct, groups, folds)
    hits = float(correct.sum() * (number / len(correct)))
    return list(wilson_interval(hits, number))


def mean_interval(values: np.ndarray, groups: np.ndarray) -> list[float]:
    """Return the 95 % interval of the mean of values >= 0; it allows for groups."""
    mean, number = float(values.mean()), effective_number(values, groups)
    margin = _Z95 * float(values.std()) / math.sqrt(max(1.0, number - 1))
    return [max(0.0, mean - margin), mean + margin]


def sum_groups(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the sum of the integer values of each group, int64 [num_groups]."""
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
    import scipy.optimize  # takes 0.2 s

    if not len(labels):
        return 1.0

    def loss(log_t: float) -> float:
        prior = (log_t / _LOG_TEMPERATURE_DEVIATION) ** 2 / (2 * len(labels))
        return mean_loss(logits / math.exp(log_t), labels) + prior

    bounds = math.log(LEAST_TEMPERATURE), math.log(MOST_TEMPERATURE)
    options = {"xatol": 1e-9}
    found = scipy.optimize.minimize_scalar(loss, bounds=bounds, options=options)
    return math.exp(found.x)


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
