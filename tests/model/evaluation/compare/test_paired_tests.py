import math
import statistics

import numpy as np
import pytest

from model.evaluation.compare import paired_tests
from model.loop import metrics


def mcnemar_p(only_first, only_second):
    """The p value of photos without groups."""
    return paired_tests.mcnemar_p(np.repeat([-1, 1, 0], [only_first, only_second, 5]))


class TestMcNemar:
    @pytest.mark.parametrize(
        ("only_first", "only_second", "p"),
        [
            (0, 0, 1),
            (3, 3, 1),
            (0, 1, 1),
            (0, 5, 2 / 32),
            (1, 5, 2 * (1 + 6) / 64),
            (2, 8, 2 * (1 + 10 + 45) / 1024),
        ],
    )
    def test_p_values_match_those_computed_by_hand(self, only_first, only_second, p):
        assert mcnemar_p(only_first, only_second) == p
        assert mcnemar_p(only_second, only_first) == p

    def test_many_photos_approach_the_normal_distribution(self):
        """Also where the numbers are beyond what a float can hold."""
        z = (100 - 1) / math.sqrt(2100)  # with the correction for continuity
        expected = 2 * statistics.NormalDist().cdf(-z)
        assert mcnemar_p(1000, 1100) == pytest.approx(expected, rel=0.01)
        assert mcnemar_p(0, 5000) == 0

    @pytest.mark.parametrize(
        ("differences", "p"),
        [
            ([5], 1),
            ([3, 2, 0], 2 / 4),  # +-3 +-2: 5 and -5 of four sums
            ([3, 1, -1], 6 / 8),  # +-3 +-1 +-1: all of eight sums but 1 and -1
            ([], 1),
        ],
    )
    def test_p_values_of_groups_match_those_computed_by_hand(self, differences, p):
        assert paired_tests.mcnemar_p(np.array(differences, np.int64)) == p


class TestTango:
    @pytest.mark.parametrize(
        ("only_first", "only_second", "total", "z", "expected"),
        [
            # Fagerland, Lydersen and Laake 2014, "Recommended tests and confidence
            # intervals for paired binomial proportions": 1, 1, 7, 12 patients.
            (7, 1, 21, 1.959964, (-0.517, -0.026)),
            # What others report of PropCIs' scoreci.mp in R, at 90 %.
            (25, 28, 618, 1.644854, (-0.0148, 0.0247)),
        ],
    )
    def test_intervals_match_published_ones(
        self, only_first, only_second, total, z, expected
    ):
        interval = paired_tests.tango_interval(only_first, only_second, total, z)
        digits = len(str(expected[0]).split(".")[1])
        assert tuple(round(limit, digits) for limit in interval) == expected

    def test_without_differing_photos_it_is_wilsons_interval(self):
        low, high = paired_tests.tango_interval(0, 0, 50)
        assert high == pytest.approx(metrics.wilson_interval(0, 50)[1])
        assert low == -high

    @pytest.mark.parametrize(
        ("only_first", "only_second", "total"),
        [(3, 9, 40), (1, 0, 1), (20, 20, 40), (0, 7, 7)],
    )
    def test_interval_holds_the_difference_and_mirrors(
        self, only_first, only_second, total
    ):
        low, high = paired_tests.tango_interval(only_first, only_second, total)
        assert -1 <= low <= (only_second - only_first) / total <= high <= 1
        assert low < high
        mirrored = paired_tests.tango_interval(only_second, only_first, total)
        assert mirrored == pytest.approx((-high, -low), abs=1e-12)

    @pytest.mark.parametrize("shares", [(0.1, 0.1), (0.05, 0.2), (0.3, 0.2)])
    def test_interval_covers_the_truth_in_95_of_100_cases(self, shares):
        """Over all that 40 photos can show, each with its exact probability."""
        total, (first, second) = 40, shares
        covered = 0.0
        for b in range(total + 1):
            for c in range(total + 1 - b):
                low, high = paired_tests.tango_interval(b, c, total)
                if low <= second - first <= high:
                    rest = total - b - c
                    ways = math.comb(total, b) * math.comb(total - b, c)
                    odds = first**b * second**c * (1 - first - second) ** rest
                    covered += ways * odds
        assert covered == pytest.approx(0.95, abs=0.02)


def draw_differences(random, sizes, only_one, correlation):
    """Draw -1, 0 or 1 for each photo: which of two equally good runs alone is right."""
    chances = np.array([only_one, 1 - 2 * only_one, only_one])
    strength = (1 - correlation) / correlation
    drawn = random.dirichlet(chances * strength, len(sizes)).cumsum(axis=1)
    of_photos = np.repeat(drawn, sizes, axis=0)
    return (of_photos[:, :2] < random.random((sizes.sum(), 1))).sum(axis=1) - 1


@pytest.mark.parametrize(
    ("sizes", "correlation"), [([10] * 30, 0.3), ([1] * 200 + [10] * 10, 0.5)]
)
def test_runs_of_equal_accuracy_differ_by_chance_alone(sizes, correlation):
    random, sizes = np.random.default_rng(0), np.array(sizes)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    draws, covered, rejected = 300, 0, 0
    for _ in range(draws):
        differences = draw_differences(random, sizes, 0.08, correlation)
        share = metrics.effective_number(differences, groups) / len(groups)
        counts = (differences < 0).sum(), (differences > 0).sum(), len(groups)
        low, high = paired_tests.tango_interval(*(share * n for n in counts))
        covered += low <= 0 <= high
        of_groups = metrics.sum_groups(differences, groups)
        rejected += paired_tests.mcnemar_p(of_groups) < 0.05
    assert 0.93 <= covered / draws <= 0.975
    assert 0.01 <= rejected / draws <= 0.05


class TestHolm:
    @pytest.mark.parametrize(
        ("p_values", "expected"),
        [
            ([0.3], [0.3]),
            ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
            ([0.5, 0.6], [1.0, 1.0]),
            ([], []),
        ],
    )
    def test_corrected_p_values_match_those_computed_by_hand(self, p_values, expected):
        assert paired_tests.holm(p_values) == pytest.approx(expected)


class TestPhotosNeeded:
    def test_number_matches_connors_formula(self):
        """((1.96 sqrt(0.1) + 0.8416 sqrt(0.0975)) / 0.05)^2."""
        assert paired_tests.photos_needed(0.1, difference=0.05) == 312

    def test_that_many_photos_reach_the_power(self):
        total = paired_tests.photos_needed(0.2, difference=0.1)
        random = np.random.default_rng(0)
        seen = random.multinomial(total, [0.05, 0.15, 0.8], size=2000)
        hits = np.mean([mcnemar_p(b, c) < 0.05 for b, c, _ in seen.tolist()])
        assert 0.72 < hits < 0.85  # the exact test asks for a little more

    def test_number_is_at_least_that_of_the_difference(self):
        least = paired_tests.photos_needed(paired_tests.POINT)
        assert paired_tests.photos_needed(0.0) == least > 0
