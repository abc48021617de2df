import pytest

from model.reports import text_report


def run(name, **how):
    return {
        "run": name,
        "accuracy": 0.9,
        "accuracy_ci95": [0.8, 0.95],
        "balanced_accuracy": 0.75,
        "top5_accuracy": 1.0,
        "calibrated_loss": 0.25,
        "model_bytes": 12_345_678,
        "images_per_s": 1234.5,
    } | how


def pair(second, **how):
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


def comparison(pairs, **how):
    return {
        "split": "test",
        "num_examples": 60,
        "num_groups": 60,
        "class_names": ["cat", "dog"],
        "runs": [run("a"), run("longer", accuracy=1.0, images_per_s=None)],
        "pairs": pairs,
        "written": "a/evaluation/compare-test.json",
    } | how


def test_two_runs_are_compared_in_a_table():
    lines = text_report.comparison(comparison([pair("longer")])).splitlines()
    assert lines == [
        "test split, 60 photos that none of the runs was trained on",
        "",
        "run     accuracy     95 % interval  balanced  top-5  log loss    MB  photos/s",
        "a         0.9000  0.8000 to 0.9500    0.7500      -    0.2500  12.3     1,234",
        "longer    1.0000  0.8000 to 0.9500    0.7500      -    0.2500  12.3         -",
        "",
        "longer compared with a",
        "  only this run right: 7 photos; only the other: 1; McNemar's exact p 0.0703",
        "  accuracy +0.1000, 95 % interval +0.0013 to +0.2048",
        "  no difference can be seen (p = 0.14)",
        "",
        "written: a/evaluation/compare-test.json",
    ]


def test_p_values_of_more_runs_are_corrected():
    figures = comparison(
        [pair("longer"), pair("c")], num_groups=57, class_names=list("abcdef")
    )
    text = text_report.comparison(figures)
    assert "tests allow for groups: 60 photos in 57 groups (copies" in text
    assert "only the other: 1; sign test of groups, p 0.0703" in text
    assert "a         0.9000  0.8000 to 0.9500    0.7500  1.0000" in text
    assert text.count("p 0.0703, corrected 0.141\n") == 2
    assert "p values are corrected for 2 comparisons by Holm\n" in text


def test_names_stay_on_their_line():
    figures = comparison([pair("b\nc")], runs=[run("a"), run("b\nc")])
    lines = text_report.comparison(figures).splitlines()
    assert "b\\nc compared with a" in lines


def test_a_temperature_at_a_bound_has_a_remark():
    assert text_report.temperature_at_bound(1.5) == ""
    for bound in (0.05, 20):
        assert "probabilities are not calibrated" in text_report.temperature_at_bound(
            bound
        )


@pytest.mark.parametrize(
    ("low", "remark"), [(0.94, True), (0.95, True), (0.951, False)]
)
def test_an_accuracy_like_that_of_the_largest_class_has_a_remark(low, remark):
    figures = {"accuracy_ci95": [low, 0.99], "largest_class_share": 0.95}
    text = text_report.is_no_better(figures)
    assert bool(text) == remark == ("look at the balanced accuracy" in text)


@pytest.mark.parametrize(
    ("precision", "lines"), [("bfloat16", 1), ("float32", 0), ("", 0)]
)
def test_a_training_in_another_precision_is_named(precision, lines):
    named = text_report.precision_in_words({"training_precision": precision})
    assert len(named) == lines
    assert all("in float32" in line and "bfloat16" in line for line in named)


def test_groups_are_named_with_what_they_are_worth():
    figures = {"num_examples": 60, "num_groups": 30, "effective_examples": 41.7}
    assert text_report.groups_in_words(figures) == [
        "In the interval, 60 photos in 30 groups (copies, near-duplicates, --group_by) "
        "count as 42 independent photos."
    ]
    assert text_report.groups_in_words(figures | {"num_groups": 60}) == []


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            {
                "photos": [{"path": "a/1.jpg", "similar_to": "a/2.jpg"}],
                "chance": 0.014,
                "num_training": 50_000,
                "num_training_in_all": 60_000,
            },
            "near-copies of training photos: 1 of 1,097 photos, first a/1.jpg and "
            "a/2.jpg, compared with 50,000 of 60,000. Of training photos cropped by "
            "10 % on each side, 95 % are found; 1.4 % of training photos look as much "
            "like another training photo.",
        ),
        (
            {"not_searched": "nothing is cached"},
            "near-copies of training photos: not searched, because nothing is cached. "
            "Conversion keeps copies in one split only if re-encoded, mirrored, turned "
            "by 90 degrees, resized, grey, or cropped by up to 2 % on each side.",
        ),
    ],
    ids=["searched", "not searched"],
)
def test_the_number_of_near_copies_is_said_with_its_limit(content, line):
    figures = {"num_examples": 1097, "split": "test", "near_copies": content}
    assert text_report.near_copies_in_words(figures) == [line]
    assert not text_report.near_copies_in_words(figures | {"split": "train"})
