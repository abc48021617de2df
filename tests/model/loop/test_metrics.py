import math

import numpy as np
import pytest

from model.loop import metrics

# Rows: the labels 0, 1, 1, 2, 2, 2; four hits.
LABELS = np.array([0, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 1, 0, 2, 2, 0])
METRICS = ("precision", "recall", "f1", "support")


def draw_correct(random, sizes, accuracy, correlation):
    """Draw which photos of groups of these sizes are predicted correctly."""
    chances = np.full(len(sizes), accuracy)
    if correlation:
        strength = (1 - correlation) / correlation
        chances = random.beta(
            accuracy * strength, (1 - accuracy) * strength, len(sizes)
        )
    return random.random(sizes.sum()) < np.repeat(chances, sizes)


class TestLoss:
    def test_the_mean_loss_by_hand(self):
        """Probabilities 3/4 and 1/4; 1/2 and 1/2."""
        logits = np.log(np.array([[3.0, 1.0], [1.0, 1.0]]))
        loss = metrics.mean_loss(logits, np.array([1, 0]))
        assert loss == pytest.approx((math.log(4) + math.log(2)) / 2)

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
    def test_extreme_logits_have_their_loss(self, row, label, expected):
        loss = metrics.mean_loss(np.array([row], np.float32), np.array([label]))
        assert loss == pytest.approx(expected)

    def test_without_photos_figures_are_no_numbers(self):
        empty = np.zeros((0, 3)), np.zeros(0, np.int64)
        assert math.isnan(metrics.mean_loss(*empty))
        assert math.isnan(metrics.top_k_accuracy(*empty, 1))


class TestAccuracy:
    def test_accuracy_by_hand(self):
        assert metrics.top_k_accuracy(np.eye(3)[PREDICTED], LABELS, 1) == 4 / 6

    def test_top_k_by_hand(self):
        logits = np.array([[5, 4, 3, 2, 1, 0]] * 6)
        labels = np.arange(6)
        accuracies = [metrics.top_k_accuracy(logits, labels, k) for k in range(1, 7)]
        assert accuracies == [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1]

    @pytest.mark.parametrize(
        ("logits", "k", "expected"),
        [
            (np.zeros(3), 1, [0]),
            (np.array([1.0, 2.0, 1.0, 1.0]), 2, [0, 1]),
            # A sort that is not stable would mix the equal ones.
            (np.arange(300) % 2, 5, [1, 3, 5, 7, 9]),
            (np.array([3.0, 1.0, 2.0]), 5, [0, 1, 2]),
        ],
        ids=["all equal", "within k", "many", "fewer classes than k"],
    )
    def test_of_equal_logits_the_first_count(self, logits, k, expected):
        """An untrained network does not score by chance on every class."""
        labels = np.arange(len(logits))
        hits = [metrics.top_k_accuracy(logits[None], labels[[n]], k) for n in labels]
        assert np.flatnonzero(hits).tolist() == expected


class TestWilson:
    @pytest.mark.parametrize(
        ("hits", "total", "expected"),
        [
            (0, 10, (0, 3.841459 / 13.841459)),
            (10, 10, (10 / 13.841459, 1)),
            (0, 0, (0, 1)),
            (1, 1, (1 / 4.841459, 1)),
        ],
    )
    def test_intervals_of_none_and_all_by_hand(self, hits, total, expected):
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


class TestGroups:
    @pytest.mark.parametrize(
        ("sizes", "accuracy", "correlation"),
        [
            ([1] * 200, 0.9, 0),
            ([10] * 30, 0.9, 0.3),
            ([10] * 30, 0.7, 0.3),
            ([1] * 200 + [2] * 40 + [8] * 5, 0.9, 0.5),
            (range(1, 41), 0.85, 0.2),
        ],
    )
    def test_intervals_cover_the_accuracy_in_95_of_100_cases(
        self, sizes, accuracy, correlation
    ):
        random, sizes = np.random.default_rng(0), np.array(sizes)
        groups, covered = np.repeat(np.arange(len(sizes)), sizes), 0
        for _ in range(1000):
            correct = draw_correct(random, sizes, accuracy, correlation)
            low, high = metrics.accuracy_interval(correct, groups)
            covered += low <= accuracy <= high
        assert 0.93 <= covered / 1000 <= 0.97

    @pytest.mark.parametrize("num_folds", [5, 10])
    @pytest.mark.parametrize("deviation", [0, 0.02, 0.05])
    def test_intervals_of_folds_cover_the_accuracy_of_networks_that_differ(
        self, num_folds, deviation
    ):
        random, covered = np.random.default_rng(0), 0
        folds = np.arange(1000) % num_folds
        for _ in range(1000):
            chances = random.normal(0.8, deviation, num_folds).clip(0, 1)
            correct = random.random(1000) < chances[folds]
            low, high = metrics.accuracy_interval(correct, np.arange(1000), folds)
            covered += low <= 0.8 <= high
        assert 0.93 <= covered / 1000 <= 0.985

    def test_folds_by_hand(self):
        """Variance of the folds over that of chance, and t over the normal quantile."""
        correct = np.repeat([1, 0, 1, 0], [8, 2, 4, 6]).astype(bool)
        folds = np.repeat(["a", "b"], 10)
        number = metrics.effective_in_folds(correct, np.arange(20), folds)
        assert number == 1.0  # of two folds, t is 12.7
        folds = np.repeat([*"abcde"], 4)
        surplus = np.array([4, 4, 2, 2, 0]) - 2.4
        effect = (surplus**2 / 4).sum() / (0.6 * 0.4 * 4)
        number = metrics.effective_in_folds(correct, np.arange(20), folds)
        expected = 20 / effect / (2.776 / 1.96) ** 2
        assert number == pytest.approx(expected, rel=1e-2)
        alike = np.arange(20) % 5
        assert metrics.effective_in_folds(correct, np.arange(20), alike) <= 20
        assert metrics.effective_in_folds(correct > 2, np.arange(20), folds) == 20

    def test_intervals_of_a_mean_cover_it_with_and_without_groups(self):
        random = np.random.default_rng(1)
        for size in (1, 3):
            groups, covered = np.arange(60).repeat(size), 0
            for _ in range(500):
                losses = random.exponential(1, 60).repeat(size)
                low, high = metrics.mean_interval(losses, groups)
                covered += low <= 1 <= high
            assert 0.9 <= covered / 500 <= 0.97

    def test_without_groups_each_photo_counts(self):
        correct = np.arange(100) % 3 > 0
        assert metrics.effective_number(correct, np.arange(100)) == 100

    @pytest.mark.parametrize(("num_groups", "least", "most"), [(30, 30, 60), (1, 0, 1)])
    def test_groups_without_a_mistake_count_for_less_than_their_photos(
        self, num_groups, least, most
    ):
        """The sample cannot tell that the photos of a group are not alike."""
        groups = np.repeat(np.arange(num_groups), 300 // num_groups)
        number = metrics.effective_number(np.ones(300, np.bool_), groups)
        assert least < number < most

    def test_a_single_pair_changes_little(self):
        correct, groups = np.arange(200) % 5 > 0, np.array([0, *range(199)])
        assert 198 < metrics.effective_number(correct, groups) < 200

    def test_identical_copies_count_as_one_photo(self):
        random = np.random.default_rng(0)
        correct = np.repeat(random.random(400) < 0.8, 2)
        groups = np.repeat(np.arange(400), 2)
        number = metrics.effective_number(correct, groups)
        assert number == pytest.approx(400, rel=0.02)


class TestPerClass:
    def test_confusion_matrix_by_hand(self):
        counts = metrics.confusion_matrix(LABELS, PREDICTED, 4)
        assert counts.dtype == np.int64
        rows = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
        assert counts.tolist() == rows

    def test_rows_by_hand(self):
        rows = metrics.per_class(metrics.confusion_matrix(LABELS, PREDICTED, 3))
        assert [tuple(row) for row in rows] == [METRICS] * 3
        assert [tuple(row.values()) for row in rows] == [
            pytest.approx((1 / 3, 1.0, 2 / 4, 1)),
            pytest.approx((1.0, 1 / 2, 2 / 3, 2)),
            pytest.approx((1.0, 2 / 3, 4 / 5, 3)),
        ]

    def test_means_over_classes_leave_out_what_is_undefined(self):
        confusion = np.array([[95, 0, 0], [4, 1, 0], [0, 0, 0]])
        rows = metrics.per_class(confusion)
        assert metrics.mean_over_classes(rows, "recall") == pytest.approx((1 + 0.2) / 2)
        f1 = 2 * 95 / (95 + 99), 2 * 1 / (5 + 1)
        assert metrics.mean_over_classes(rows, "f1") == pytest.approx(sum(f1) / 2)

    def test_what_is_undefined_is_none(self):
        """Never predicted: no precision; no photo: no recall; neither: no F1."""
        never_predicted, _, absent, absent_but_predicted = metrics.per_class(
            np.array([[0, 1, 0, 1], [0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
        )
        assert list(never_predicted.values()) == [None, 0.0, 0.0, 2]
        assert list(absent.values()) == [None, None, None, 0]
        assert list(absent_but_predicted.values()) == [0.0, None, 0.0, 0]


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
    def test_the_temperature_is_that_which_labels_were_drawn_with(self, temperature):
        random = np.random.default_rng(0)
        logits = random.normal(size=(20_000, 4)) * 2
        chances = np.exp(metrics.log_softmax(logits / temperature))
        labels = (chances.cumsum(axis=1) < random.random((len(logits), 1))).sum(axis=1)
        fitted = metrics.fit_temperature(logits, labels)
        assert fitted == pytest.approx(temperature, rel=0.06)

    @pytest.mark.parametrize(("wrong", "expected"), [(1, 1.079), (0, 0.923)])
    def test_few_photos_have_the_temperature_that_a_grid_finds(self, wrong, expected):
        """Four photos at a margin of 2; mean loss + (log T)^2 / (2 0.3^2 4)."""
        logits, labels = np.array([[2.0, 0.0]] * 4), np.arange(4) < wrong
        grid = np.linspace(0.5, 3, 250_001)
        right, missed = np.log1p(np.exp(-2 / grid)), np.log1p(np.exp(2 / grid))
        prior = (np.log(grid) / 0.3) ** 2 / 8
        losses = ((4 - wrong) * right + wrong * missed) / 4 + prior
        fitted = metrics.fit_temperature(logits, labels.astype(int))
        assert fitted == pytest.approx(grid[losses.argmin()], rel=1e-4)
        assert fitted == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize("num_photos", [30, 300])
    def test_calibrated_logits_keep_a_temperature_of_1(self, num_photos):
        """The median of 60 draws of labels by the probabilities of the logits."""
        random = np.random.default_rng(0)
        fitted = []
        for _ in range(60):
            logits = 3 * random.normal(size=(num_photos, 5))
            chances = np.exp(metrics.log_softmax(logits)).cumsum(axis=1)
            labels = (chances < random.random((num_photos, 1))).sum(axis=1)
            fitted.append(metrics.fit_temperature(logits, labels))
        assert np.median(fitted) == pytest.approx(1, abs=0.1)

    @pytest.mark.parametrize(
        ("margin", "labels", "expected"),
        [(0.01, [0, 1, 2], 0.05), (60, [1, 2, 0], 20.0)],
        ids=["hardly apart", "all wrong"],
    )
    def test_a_temperature_at_a_bound_is_recognised(self, margin, labels, expected):
        logits = np.tile(margin * np.eye(3), (1000, 1))
        fitted = metrics.fit_temperature(logits, np.tile(labels, 1000))
        assert fitted == pytest.approx(expected, rel=1e-6)
        assert metrics.at_bound(fitted)

    def test_without_photos_it_is_1(self):
        nothing = np.zeros(0, np.int64)
        assert metrics.fit_temperature(np.zeros((0, 3)), nothing) == 1
        assert not metrics.at_bound(1.0)
