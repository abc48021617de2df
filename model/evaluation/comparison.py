"""Runs judged on the same photos -> whether one is better; NumPy only.

Two runs are asked the same questions, so only the photos that one of them gets right
and the other does not say anything of their difference. McNemar's exact test asks
whether these are shared evenly but for chance; Tango's interval says how large the
difference may be. The verdict is the test's, which is the more cautious of the two:
with few such photos the interval may leave zero out where the test sees nothing.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from model.evaluation import stored_logits
from model.loop import metrics
from pipeline.system.errors import DataError

ALPHA = 0.05  # chance of a difference where there is none, of all pairs together
POWER = 0.8  # chance to see a difference of POINT on as many photos as are asked for
POINT = 0.01
_Z95 = 1.959964


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run as it is compared.

    Attributes:
        name: unlike the others'.
        class_names: in label order.
        examples: what it says of each photo.
        temperature: that its logits are divided by for probabilities.
        model_bytes: size of its model file.
        images_per_s: photos per second when it was judged; None if not known.
    """

    name: str
    class_names: tuple[str, ...]
    examples: stored_logits.Examples
    temperature: float
    model_bytes: int
    images_per_s: float | None = None

    @property
    def right(self) -> np.ndarray:
        """Whether the largest logit is the photo's class, bool [num_examples]."""
        return np.asarray(self.examples.logits.argmax(axis=1) == self.examples.label)


def compare(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """The figures of each run, and of the first against each of the others.

    Args:
        candidates: two or more runs.

    Returns:
        What evaluation/compare-<split>.json holds of them. A photo that is there
        several times, byte for byte, counts once: its copies say nothing new.

    Raises:
        DataError: classes or photos are not the same.
    """
    paired = pair(candidates)
    first, others = paired[0], paired[1:]
    pairs = [_compare_two(first, other) for other in others]
    corrected = holm([found["p"] for found in pairs])
    total = len(first.examples.label)
    for found, p_corrected in zip(pairs, corrected, strict=True):
        found["p_holm"] = p_corrected
        found["photos_needed"] = photos_needed(
            (found["only_first"] + found["only_second"]) / total,
            alpha=ALPHA / len(pairs),
        )
        found["verdict"] = verdict(found)
    return {
        "num_examples": total,
        "num_copies": len(candidates[0].examples.label) - total,
        "class_names": list(first.class_names),
        "alpha": ALPHA,
        "runs": [_describe(one) for one in paired],
        "pairs": pairs,
    }


def pair(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same runs with the same photos in the same order, each photo once.

    Photos are told by the SHA-256 of their file and by their class.

    Raises:
        DataError: classes or photos are not the same; says how many are shared.
    """
    first = candidates[0]
    for other in candidates[1:]:
        if other.class_names != first.class_names:
            raise DataError(
                f"{first.name} knows the classes {', '.join(first.class_names)}; "
                f"{other.name} {', '.join(other.class_names)}: same names in the same "
                "order expected; only runs on the same classes can be compared"
            )
    paired = [_sorted_once(one) for one in candidates]
    photos = [set(one.examples.sha256.tolist()) for one in paired]
    if any(found != photos[0] for found in photos):
        sizes = ", ".join(
            f"{one.name} {len(found)}"
            for one, found in zip(paired, photos, strict=True)
        )
        raise DataError(
            f"judged on different photos: {sizes}, of which all share "
            f"{len(set.intersection(*photos))}; judge them on the same, which none has "
            "trained on: --data=FOLDER --another_dataset"
        )
    ours = paired[0].examples
    kinds = set(_kinds(ours))
    for other in paired[1:]:
        odd = kinds ^ set(_kinds(other.examples))
        if odd:
            sha256, _ = min(odd)
            path = ours.path[ours.sha256.tolist().index(sha256)]
            raise DataError(
                f"{path}: of another class for {other.name} than for {first.name}; "
                "judge them on the same records: --data=FOLDER --another_dataset"
            )
    return paired


def _kinds(found: stored_logits.Examples) -> Iterator[tuple[str, int]]:
    return zip(found.sha256.tolist(), found.label.tolist(), strict=True)


def _sorted_once(one: Candidate) -> Candidate:
    """By SHA-256 and label; of copies the one whose path comes first."""
    found = one.examples
    order = np.lexsort((found.path, found.label, found.sha256))
    sha256, label = found.sha256[order], found.label[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (sha256[1:] != sha256[:-1]) | (label[1:] != label[:-1])
    order = order[new]
    examples = stored_logits.Examples(
        sha256=found.sha256[order],
        path=found.path[order],
        label=found.label[order],
        logits=found.logits[order],
    )
    return dataclasses.replace(one, examples=examples)


def _describe(one: Candidate) -> dict[str, Any]:
    logits, label = one.examples.logits, one.examples.label
    hits = int(one.right.sum())
    return {
        "run": one.name,
        "accuracy": hits / len(label),
        "accuracy_ci95": list(metrics.wilson_interval(hits, len(label))),
        "top5_accuracy": metrics.top_k_accuracy(logits, label, 5),
        "loss": metrics.mean_loss(logits, label),
        "calibrated_loss": metrics.mean_loss(logits / one.temperature, label),
        "temperature": one.temperature,
        "model_bytes": one.model_bytes,
        "images_per_s": one.images_per_s,
    }


def _compare_two(first: Candidate, second: Candidate) -> dict[str, Any]:
    only_first = first.right & ~second.right
    only_second = second.right & ~first.right
    counts = int(only_first.sum()), int(only_second.sum())
    total = len(only_first)
    return {
        "first": first.name,
        "second": second.name,
        "num_examples": total,
        "only_first": counts[0],
        "only_second": counts[1],
        "both_right": int((first.right & second.right).sum()),
        "p": mcnemar_p(*counts),
        "difference": (counts[1] - counts[0]) / total,
        "difference_ci95": list(tango_interval(*counts, total)),
        "photos_only_first": first.examples.path[only_first].tolist(),
        "photos_only_second": first.examples.path[only_second].tolist(),
    }


def verdict(found: dict[str, Any]) -> str:
    """What a pair's figures come to, in words."""
    p = found["p_holm"]
    if p < ALPHA:
        better = found["second" if found["difference"] > 0 else "first"]
        return f"{better} is better ({describe_p(p)})"
    if not found["only_first"] + found["only_second"]:
        return (
            "no difference can be seen: both are right, and wrong, on the same photos"
        )
    text = f"no difference can be seen ({describe_p(p)}); "
    needed, points = found["photos_needed"], f"{POINT * 100:g} point"
    if needed <= found["num_examples"]:
        return text + f"one of {points} would most likely have shown"
    return text + f"to see one of {points}, some {_rounded(needed):,} photos are needed"


def describe_p(p: float) -> str:
    """A p value as text, with no more digits than it is good for."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _rounded(count: int) -> int:
    """Upwards to two digits."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Probability of a split as uneven as this or more so, if a fair coin made it.

    Args:
        only_first: photos that only the first run gets right, b.
        only_second: photos that only the second gets right, c.

    Returns:
        min(1, 2 P(X <= min(b, c))) for X ~ Binomial(b + c, 1/2), from whole numbers
        and rounded once; 1 without any such photo.

    Source: McNemar 1947, "Note on the sampling error of the difference between
    correlated proportions or percentages", in its exact form.
    """
    total = only_first + only_second
    ways, tail = 1, 0
    for k in range(min(only_first, only_second) + 1):
        tail += ways
        ways = ways * (total - k) // (k + 1)
    return min(1.0, 2 * tail / 2**total)


def tango_interval(
    only_first: int, only_second: int, total: int, z: float = _Z95
) -> tuple[float, float]:
    """Interval of the difference of two paired shares, second less first.

    It covers the true difference with 95 % probability (at the default z), and holds
    those differences that the score test does not reject.

    Args:
        only_first: pairs where only the first succeeds, b.
        only_second: pairs where only the second does, c.
        total: all pairs, 1 or more.
        z: quantile of the normal distribution.

    Returns:
        Low and high, within -1..1; (c - b) / total lies between.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design", Statistics in Medicine 17.
    """
    return (
        -_tango_limit(only_first, only_second, total, z),
        _tango_limit(only_second, only_first, total, z),
    )


def _tango_limit(more: int, fewer: int, total: int, z: float) -> float:
    """The largest difference d of P(more) - P(fewer) that the score test lets pass."""

    def passes(d: float) -> bool:
        # q: P(fewer) that is likeliest if the difference is d, the larger root of
        # 2 total q^2 + slope q - fewer d (1 - d) = 0.
        slope = d * (2 * total - more + fewer) - (more + fewer)
        root = math.sqrt(max(0.0, slope**2 + 8 * total * fewer * d * (1 - d)))
        q = (root - slope) / (4 * total)
        variance = total * max(0.0, 2 * q + d * (1 - d))
        return total * d - (more - fewer) <= z * math.sqrt(variance)

    low, high = (more - fewer) / total, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return (low + high) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values, corrected for their number, in the order given.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda n: p_values[n])
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = largest
    return corrected


def photos_needed(
    differing: float,
    *,
    difference: float = POINT,
    alpha: float = ALPHA,
    power: float = POWER,
) -> int:
    """Photos on which McNemar's test sees a difference, with the given power.

    Args:
        differing: share of photos that only one of the runs gets right, 0..1; taken to
            be `difference` at least, as it must be.
        difference: of accuracy, above 0.
        alpha: chance of seeing one where there is none.
        power: chance of seeing it where it is.

    Source: Connor 1987, "Sample size for testing differences in proportions for the
    paired-sample design", Biometrics 43.
    """
    quantile = statistics.NormalDist().inv_cdf
    differing = max(differing, difference)
    spread = quantile(1 - alpha / 2) * math.sqrt(differing) + quantile(
        power
    ) * math.sqrt(differing - difference**2)
    return math.ceil((spread / difference) ** 2)
