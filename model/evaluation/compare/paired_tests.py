"""Compute tests and intervals for two runs that predict the same photos.

Only photos that one run gets right and the other does not say anything about their
difference. McNemar's exact test asks whether these are divided evenly except for
chance; Tango's interval says how large the difference may be. Photos of one group,
which are right and wrong together, are not independent: there the test is one of
groups, and the interval has the number of photos that the groups are worth.
"""

import math
import statistics
from collections.abc import Sequence

import numpy as np

ALPHA = 0.05  # chance of reporting a difference where there is none, over all pairs
POWER = 0.8  # chance of seeing a difference of POINT on the photos recommended
POINT = 0.01
_Z95 = 1.959964


def mcnemar_p(differences: np.ndarray) -> float:
    """Return the p value of McNemar's exact test, or of its form for groups.

    If both runs are equally good, they can be exchanged in any of the groups. The p
    value is the share of all such exchanges after which the sum of the differences is
    at least as far from 0. If each group is one photo, that is McNemar's exact test.
    `differences` are int [num_groups]: the number of photos of the group that only the
    second run gets right minus the number that only the first gets right.

    Sources: McNemar 1947, "Note on the sampling error of the difference between
    correlated proportions or percentages"; Fisher 1935, "The Design of Experiments",
    section 21 (sign changes).
    """
    sizes = np.abs(differences[differences != 0])
    total = int(sizes.sum())
    chances = np.zeros(total + 1)  # of the sum of the groups that favour the second run
    chances[0] = 1
    for size in sizes:
        shifted = np.concatenate([np.zeros(size), chances[:-size]])
        chances = (chances + shifted) / 2
    sums = 2 * np.arange(total + 1) - total
    return min(1.0, float(chances[np.abs(sums) >= abs(differences.sum())].sum()))


def tango_interval(
    only_first: float, only_second: float, total: float, z: float = _Z95
) -> tuple[float, float]:
    """Return the 95 % interval of the difference in accuracy, second minus first.

    The interval holds the differences that the score test does not reject. `only_first`
    and `only_second` count the photos that only this run gets right, `total` all
    photos; for photos in groups, each is multiplied by the share of independent photos.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design", Statistics in Medicine 17.
    """
    low = -_tango_limit(only_first, only_second, total, z)
    return low, _tango_limit(only_second, only_first, total, z)


def _tango_limit(more: float, fewer: float, total: float, z: float) -> float:
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
    values = np.array(p_values)
    order = np.argsort(values, kind="stable")
    times_left = np.arange(len(values), 0, -1) * values[order]
    values[order] = np.maximum.accumulate(np.minimum(1, times_left))
    return values.tolist()


def photos_needed(
    differing: float,
    *,
    difference: float = POINT,
    alpha: float = ALPHA,
    effective_share: float = 1,
) -> int:
    """Return the number of photos on which McNemar's test sees a difference.

    `difference` is the difference in accuracy; `differing` is the share of photos that
    only one of the runs gets right, which is at least as large; `alpha` is the chance
    of reporting a difference that does not exist. `effective_share` is the number of
    independent photos that one photo counts as, below 1 for photos in groups.

    Source: Connor 1987, "Sample size for testing differences in proportions for the
    paired-sample design", Biometrics 43.
    """
    quantile = statistics.NormalDist().inv_cdf
    differing = max(differing, difference)
    deviation = quantile(1 - alpha / 2) * math.sqrt(differing)
    deviation += quantile(POWER) * math.sqrt(differing - difference**2)
    return math.ceil((deviation / difference) ** 2 / effective_share)
