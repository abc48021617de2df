import numpy as np
import pytest

from model.evaluation import calibration


def top_predictions(confidence, correct):
    return np.array(confidence, float), np.array(correct, bool)


class TestReliability:
    def test_bins_match_those_computed_by_hand(self):
        """A bin holds its upper end: 0.6 belongs to 0.4..0.6."""
        bins = calibration.reliability(
            *top_predictions([0.9, 0.8, 0.6, 0.5], [1, 1, 0, 1]), num_bins=5
        )
        assert [row["num_examples"] for row in bins] == [0, 0, 2, 1, 1]
        assert [row["accuracy"] for row in bins] == [None, None, 0.5, 1, 1]
        assert bins[2]["confidence"] == pytest.approx(0.55)
        assert bins[3] == {
            "low": 0.6,
            "high": 0.8,
            "num_examples": 1,
            "confidence": 0.8,
            "accuracy": 1.0,
        }

    def test_the_first_bin_holds_0_and_the_last_1(self):
        bins = calibration.reliability(*top_predictions([0, 1], [0, 1]))
        assert len(bins) == 15
        assert bins[0]["num_examples"] == bins[-1]["num_examples"] == 1
        assert (bins[0]["low"], bins[-1]["high"]) == (0, 1)


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        ([0.9, 0.8, 0.6, 0.5], [1, 1, 0, 1], (0.1 + 0.2 + 2 * 0.05) / 4),
        ([0.75] * 4, [1, 1, 1, 0], 0),
        ([1, 1], [0, 0], 1),
    ],
    ids=["by hand", "calibrated", "confident mistakes"],
)
def test_the_error_of_calibration_by_hand(confidence, correct, expected):
    bins = calibration.reliability(*top_predictions(confidence, correct), num_bins=5)
    assert calibration.expected_calibration_error(bins) == pytest.approx(expected)


class TestCoverage:
    def test_points_match_those_computed_by_hand(self):
        """Two photos of 0.9 are classified together or not at all."""
        points = calibration.coverage(
            *top_predictions([0.5, 0.9, 0.6, 0.9], [1, 0, 1, 1])
        )
        assert points == [
            {"threshold": 0.9, "coverage": 0.5, "accuracy": 0.5},
            {"threshold": 0.6, "coverage": 0.75, "accuracy": pytest.approx(2 / 3)},
            {"threshold": 0.5, "coverage": 1.0, "accuracy": 0.75},
        ]

    def test_many_photos_give_a_hundred_points(self):
        confidence = np.linspace(0.2, 1, 5000)
        right = confidence > 0.6
        points = calibration.coverage(confidence, right)
        assert len(points) == 100
        assert points[-1]["coverage"] == 1
        assert points[-1]["accuracy"] == right.mean()
        shares = [point["coverage"] for point in points]
        assert shares == sorted(shares)
        for point in points:
            answered = confidence >= point["threshold"]
            assert point["coverage"] == answered.mean()
            assert point["accuracy"] == pytest.approx(right[answered].mean())


class TestThresholdText:
    @pytest.mark.parametrize(
        ("confidence", "text"),
        [
            ([0.9, 0.8765, 0.5], "0.876"),
            ([0.9, 0.8765, 0.8762], "0.8764"),  # 0.876 would answer the next one too
            ([0.99999, 0.8765], "0.876"),
            ([0.8765, 0.8765, 0.1], "0.876"),
            ([1.0, 0.8765, 0.0], "0.876"),
        ],
    )
    def test_few_digits_are_enough(self, confidence, text):
        assert calibration.threshold_text(0.8765, np.array(confidence)) == text

    def test_the_same_photos_reach_every_point_of_a_curve(self):
        random = np.random.default_rng(5)
        confidence = np.append(1 - random.random(400) ** 8, 1 - 2e-12)
        for point in calibration.coverage(confidence, confidence > 0.5):
            text = calibration.threshold_text(point["threshold"], confidence)
            answered = (confidence >= float(text)).sum()
            assert answered == round(point["coverage"] * len(confidence))


def test_figures_are_those_before_and_after_calibration():
    """Of equal probabilities the lower class is the predicted one."""
    before = np.array([[0.9, 0.1], [0.9, 0.1]])
    after = np.array([[0.5, 0.5], [0.5, 0.5]])
    figures = calibration.figures(before, after, np.array([0, 1]))
    assert figures["calibration"]["ece_before"] == pytest.approx(0.4)
    assert figures["calibration"]["ece"] == 0
    assert figures["coverage"] == [{"threshold": 0.5, "coverage": 1.0, "accuracy": 0.5}]
