import collections
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grouping import split_assignment
from pipeline.records import manifest

SHARES = {"validation": 0.1, "test": 0.1}


def groups(sizes, label=0, start=0):
    """Groups of one class."""
    return mixed_groups([{label: size} for size in sizes], start, str(label))


def mixed_groups(contents, start=0, prefix="mixed"):
    """Groups of {label: number of photos}."""
    return {
        f"{prefix} {number}": list(collections.Counter(content).elements())
        for number, content in enumerate(contents, start)
    }


def by_shares(members, seed=0, **options):
    return split_assignment.by_shares(members, seed=seed, shares=SHARES, **options)


def by_folds(members, folds, fold=0):
    return split_assignment.by_folds(
        members, seed=0, folds=folds, fold=fold, validation=0.1
    )


def photos(assigned, members, label=None):
    """Photos of a class, or of all, by split or fold."""
    return collections.Counter(
        place
        for name, place in assigned.items()
        for own in members[name]
        if label in (None, own)
    )


@given(st.lists(st.integers(1, 5), min_size=3, max_size=60), st.integers(0, 1000))
def test_each_split_is_within_one_group_of_its_share(sizes, seed):
    members = groups(sizes)
    counts = photos(by_shares(members, seed), members)
    total = sum(sizes)
    assert sum(counts.values()) == total
    for name, share in SHARES.items():
        target = max(1, round(share * total))
        assert abs(counts[name] - target) < max(sizes)
        assert counts[name] >= 1
    assert counts["train"] >= 1


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, {"train": 1}),
        (2, {"train": 1, "test": 1}),
        (3, {"train": 1, "validation": 1, "test": 1}),
        (9, {"train": 7, "validation": 1, "test": 1}),
        (100, {"train": 80, "validation": 10, "test": 10}),
    ],
)
def test_a_small_class_has_one_photo_in_each_split(count, expected):
    members = groups([1] * count)
    assert photos(by_shares(members), members) == expected


def test_known_groups_stay_and_new_ones_fill_up():
    old = groups([1] * 50)
    first = by_shares(old)
    both = old | groups([1] * 100, start=50)
    second = by_shares(both, known=first)
    assert not first.keys() & second.keys()
    assert photos(first | second, both) == {"train": 120, "validation": 15, "test": 15}


def test_another_seed_is_another_split():
    members = groups([1] * 50)
    first, again, other = (by_shares(members, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_the_order_of_the_groups_does_not_matter():
    first, second = groups([1, 2, 3] * 9), groups([1] * 20, label=1)
    assert by_shares(first | second) == by_shares(second | first)
    assert by_folds(first | second, 5) == by_folds(second | first, 5)


@given(
    st.lists(st.integers(1, 4), min_size=5, max_size=40),
    st.lists(st.integers(1, 4), min_size=5, max_size=40),
    st.integers(2, 5),
)
def test_folds_test_every_photo_once(first, second, folds):
    members = groups(first) | groups(second, label=1)
    tested = []
    for fold in range(folds):
        splits, fold_of = by_folds(members, folds, fold)
        # The fold of a group does not depend on the fold that is tested.
        assert fold_of == by_folds(members, folds)[1]
        test = [name for name, split in splits.items() if split == "test"]
        assert test == [name for name in splits if fold_of[name] == fold]
        tested += test
    assert sorted(tested) == sorted(members)


class TestGroupsOfSeveralClasses:
    """Sessions, patients or places with photos of several classes in each."""

    def shares_of(self, members, num_classes, assigned):
        for label in range(num_classes):
            counts = photos(assigned, members, label)
            yield {name: counts[name] / counts.total() for name in manifest.SPLITS}

    @pytest.mark.parametrize("seed", range(5))
    def test_every_class_gets_its_shares(self, seed):
        random = np.random.default_rng(seed)
        contents = [
            {label: int(random.integers(1, 6)) for label in range(4)} for _ in range(60)
        ]
        members = mixed_groups(contents)
        for shares in self.shares_of(members, 4, by_shares(members, seed)):
            assert 0.05 < shares["test"] < 0.15
            assert 0.05 < shares["validation"] < 0.15

    @pytest.mark.parametrize("seed", range(5))
    def test_not_only_the_first_class_of_a_group_counts(self, seed):
        """Hardly any photo of the first class, and unequal ones of the second."""
        random = np.random.default_rng(seed)
        sizes = random.permutation([60, 30, *([5] * 20)])
        members = mixed_groups([{0: 1, 1: int(size)} for size in sizes])
        first, second = self.shares_of(members, 2, by_shares(members, seed))
        assert min(first.values()) > 0
        assert 0.05 <= second["test"] <= 0.16
        assert 0.05 <= second["validation"] <= 0.16

    @given(
        st.lists(
            st.dictionaries(
                st.integers(0, 3), st.integers(1, 30), min_size=1, max_size=4
            ),
            min_size=1,
            max_size=30,
        )
    )
    def test_any_groups_get_a_split_and_a_fold(self, contents):
        members = mixed_groups(contents)
        assert {*by_shares(members).values()} <= {*manifest.SPLITS}
        splits, fold_of = by_folds(members, 3)
        assert splits.keys() == fold_of.keys() == members.keys()
        assert {*fold_of.values()} <= {0, 1, 2}

    def test_three_groups_that_all_hold_all_classes_get_a_split_each(self):
        members = mixed_groups([{0: 20, 1: 20, 2: 7}] * 3)
        assert {*by_shares(members).values()} == {*manifest.SPLITS}

    def test_a_class_with_groups_of_its_own_fills_up(self):
        members = mixed_groups([{0: 30, 1: 1}] * 4) | groups([1] * 100, label=1)
        counts = photos(by_shares(members), members, 1)
        assert (counts["test"], counts["validation"]) == (10, 10)

    def test_one_group_larger_than_a_share_is_for_training(self):
        for seed in range(10):
            members = groups([60, *([1] * 40)])
            counts = photos(by_shares(members, seed), members)
            assert counts == {"train": 80, "validation": 10, "test": 10}

    def test_folds_are_even_in_every_class(self):
        random = np.random.default_rng(0)
        contents = [
            {label: int(random.integers(1, 6)) for label in range(4)} for _ in range(60)
        ]
        members = mixed_groups(contents)
        splits, fold_of = by_folds(members, 5, fold=2)
        for label in range(4):
            dealt = photos(fold_of, members, label)
            assert min(dealt.values()) > 0.7 * dealt.total() / 5
            assert max(dealt.values()) < 1.3 * dealt.total() / 5
        for shares in self.shares_of(members, 4, splits):
            assert 0.05 < shares["validation"] < 0.15
            assert shares["train"] > 0.6


def test_warnings_name_the_class(found):
    rows = [r for r in found.rows if r.class_name != "red" or r.split == "train"]
    few = dataclasses.replace(found, rows=tuple(rows))
    assert split_assignment.warn_of_small_classes(found.counts()) == []
    assert split_assignment.warn_of_small_classes(few.counts()) == [
        "warning: class red: no photo for validation and test"
    ]
    enough = {"blue": {"train": 80, "validation": 10, "test": 10}}
    assert split_assignment.warn_of_small_classes(enough) == []
