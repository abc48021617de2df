import dataclasses
import json
import math

import numpy as np
import pytest

from model.evaluation import stored_logits
from model.evaluation.compare import comparison, paired_tests
from model.loop import metrics
from pipeline.system.errors import DataError


def candidate(name, answers, labels=None, photos=None, groups=None, **how):
    """A run of two classes that gives each photo the class of `answers`."""
    answers = np.array(answers)
    labels = np.zeros(len(answers), np.int64) if labels is None else np.array(labels)
    photos = range(len(answers)) if photos is None else photos
    groups = photos if groups is None else groups
    examples = stored_logits.Examples(
        sha256=np.array([f"{number:064x}" for number in photos]),
        path=np.array([f"{number}.jpg" for number in photos]),
        group=np.array([f"{number:064x}" for number in groups]),
        label=labels,
        logits=np.eye(2, dtype=np.float32)[answers],
    )
    about = {"class_names": ("cat", "dog"), "temperature": 1.0, "model_bytes": 9}
    return comparison.Candidate(name=name, examples=examples, **(about | how))


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

    def test_identical_copies_count_one_by_one_and_are_one_group(self):
        photos = [7, 8, 7, 7]
        both = [
            candidate("a", [0, 1, 0, 0], photos=photos),
            candidate("b", [1, 0, 1, 1], photos=photos),
        ]
        figures = comparison.compare(both)
        assert (figures["num_examples"], figures["num_groups"]) == (4, 2)
        (pair,) = figures["pairs"]
        assert (pair["only_first"], pair["only_second"], pair["p"]) == (3, 1, 1)
        assert [run["accuracy"] for run in figures["runs"]] == [3 / 4, 1 / 4]

    def test_groups_are_those_of_the_run_that_knows_the_fewest(self):
        both = [
            candidate("a", [0] * 20),
            candidate("b", [1] * 10 + [0] * 10, groups=[*[1] * 10, *range(10, 20)]),
        ]
        alone, grouped = (
            comparison.compare(runs)["pairs"][0]
            for runs in ([both[0], candidate("b", [1] * 10 + [0] * 10)], both)
        )
        assert alone["p"] == 2 / 1024
        assert grouped["p"] == 1
        assert grouped["difference_ci95"][0] < alone["difference_ci95"][0]
        assert grouped["photos_needed"] > 2 * alone["photos_needed"]

    def test_runs_on_different_photos_are_refused(self):
        photos = {"a": [1, 2, 3], "b": [2, 3, 1], "c": [3, 4, 4]}
        three = [candidate(name, [0] * len(p), photos=p) for name, p in photos.items()]
        with pytest.raises(DataError, match=r"c and a .* different photos .*--data="):
            comparison.pair(three)

    def test_a_photo_with_another_class_is_refused(self):
        both = [candidate("a", [0, 0], [0, 1]), candidate("b", [0, 0], [0, 0])]
        with pytest.raises(DataError, match="b and a were evaluated on different"):
            comparison.pair(both)

    @pytest.mark.parametrize("names", [("dog", "cat"), ("cat", "cow")])
    def test_runs_with_other_classes_are_refused(self, names):
        both = [candidate("a", [0]), candidate("b", [0], class_names=names)]
        with pytest.raises(DataError, match="same classes in the same order"):
            comparison.pair(both)


class TestCompare:
    def test_figures_match_those_computed_by_hand(self):
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
        (pair,) = figures["pairs"]
        assert pair["p"] == pair["p_holm"] == 2 / 256
        assert (pair["only_first"], pair["only_second"]) == (0, 8)
        assert (pair["both_right"], pair["difference"]) == (2, 0.8)
        assert pair["difference_ci95"] == list(paired_tests.tango_interval(0, 8, 10))
        assert pair["verdict"] == "b is better (p = 0.008)"

    def test_p_values_of_three_runs_are_corrected(self):
        """0.031 alone is significant; as one of two comparisons it is not."""
        runs = [
            candidate("a", [0] * 6 + [0] * 4),
            candidate("b", [1] * 6 + [0] * 4),
            candidate("c", [0] * 10),
        ]
        alone = comparison.compare(runs[:2])["pairs"][0]
        assert alone["verdict"] == "a is better (p = 0.031)"
        pairs = comparison.compare(runs)["pairs"]
        assert [pair["p"] for pair in pairs] == [2 / 64, 1]
        assert [pair["p_holm"] for pair in pairs] == [4 / 64, 1]
        assert pairs[0]["verdict"].startswith("no significant difference (p = 0.062)")
        assert pairs[0]["photos_needed"] > alone["photos_needed"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {},
            "no significant difference (p = 0.62); to see a difference of 1 point, "
            "about 5,300 photos are needed",
        ),
        (
            {"num_examples": 6000},
            "no significant difference (p = 0.62); a difference of 1 point would "
            "probably have shown",
        ),
        (
            {"only_first": 0, "only_second": 0, "p_holm": 1.0},
            "no difference: both runs are right, and wrong, on the same photos",
        ),
        ({"p_holm": 0.0001}, "b is better (p < 0.001)"),
        ({"p_holm": 0.0312, "difference": -0.1}, "a is better (p = 0.031)"),
    ],
    ids=["few photos", "many photos", "equal", "second", "first"],
)
def test_the_verdict_follows_from_the_figures(changes, text):
    figures = {
        "first": "a",
        "second": "b",
        "num_examples": 60,
        "only_first": 1,
        "only_second": 3,
        "difference": 2 / 60,
        "p_holm": 0.625,
        "photos_needed": 5232,
    }
    assert comparison.verdict(figures | changes) == text


def run_of(name, **how):
    return {
        "run": name,
        "accuracy": 0.9,
        "accuracy_ci95": [0.8, 0.95],
        "balanced_accuracy": 0.75,
        "top5_accuracy": 1.0,
        "calibrated_loss": 0.25,
        "calibrated_loss_ci95": [0.2, 0.3],
        "model_bytes": 12_345_678,
        "images_per_s": 1234.5,
    } | how


def pair_of(second, **how):
    return {
        "first": "a",
        "second": second,
        "only_first": 1,
        "only_second": 7,
        "p": 0.0703125,
        "p_holm": 0.140625,
        "difference": 0.1,
        "difference_ci95": [0.0013, 0.2048],
        "verdict": "no difference can be seen (p = 0.14)",
    } | how


def compared(pairs, **how):
    return {
        "split": "test",
        "num_examples": 60,
        "num_groups": 60,
        "class_names": ["cat", "dog"],
        "runs": [run_of("a"), run_of("longer", accuracy=1.0, images_per_s=None)],
        "pairs": pairs,
        "written": "a/evaluation/compare-test.json",
    } | how


def test_two_runs_are_compared_in_a_table():
    figures = compared([pair_of("longer", p_holm=0.0703125)])
    lines = comparison.as_text(figures).splitlines()
    assert lines == [
        "test split, 60 photos that none of the runs was trained on",
        "",
        "run     accuracy     95 % interval  balanced  top-5  log loss     "
        "95 % interval    MB  photos/s",
        "a         0.9000  0.8000 to 0.9500    0.7500      -    0.2500  "
        "0.2000 to 0.3000  12.3     1,234",
        "longer    1.0000  0.8000 to 0.9500    0.7500      -    0.2500  "
        "0.2000 to 0.3000  12.3         -",
        "",
        "longer compared with a",
        "  photos that only this run gets right: 7, only the other: 1; McNemar's exact "
        "p 0.0703",
        "  accuracy +0.1000, 95 % interval +0.0013 to +0.2048",
        "  no difference can be seen (p = 0.14)",
        "",
        "written: a/evaluation/compare-test.json",
    ]


def test_p_values_of_more_runs_are_corrected():
    figures = compared(
        [pair_of("longer"), pair_of("c")], num_groups=57, class_names=list("abcdef")
    )
    text = comparison.as_text(figures)
    assert "tests allow for groups: 60 photos in 57 groups (copies" in text
    assert "only the other: 1; sign test of groups, p 0.0703" in text
    assert "a         0.9000  0.8000 to 0.9500    0.7500  1.0000" in text
    corrected = "p 0.0703, corrected by Holm for several comparisons 0.141\n"
    assert text.count(corrected) == 2


def test_names_stay_on_their_line():
    figures = compared([pair_of("b\nc")], runs=[run_of("a"), run_of("b\nc")])
    lines = comparison.as_text(figures).splitlines()
    assert "b\\nc compared with a" in lines


def test_groups_are_named_with_what_they_are_worth():
    figures = {"num_examples": 60, "num_groups": 30, "effective_examples": 41.7}
    assert comparison.groups_in_words(figures) == [
        "In the interval, 60 photos in 30 groups (copies, near-duplicates, --group_by) "
        "count as 42 independent photos."
    ]
    assert comparison.groups_in_words(figures | {"num_groups": 60}) == []
