import dataclasses
import itertools
import json
import math
import statistics

import numpy as np
import pytest

from model.evaluation import comparison, stored_logits
from model.loop import metrics
from pipeline.system.errors import DataError


def digest(number):
    return f"{number:064x}"


def candidate(name, answers, labels=None, photos=None, **how):
    """A run of two classes that gives each photo the class of `answers`."""
    answers = np.array(answers)
    labels = np.zeros(len(answers), np.int64) if labels is None else np.array(labels)
    photos = range(len(answers)) if photos is None else photos
    examples = stored_logits.Examples(
        sha256=np.array([digest(number) for number in photos]),
        path=np.array([f"{number}.jpg" for number in photos]),
        label=labels,
        logits=np.eye(2, dtype=np.float32)[answers],
    )
    about = {"class_names": ("cat", "dog"), "temperature": 1.0, "model_bytes": 9}
    return comparison.Candidate(name=name, examples=examples, **(about | how))


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
    def test_by_hand(self, only_first, only_second, p):
        assert comparison.mcnemar_p(only_first, only_second) == p
        assert comparison.mcnemar_p(only_second, only_first) == p

    def test_against_a_sum_of_binomials(self):
        for b, c in itertools.product(range(12), repeat=2):
            odds = [math.comb(b + c, k) for k in range(b + c + 1)]
            as_uneven = [
                w for k, w in enumerate(odds) if abs(2 * k - b - c) >= abs(b - c)
            ]
            expected = sum(as_uneven) / 2 ** (b + c)
            assert comparison.mcnemar_p(b, c) == pytest.approx(expected, rel=1e-12)

    def test_many_photos(self):
        """As the normal distribution has it; and beyond what a float can hold."""
        z = (100 - 1) / math.sqrt(2100)  # with the correction for continuity
        expected = 2 * statistics.NormalDist().cdf(-z)
        assert comparison.mcnemar_p(1000, 1100) == pytest.approx(expected, rel=0.01)
        assert comparison.mcnemar_p(0, 5000) == 0


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
    def test_published(self, only_first, only_second, total, z, expected):
        found = comparison.tango_interval(only_first, only_second, total, z)
        digits = len(str(expected[0]).split(".")[1])
        assert tuple(round(limit, digits) for limit in found) == expected

    def test_where_no_photo_differs(self):
        """As Wilson's interval of none of `total`."""
        low, high = comparison.tango_interval(0, 0, 50)
        assert high == pytest.approx(metrics.wilson_interval(0, 50)[1])
        assert low == -high

    @pytest.mark.parametrize(
        ("only_first", "only_second", "total"),
        [(3, 9, 40), (0, 4, 30), (1, 0, 1), (20, 20, 40), (0, 7, 7)],
    )
    def test_holds_the_difference_and_mirrors(self, only_first, only_second, total):
        low, high = comparison.tango_interval(only_first, only_second, total)
        assert -1 <= low <= (only_second - only_first) / total <= high <= 1
        assert low < high
        mirrored = comparison.tango_interval(only_second, only_first, total)
        assert mirrored == pytest.approx((-high, -low), abs=1e-12)

    @pytest.mark.parametrize("shares", [(0.1, 0.1), (0.05, 0.2), (0.3, 0.2)])
    def test_covers_the_truth_in_95_of_100_cases(self, shares):
        """Over all that 40 photos can show, each with its exact probability."""
        total, (first, second) = 40, shares
        covered = 0.0
        for b in range(total + 1):
            for c in range(total + 1 - b):
                low, high = comparison.tango_interval(b, c, total)
                if low <= second - first <= high:
                    rest = total - b - c
                    ways = math.comb(total, b) * math.comb(total - b, c)
                    odds = first**b * second**c * (1 - first - second) ** rest
                    covered += ways * odds
        assert covered == pytest.approx(0.95, abs=0.02)


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
    def test_by_hand(self, p_values, expected):
        assert comparison.holm(p_values) == pytest.approx(expected)


class TestPhotosNeeded:
    def test_by_hand(self):
        """Connor's formula: ((1.96 sqrt(0.1) + 0.8416 sqrt(0.0975)) / 0.05)^2."""
        assert comparison.photos_needed(0.1, difference=0.05) == 312

    def test_that_many_are_enough(self):
        total = comparison.photos_needed(0.2, difference=0.1)
        random = np.random.default_rng(0)
        seen = random.multinomial(total, [0.05, 0.15, 0.8], size=2000)
        hits = np.mean([comparison.mcnemar_p(b, c) < 0.05 for b, c, _ in seen.tolist()])
        assert 0.72 < hits < 0.85  # the exact test asks for a little more

    def test_no_fewer_than_the_difference_asks_for(self):
        least = comparison.photos_needed(comparison.POINT)
        assert comparison.photos_needed(0.0) == least > 0


class TestPair:
    def test_the_order_of_photos_does_not_matter(self):
        first = candidate("a", [0, 0, 1, 1, 0], labels=[0, 1, 1, 0, 0])
        second = candidate("b", [0, 1, 1, 0, 1], labels=[0, 1, 1, 0, 0])
        order = np.array([3, 0, 4, 2, 1])
        fields = dataclasses.asdict(second.examples)
        mixed = stored_logits.Examples(**{name: fields[name][order] for name in fields})
        expected = comparison.compare([first, second])
        assert expected["pairs"][0]["photos_only_first"] == ["4.jpg"]
        assert expected["pairs"][0]["photos_only_second"] == ["1.jpg", "3.jpg"]
        again = comparison.compare([first, dataclasses.replace(second, examples=mixed)])
        assert again == expected

    def test_copies_count_once(self):
        photos = [7, 8, 7, 7]
        both = [
            candidate("a", [0, 1, 0, 0], photos=photos),
            candidate("b", [1, 0, 1, 1], photos=photos),
        ]
        figures = comparison.compare(both)
        assert (figures["num_examples"], figures["num_copies"]) == (2, 2)
        (found,) = figures["pairs"]
        assert (found["only_first"], found["only_second"]) == (1, 1)
        assert [one["accuracy"] for one in figures["runs"]] == [0.5, 0.5]

    def test_a_photo_that_is_filed_under_two_classes_is_two(self):
        both = [
            candidate(name, [0, 0], labels=[1, 0], photos=[7, 7]) for name in ("a", "b")
        ]
        assert comparison.compare(both)["num_examples"] == 2

    def test_different_photos(self):
        three = [
            candidate("a", [0, 0, 0], photos=[1, 2, 3]),
            candidate("b", [0, 0, 0], photos=[2, 3, 1]),
            candidate("c", [0, 0], photos=[3, 4]),
        ]
        with pytest.raises(
            DataError, match=r"a 3, b 3, c 2, of which all share 1; .*--data="
        ):
            comparison.pair(three)

    def test_a_photo_of_another_class(self):
        both = [
            candidate("a", [0, 0], labels=[0, 1]),
            candidate("b", [0, 0], labels=[0, 0]),
        ]
        with pytest.raises(DataError, match=r"1\.jpg: of another class for b"):
            comparison.pair(both)

    @pytest.mark.parametrize("names", [("dog", "cat"), ("cat", "cow")])
    def test_other_classes(self, names):
        both = [candidate("a", [0]), candidate("b", [0], class_names=names)]
        with pytest.raises(DataError, match="same names in the same order"):
            comparison.pair(both)


class TestCompare:
    def test_by_hand(self):
        """Ten photos: the second run gets eight more of them right."""
        first = candidate("a", [1] * 8 + [0] * 2, temperature=2.0, images_per_s=5.0)
        second = candidate("b", [0] * 10)
        figures = comparison.compare([first, second])
        assert json.loads(json.dumps(figures)) == figures
        one, other = figures["runs"]
        assert one["accuracy_ci95"] == list(metrics.wilson_interval(2, 10))
        right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
        assert one["loss"] == pytest.approx((2 * right + 8 * wrong) / 10)
        right, wrong = math.log1p(math.exp(-0.5)), math.log1p(math.exp(0.5))
        assert one["calibrated_loss"] == pytest.approx((2 * right + 8 * wrong) / 10)
        assert (other["accuracy"], other["images_per_s"]) == (1, None)
        (found,) = figures["pairs"]
        assert found["p"] == found["p_holm"] == 2 / 256
        assert (found["only_first"], found["only_second"]) == (0, 8)
        assert (found["both_right"], found["difference"]) == (2, 0.8)
        assert found["difference_ci95"] == list(comparison.tango_interval(0, 8, 10))
        assert found["verdict"] == "b is better (p = 0.008)"

    def test_the_other_way_round(self):
        two = [candidate("a", [1] * 8 + [0] * 2), candidate("b", [0] * 10)]
        (found,) = comparison.compare(two)["pairs"]
        (mirrored,) = comparison.compare(two[::-1])["pairs"]
        assert mirrored["verdict"] == found["verdict"]
        assert mirrored["p"] == found["p"]
        assert mirrored["difference"] == -found["difference"]

    def test_three_runs_are_corrected(self):
        """0.031 once is a difference; as one of two comparisons it is none."""
        runs = [
            candidate("a", [0] * 6 + [0] * 4),
            candidate("b", [1] * 6 + [0] * 4),
            candidate("c", [0] * 10),
        ]
        alone = comparison.compare(runs[:2])["pairs"][0]
        assert alone["verdict"] == "a is better (p = 0.031)"
        found = comparison.compare(runs)["pairs"]
        assert [pair["p"] for pair in found] == [2 / 64, 1]
        assert [pair["p_holm"] for pair in found] == [4 / 64, 1]
        assert found[0]["verdict"].startswith("no difference can be seen (p = 0.062)")
        assert found[0]["photos_needed"] > alone["photos_needed"]


class TestVerdict:
    def found(self, **how):
        return {
            "first": "a",
            "second": "b",
            "num_examples": 60,
            "only_first": 1,
            "only_second": 3,
            "difference": 2 / 60,
            "p_holm": 0.625,
            "photos_needed": 5232,
        } | how

    def test_too_few_photos(self):
        assert comparison.verdict(self.found()) == (
            "no difference can be seen (p = 0.62); to see one of 1 point, some 5,300 "
            "photos are needed"
        )

    def test_photos_enough(self):
        text = comparison.verdict(self.found(num_examples=6000))
        assert text.endswith("one of 1 point would most likely have shown")

    def test_no_photo_differs(self):
        text = comparison.verdict(self.found(only_first=0, only_second=0, p_holm=1.0))
        assert text.endswith("both are right, and wrong, on the same photos")

    def test_the_better_one_by_the_sign(self):
        better = comparison.verdict(self.found(p_holm=0.0001))
        assert better == "b is better (p < 0.001)"
        worse = comparison.verdict(self.found(p_holm=0.0312, difference=-0.1))
        assert worse == "a is better (p = 0.031)"
