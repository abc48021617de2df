import numpy as np
import pytest

from model.evaluation import grouped_photos
from model.evaluation.compare import paired_tests

DRAWS = 1000


def draw_correct(random, sizes, accuracy, correlation):
    """Draw which photos of groups of these sizes are predicted correctly."""
    chances = np.full(len(sizes), accuracy)
    if correlation:
        strength = (1 - correlation) / correlation
        chances = random.beta(
            accuracy * strength, (1 - accuracy) * strength, len(sizes)
        )
    return random.random(sizes.sum()) < np.repeat(chances, sizes)


def draw_differences(random, sizes, only_one, correlation):
    """Draw -1, 0 or 1 for each photo: which of two equally good runs alone is right."""
    chances = np.array([only_one, 1 - 2 * only_one, only_one])
    strength = (1 - correlation) / correlation
    drawn = random.dirichlet(chances * strength, len(sizes)).cumsum(axis=1)
    of_photos = np.repeat(drawn, sizes, axis=0)
    return (of_photos[:, :2] < random.random((sizes.sum(), 1))).sum(axis=1) - 1


@pytest.mark.parametrize(
    ("sizes", "accuracy", "correlation"),
    [
        ([1] * 200, 0.9, 0),
        ([10] * 30, 0.9, 0.3),
        ([10] * 30, 0.7, 0.3),
        ([10] * 30, 0.9, 0.1),
        ([3] * 100, 0.9, 0.6),
        ([1] * 200 + [2] * 40 + [8] * 5, 0.9, 0.5),
        (range(1, 41), 0.85, 0.2),
    ],
)
def test_intervals_cover_the_accuracy_in_95_of_100_cases(sizes, accuracy, correlation):
    random, sizes = np.random.default_rng(0), np.array(sizes)
    groups, covered = np.repeat(np.arange(len(sizes)), sizes), 0
    for _ in range(DRAWS):
        correct = draw_correct(random, sizes, accuracy, correlation)
        low, high = grouped_photos.wilson_interval(correct, groups)
        covered += low <= accuracy <= high
    assert 0.93 <= covered / DRAWS <= 0.97


@pytest.mark.parametrize(
    ("sizes", "correlation"), [([10] * 30, 0.3), ([1] * 200 + [10] * 10, 0.5)]
)
def test_runs_of_equal_accuracy_differ_by_chance_alone(sizes, correlation):
    random, sizes = np.random.default_rng(0), np.array(sizes)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    draws, covered, rejected = 300, 0, 0
    for _ in range(draws):
        differences = draw_differences(random, sizes, 0.08, correlation)
        share = grouped_photos.effective_number(differences, groups) / len(groups)
        counts = (differences < 0).sum(), (differences > 0).sum(), len(groups)
        low, high = paired_tests.tango_interval(*(share * n for n in counts))
        covered += low <= 0 <= high
        of_groups = grouped_photos.sums(differences, groups)
        rejected += paired_tests.mcnemar_p(of_groups) < 0.05
    assert 0.93 <= covered / draws <= 0.975
    assert 0.01 <= rejected / draws <= 0.05


def test_without_groups_each_photo_counts():
    correct = np.arange(100) % 3 > 0
    assert grouped_photos.effective_number(correct, np.arange(100)) == 100


@pytest.mark.parametrize(("num_groups", "least", "most"), [(30, 30, 60), (1, 0, 1)])
def test_groups_without_a_mistake_count_for_less_than_their_photos(
    num_groups, least, most
):
    """The sample cannot tell that the photos of a group are not alike."""
    groups = np.repeat(np.arange(num_groups), 300 // num_groups)
    number = grouped_photos.effective_number(np.ones(300, np.bool_), groups)
    assert least < number < most


def test_identical_copies_count_as_one_photo():
    random = np.random.default_rng(0)
    correct = np.repeat(random.random(400) < 0.8, 2)
    groups = np.repeat(np.arange(400), 2)
    number = grouped_photos.effective_number(correct, groups)
    assert number == pytest.approx(400, rel=0.02)
