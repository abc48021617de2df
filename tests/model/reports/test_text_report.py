import pytest

from model.reports import text_report


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
    text = text_report.no_better_in_words(figures)
    assert bool(text) == remark == ("look at the balanced accuracy" in text)


@pytest.mark.parametrize(
    ("precision", "lines"), [("bfloat16", 1), ("float32", 0), ("", 0)]
)
def test_a_training_in_another_precision_is_named(precision, lines):
    named = text_report.precision_in_words({"training_precision": precision})
    assert len(named) == lines
    assert all("in float32" in line and "bfloat16" in line for line in named)


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
            "Conversion keeps copies in one split only if they are re-encoded, "
            "mirrored, turned by 90 degrees, resized, grey, or cropped by up to 2 % on "
            "each side.",
        ),
    ],
    ids=["searched", "not searched"],
)
def test_the_number_of_near_copies_is_said_with_its_limit(content, line):
    figures = {"num_examples": 1097, "split": "test", "near_copies": content}
    assert text_report.near_copies_in_words(figures) == [line]
    assert not text_report.near_copies_in_words(figures | {"split": "train"})
