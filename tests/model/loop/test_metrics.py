import math

import numpy as np
import pytest

from model.loop import metrics

# Rows: the labels 0, 1, 1, 2, 2, 2; four hits.
LABELS = np.array([0, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 1, 0, 2, 2, 0])


def logits_for(predicted, num_classes):
    return np.eye(num_classes, dtype=np.float32)[predicted]


class TestLoss:
    def test_by_hand(self):
        """Probabilities 3/4 and 1/4; 1/2 and 1/2."""
        logits = np.log(np.array([[3.0, 1.0], [1.0, 1.0]]))
        found = metrics.mean_loss(logits, np.array([1, 0]))
        assert found == pytest.approx((math.log(4) + math.log(2)) / 2)

    def test_a_constant_added_to_all_logits_changes_nothing(self):
        logits = np.random.default_rng(0).normal(size=(5, 4))
        labels = np.arange(5) % 4
        shifted = logits + np.array([[-1000.0], [1000.0], [0.0], [5.0], [1e6]])
        assert metrics.mean_loss(shifted, labels) == pytest.approx(
            metrics.mean_loss(logits, labels), rel=1e-6
        )

    @pytest.mark.parametrize(
        ("row", "label", "expected"),
        [
            ([1000.0, 0.0], 0, 0.0),
            ([1000.0, 0.0], 1, 1000.0),
            ([-1000.0, -1000.0], 1, math.log(2)),
            ([3e38, -3e38], 1, 6e38),
            ([0.0, -math.inf], 0, 0.0),
            ([0.0, -math.inf], 1, math.inf),
        ],
    )
    def test_extreme_logits(self, row, label, expected):
        found = metrics.mean_loss(np.array([row], np.float32), np.array([label]))
        assert found == pytest.approx(expected)

    def test_nothing_is_no_number(self):
        empty = np.zeros((0, 3)), np.zeros(0, np.int64)
        assert math.isnan(metrics.mean_loss(*empty))
        assert math.isnan(metrics.accuracy(*empty))

    def test_log_softmax_sums_to_one(self):
        logits = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32) * 30
        found = metrics.log_softmax(logits)
        assert found.dtype == np.float64
        np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
        assert (found.argsort() == logits.argsort()).all()


class TestAccuracy:
    def test_by_hand(self):
        assert metrics.accuracy(logits_for(PREDICTED, 3), LABELS) == 4 / 6

    def test_top_k_by_hand(self):
        logits = np.array([[5, 4, 3, 2, 1, 0]] * 6)
        labels = np.arange(6)
        found = [metrics.top_k_accuracy(logits, labels, k) for k in range(1, 7)]
        assert found == [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1]

    def test_top_5_of_fewer_classes_is_certain(self):
        logits = np.random.default_rng(0).normal(size=(7, 3))
        assert metrics.top_k_accuracy(logits, np.arange(7) % 3, 5) == 1

    @pytest.mark.parametrize(("label", "hit"), [(0, 1), (1, 0), (2, 0)])
    def test_of_equal_logits_the_first_counts(self, label, hit):
        """An untrained network does not score by chance on every class."""
        logits = np.zeros((1, 3))
        assert metrics.accuracy(logits, np.array([label])) == hit
        assert hit == (logits.argmax() == label)

    def test_ties_within_the_first_k(self):
        logits = np.array([[1.0, 2.0, 1.0, 1.0]])
        found = [metrics.top_k_accuracy(logits, np.array([n]), 2) for n in range(4)]
        assert found == [1, 1, 0, 0]

    def test_ties_among_many_classes(self):
        """Where a sort that is not stable would mix the equal ones."""
        logits, labels = np.arange(300)[None] % 2, np.arange(300)
        hits = [metrics.top_k_accuracy(logits, labels[n : n + 1], 5) for n in labels]
        assert np.flatnonzero(hits).tolist() == [1, 3, 5, 7, 9]


class TestWilson:
    def test_by_hand(self):
        """z^2 = 3.841459; (8/10 + z^2/20 -+ z sqrt(.016 + z^2/400)) / (1 + z^2/10)."""
        low, high = metrics.wilson_interval(8, 10)
        assert low == pytest.approx((0.99207295 - 0.31361628) / 1.3841459, abs=1e-6)
        assert high == pytest.approx((0.99207295 + 0.31361628) / 1.3841459, abs=1e-6)

    @pytest.mark.parametrize(
        ("hits", "total", "expected"),
        [
            (0, 10, (0, 3.841459 / 13.841459)),
            (10, 10, (10 / 13.841459, 1)),
            (0, 0, (0, 1)),
            (1, 1, (1 / 4.841459, 1)),
        ],
    )
    def test_at_the_ends(self, hits, total, expected):
        assert metrics.wilson_interval(hits, total) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("hits", "total"), [(1, 3), (8, 10), (363, 400), (9999, 10000)]
    )
    def test_ends_are_where_the_share_is_z_deviations_away(self, hits, total):
        """Its definition: |hits/total - p| = z sqrt(p (1 - p) / total)."""
        low, high = metrics.wilson_interval(hits, total)
        assert 0 < low < hits / total < high < 1
        for end in (low, high):
            deviation = math.sqrt(end * (1 - end) / total)
            assert abs(hits / total - end) == pytest.approx(1.959964 * deviation)

    def test_mirror_image(self):
        low, high = metrics.wilson_interval(30, 100)
        assert metrics.wilson_interval(70, 100) == pytest.approx((1 - high, 1 - low))

    def test_more_photos_are_more_certain(self):
        widths = [
            high - low
            for low, high in (metrics.wilson_interval(9 * n, 10 * n) for n in (1, 5, 9))
        ]
        assert widths == sorted(widths, reverse=True)


class TestPerClass:
    def test_confusion_matrix_by_hand(self):
        found = metrics.confusion_matrix(LABELS, PREDICTED, 4)
        assert found.dtype == np.int64
        assert found.tolist() == [
            [1, 0, 0, 0],
            [1, 1, 0, 0],
            [1, 0, 2, 0],
            [0, 0, 0, 0],
        ]

    def test_no_photo(self):
        nothing = np.zeros(0, np.int64)
        assert metrics.confusion_matrix(nothing, nothing, 2).tolist() == [[0, 0]] * 2

    def test_by_hand(self):
        rows = metrics.per_class(metrics.confusion_matrix(LABELS, PREDICTED, 3))
        third = {"precision": 1 / 3, "recall": 1.0, "f1": 2 / 4, "support": 1}
        assert rows[0] == pytest.approx(third)
        half = {"precision": 1.0, "recall": 1 / 2, "f1": 2 / 3, "support": 2}
        assert rows[1] == pytest.approx(half)
        most = {"precision": 1.0, "recall": 2 / 3, "f1": 4 / 5, "support": 3}
        assert rows[2] == pytest.approx(most)

    def test_f1_is_the_harmonic_mean(self):
        confusion = np.random.default_rng(0).integers(1, 20, (5, 5))
        for row in metrics.per_class(confusion):
            mean = 2 / (1 / row["precision"] + 1 / row["recall"])
            assert row["f1"] == pytest.approx(mean)

    def test_what_is_undefined_is_none(self):
        """Never predicted: no precision; no photo: no recall; neither: no F1."""
        never_predicted, _, absent, absent_but_predicted = metrics.per_class(
            np.array([[0, 1, 0, 1], [0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
        )
        assert never_predicted == {
            "precision": None,
            "recall": 0.0,
            "f1": 0.0,
            "support": 2,
        }
        assert absent == {"precision": None, "recall": None, "f1": None, "support": 0}
        assert absent_but_predicted == {
            "precision": 0.0,
            "recall": None,
            "f1": 0.0,
            "support": 0,
        }


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
    def test_finds_the_one_that_labels_were_drawn_with(self, temperature):
        random = np.random.default_rng(0)
        logits = random.normal(size=(20_000, 4)) * 2
        chances = np.exp(metrics.log_softmax(logits / temperature))
        labels = (chances.cumsum(axis=1) < random.random((len(logits), 1))).sum(axis=1)
        found = metrics.fit_temperature(logits, labels)
        assert found == pytest.approx(temperature, rel=0.06)

    def test_by_hand(self):
        """Three of four right at a margin of 2; the true class of each gets 5/6.

        So 3 (5/6) + 1/6 of four say the first class: best where the odds are 8 to 4.
        """
        logits = np.array([[2.0, 0.0]] * 4)
        found = metrics.fit_temperature(logits, np.array([0, 0, 0, 1]))
        assert found == pytest.approx(2 / math.log(2), rel=1e-4)

    @pytest.mark.parametrize("count", [4, 60, 1000])
    def test_all_right_by_hand(self, count):
        """All of n at the same margin m: n + 1 to 1 odds are exp(m / T)."""
        logits = np.array([[3.0, 0.0]] * count)
        found = metrics.fit_temperature(logits, np.zeros(count, np.int64))
        assert found == pytest.approx(3 / math.log(count + 1), rel=1e-4)

    def test_all_right_is_neither_certain_nor_at_a_bound(self):
        random = np.random.default_rng(2)
        labels = random.integers(0, 5, 60)
        logits = 8 * np.eye(5)[labels] + random.normal(size=(60, 5))
        assert metrics.accuracy(logits, labels) == 1
        found = metrics.fit_temperature(logits, labels)
        assert not metrics.at_bound(found)
        shares = np.exp(metrics.log_softmax(logits / found)).max(axis=1)
        assert 0.95 < shares.mean() < 0.999
        assert (shares < 1 - 1e-4).all()

    @pytest.mark.parametrize("errors", [0.1, 0.3])
    def test_with_many_errors_smoothing_changes_little(self, errors):
        """Against the lowest loss by labels as they are, found on a grid."""
        random = np.random.default_rng(6)
        logits = 3 * random.normal(size=(400, 5))
        labels = logits.argmax(axis=1)
        wrong = random.random(400) < errors
        labels[wrong] = random.integers(0, 5, wrong.sum())
        grid = np.exp(np.linspace(math.log(0.2), math.log(20), 800))
        losses = [metrics.mean_loss(logits / t, labels) for t in grid]
        found = metrics.fit_temperature(logits, labels)
        assert found == pytest.approx(grid[np.argmin(losses)], rel=0.03)

    def test_scales_with_the_logits(self):
        logits = np.random.default_rng(3).normal(size=(50, 3))
        labels = np.random.default_rng(4).integers(0, 3, 50)
        labels[:35] = logits.argmax(axis=1)[:35]
        found = metrics.fit_temperature(logits, labels)
        doubled = metrics.fit_temperature(2 * logits, labels)
        assert doubled == pytest.approx(2 * found, rel=1e-4)

    @pytest.mark.parametrize(
        ("margin", "labels", "expected"),
        [(0.01, [0, 1, 2], 0.05), (4, [1, 2, 0], 20.0)],
        ids=["hardly apart", "all wrong"],
    )
    def test_stays_within_its_bounds_and_tells(self, margin, labels, expected):
        found = metrics.fit_temperature(margin * np.eye(3), np.array(labels))
        assert found == pytest.approx(expected, rel=1e-6)
        assert metrics.at_bound(found)

    def test_no_photo(self):
        nothing = np.zeros(0, np.int64)
        assert metrics.fit_temperature(np.zeros((0, 3)), nothing) == 1
        assert not metrics.at_bound(1.0)

    def test_one_class(self):
        found = metrics.fit_temperature(np.ones((5, 1)), np.zeros(5, np.int64))
        assert 0.05 <= found <= 20
