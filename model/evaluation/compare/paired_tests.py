"""Compute tests and intervals for two runs that predict the same photos.

Only photos that one run gets right and the other does not say anything about their
difference. McNemar's exact test asks whether these are divided evenly except for
chance; Tango's interval says how large the difference may be.
"""

import math
import statistics
from collections.abc import Sequence

ALPHA = 0.05  # chance of reporting a difference where there is none, over all pairs
POWER = 0.8  # chance of seeing a difference of POINT on the photos recommended
POINT = 0.01
_Z95 = 1.959964


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the p value of McNemar's exact test.

    It is min(1, 2 P(X <= min(b, c))) for X ~ Binomial(b + c, 1/2), where b and c are
    the numbers of photos that only one run gets right.

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
    """Return the 95 % interval of the difference in accuracy, second minus first.

    The interval holds the differences that the score test does not reject.

    Args:
        only_first: number of photos that only the first run gets right.
        only_second: number of photos that only the second run gets right.
        total: number of all photos, at least 1.
        z: quantile of the normal distribution; the default gives 95 %.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design", Statistics in Medicine 17.
    """
    low = -_tango_limit(only_first, only_second, total, z)
    return low, _tango_limit(only_second, only_first, total, z)


def _tango_limit(more: int, fewer: int, total: int, z: float) -> float:
    """Return the largest d = P(more) - P(fewer) that the score test accepts."""

    def accepts(d: float) -> bool:
        # q: maximum-likelihood P(fewer) for a difference of d, the larger root of
        # 2 total q^2 + slope q - fewer d (1 - d) = 0.
        slope = d * (2 * total - more + fewer) - (more + fewer)
        root = math.sqrt(max(0.0, slope**2 + 8 * total * fewer * d * (1 - d)))
        q = (root - slope) / (4 * total)
        variance = total * max(0.0, 2 * q + d * (1 - d))
        return total * d - (more - fewer) <= z * math.sqrt(variance)

    low, high = (more - fewer) / total, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if accepts(middle) else (low, middle)
    return (low + high) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, in the given order.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
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
    """Return the number of photos on which McNemar's test sees a difference.

    Args:
        differing: share of photos that only one of the runs gets right, 0..1; at least
            `difference` is assumed, since it cannot be less.
        difference: difference in accuracy, above 0.
        alpha: chance of reporting a difference that does not exist, 0..1.
        power: chance of seeing a difference of this size, 0..1.

    Source: Connor 1987, "Sample size for testing differences in proportions for the
    paired-sample design", Biometrics 43.
    """
    quantile = statistics.NormalDist().inv_cdf
    differing = max(differing, difference)
    deviation = quantile(1 - alpha / 2) * math.sqrt(differing)
    deviation += quantile(power) * math.sqrt(differing - difference**2)
    return math.ceil((deviation / difference) ** 2)
