import collections
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import split
from pipeline.grouping import split_assignment
from pipeline.records import file_table, manifest, staging
from pipeline.system.errors import DataError

SHARES = {"validation": 0.1, "test": 0.1}
NEW = file_table.NO_SPLIT


def groups(sizes, label=0, start=0):
    """Groups of one class, the split of none known."""
    return mixed_groups([{label: size} for size in sizes], start, str(label))


def mixed_groups(contents, start=0, prefix="mixed"):
    """Groups of {label: photos}, the split of none known."""
    names = [
        f"{prefix} {start + n}".encode().ljust(32, b".") for n in range(len(contents))
    ]
    parts = [part for content in contents for part in sorted(content.items())]
    return split_assignment.Groups(
        names=np.array(names, "S32"),
        splits=np.full(len(contents), NEW, np.int8),
        starts=np.cumsum([0, *map(len, contents)]),
        labels=np.array([label for label, _ in parts], np.int32),
        sizes=np.array([size for _, size in parts], np.int64),
    )


def join(one, other):
    columns = {
        name: np.concatenate([getattr(one, name), getattr(other, name)])
        for name in ("names", "splits", "labels", "sizes")
    }
    starts = np.r_[one.starts, one.starts[-1] + other.starts[1:]]
    return split_assignment.Groups(starts=starts, **columns)


def photos(assigned, members, label=None):
    counts = collections.Counter()
    splits = assigned[members.owners]
    for number, size, own in zip(splits, members.sizes, members.labels, strict=True):
        if label in (None, own):
            counts[manifest.SPLITS[number]] += int(size)
    return counts


def by_name(members, *columns):
    return {
        name: tuple(int(column[n]) for column in columns)
        for n, name in enumerate(members.names)
    }


@given(
    st.lists(st.integers(1, 5), min_size=3, max_size=60),
    st.integers(0, 1000),
)
def test_each_split_is_within_one_group_of_its_share(sizes, seed):
    members = groups(sizes)
    counts = photos(
        split_assignment.by_shares(members, seed=seed, shares=SHARES), members
    )
    total = sum(sizes)
    assert sum(counts.values()) == total
    for name, share in SHARES.items():
        wanted = max(1, round(share * total))
        assert abs(counts[name] - wanted) < max(sizes)
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
def test_small_classes(count, expected):
    members = groups([1] * count)
    assert (
        photos(split_assignment.by_shares(members, seed=0, shares=SHARES), members)
        == expected
    )


def test_known_groups_stay_and_new_ones_fill_up():
    old = groups([1] * 50)
    first = split_assignment.by_shares(old, seed=0, shares=SHARES)
    both = join(dataclasses.replace(old, splits=first), groups([1] * 100, start=50))
    second = split_assignment.by_shares(both, seed=0, shares=SHARES)
    assert (second[:50] == first).all()
    assert photos(second, both) == {"train": 120, "validation": 15, "test": 15}


def test_another_seed_is_another_split():
    members = groups([1] * 50)
    first, again, other = (
        split_assignment.by_shares(members, seed=s, shares=SHARES).tolist()
        for s in (0, 0, 1)
    )
    assert first == again != other


def test_order_of_the_groups_does_not_matter():
    first, second = groups([1, 2, 3] * 9), groups([1] * 20, label=1)
    both, other = join(first, second), join(second, first)
    for assign in (
        lambda g: (split_assignment.by_shares(g, seed=0, shares=SHARES),),
        lambda g: split_assignment.by_folds(g, seed=0, folds=5, fold=1, validation=0.1),
    ):
        assert by_name(both, *assign(both)) == by_name(other, *assign(other))


@given(
    st.lists(st.integers(1, 4), min_size=5, max_size=40),
    st.lists(st.integers(1, 4), min_size=5, max_size=40),
    st.integers(2, 5),
)
def test_folds_test_every_photo_once(first, second, folds):
    members = join(groups(first), groups(second, label=1))
    tested = np.zeros(len(members), int)
    before = None
    for fold in range(folds):
        splits, fold_of = split_assignment.by_folds(
            members, seed=0, folds=folds, fold=fold, validation=0.1
        )
        # The same folds whichever is tested.
        assert before is None or (fold_of == before).all()
        before = fold_of
        is_test = splits == manifest.SPLITS.index("test")
        assert (is_test == (fold_of == fold)).all()
        tested += is_test
    assert (tested == 1).all()


def test_folds_are_even():
    members = join(groups([1] * 53), groups([1] * 52, label=1))
    _, fold_of = split_assignment.by_folds(
        members, seed=0, folds=5, fold=0, validation=0.1
    )
    assert {*np.bincount(fold_of)} == {21}


def test_a_group_has_the_split_that_some_of_it_have():
    hashes = np.array([b"a", b"b", b"c", b"a"], "S32")
    found, group_of = split_assignment.groups_of(
        np.array([7, 5, 9, 7]),
        hashes,
        np.array([1, 0, 1, 0], np.int32),
        np.array([NEW, 2, NEW, 1], np.int8),
    )
    assert found.names.tolist() == [b"b", b"a", b"c"]
    assert found.owners.tolist() == [0, 1, 1, 2]
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.sizes.tolist() == [1, 1, 1, 1]
    assert found.photos.tolist() == [1, 2, 1]
    assert found.splits.tolist() == [2, 1, NEW]
    assert group_of.tolist() == [1, 0, 2, 1]


class TestGroupsOfSeveralClasses:
    """Sessions, patients or places with photos of several classes in each."""

    def shares_of(self, members, num_classes, assigned):
        for label in range(num_classes):
            counts = photos(assigned, members, label)
            total = sum(counts.values())
            yield {name: counts[name] / total for name in manifest.SPLITS}

    @pytest.mark.parametrize("seed", range(5))
    def test_every_class_gets_its_shares(self, seed):
        random = np.random.default_rng(seed)
        contents = [
            {label: int(random.integers(1, 6)) for label in range(4)} for _ in range(60)
        ]
        members = mixed_groups(contents)
        assigned = split_assignment.by_shares(members, seed=seed, shares=SHARES)
        for found in self.shares_of(members, 4, assigned):
            assert 0.05 < found["test"] < 0.15
            assert 0.05 < found["validation"] < 0.15

    @pytest.mark.parametrize("seed", range(5))
    def test_a_group_is_no_matter_of_its_first_class_alone(self, seed):
        """Hardly any photo of the first class, and unequal ones of the second."""
        random = np.random.default_rng(seed)
        sizes = random.permutation([60, 30, *([5] * 20)])
        members = mixed_groups([{0: 1, 1: int(size)} for size in sizes])
        assigned = split_assignment.by_shares(members, seed=seed, shares=SHARES)
        first, second = self.shares_of(members, 2, assigned)
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
    def test_whatever_the_groups(self, contents):
        members = mixed_groups(contents)
        assigned = split_assignment.by_shares(members, seed=0, shares=SHARES)
        assert {*assigned.tolist()} <= {0, 1, 2}
        _, fold_of = split_assignment.by_folds(
            members, seed=0, folds=3, fold=0, validation=0.1
        )
        assert {*fold_of.tolist()} <= {0, 1, 2}

    def test_few_groups_that_all_hold_all_classes(self):
        members = mixed_groups([{0: 20, 1: 20, 2: 7}] * 3)
        assigned = split_assignment.by_shares(members, seed=0, shares=SHARES)
        assert sorted(assigned.tolist()) == [0, 1, 2]

    def test_a_class_with_groups_of_its_own_fills_up(self):
        members = join(mixed_groups([{0: 30, 1: 1}] * 4), groups([1] * 100, label=1))
        assigned = split_assignment.by_shares(members, seed=0, shares=SHARES)
        counts = photos(assigned, members, 1)
        assert (counts["test"], counts["validation"]) == (10, 10)

    def test_one_group_larger_than_a_share_is_for_training(self):
        for seed in range(10):
            members = groups([60, *([1] * 40)])
            counts = photos(
                split_assignment.by_shares(members, seed=seed, shares=SHARES), members
            )
            assert counts == {"train": 80, "validation": 10, "test": 10}

    def test_folds_are_even_in_every_class(self):
        random = np.random.default_rng(0)
        contents = [
            {label: int(random.integers(1, 6)) for label in range(4)} for _ in range(60)
        ]
        members = mixed_groups(contents)
        splits, fold_of = split_assignment.by_folds(
            members, seed=0, folds=5, fold=2, validation=0.1
        )
        for label in range(4):
            mine = members.labels == label
            dealt = np.bincount(fold_of[members.owners[mine]], members.sizes[mine])
            assert dealt.min() > 0.7 * dealt.mean()
            assert dealt.max() < 1.3 * dealt.mean()
        for found in self.shares_of(members, 4, splits):
            assert 0.05 < found["validation"] < 0.15
            assert found["train"] > 0.6


class TestCommand:
    def copy(self, found, tmp_path):
        copied = dataclasses.replace(found, directory=tmp_path)
        with staging.staged(tmp_path) as partial:
            copied.stage(partial)
            manifest.commit(tmp_path)
        return copied

    def test_folds_are_written(self, found, tmp_path):
        before = self.copy(found, tmp_path)
        config = split.Config(data=str(tmp_path), folds=5, fold=2)
        split.resplit(config)
        after = manifest.read(tmp_path)
        assert {row.fold for row in after.included("test")} == {2}
        assert len(after.included("test")) == 12
        assert after.records_digest == before.records_digest
        assert after.digest != before.digest

    def test_seed_and_shares(self, found, tmp_path):
        self.copy(found, tmp_path)
        config = split.Config(
            data=str(tmp_path), seed=5, validation_share=0.25, test_share=0.25
        )
        split.resplit(config)
        after = manifest.read(tmp_path)
        assert (after.info.seed, after.info.shares["test"]) == (5, 0.25)
        assert len(after.included("test")) == len(after.included("validation")) == 15

    @pytest.mark.parametrize("folds", [61, 40_000, 10**9])
    def test_more_folds_than_photos(self, found, folds):
        config = split.Config(data=str(found.directory), folds=folds)
        with pytest.raises(DataError, match=r"for 60 groups .* choose fewer"):
            split.split_anew(config, found)
        split.split_anew(dataclasses.replace(config, folds=60), found)

    def test_the_same_again_writes_nothing(self, found, tmp_path):
        self.copy(found, tmp_path)
        head = tmp_path / manifest.HEAD_NAME
        before = head.stat().st_mtime_ns
        split.resplit(split.Config(data=str(tmp_path), seed=found.info.seed))
        assert head.stat().st_mtime_ns == before

    @pytest.mark.parametrize(
        "how",
        [
            {"folds": 1},
            {"folds": 5, "fold": 5},
            {"fold": 1},
            {"validation_share": 0.5, "test_share": 0.5},
        ],
        ids=str,
    )
    def test_wrong_settings(self, how):
        with pytest.raises(ValueError, match="--"):
            split.Config(**how)


def test_warnings_name_the_class(found):
    rows = [r for r in found.rows if r.class_name != "red" or r.split == "train"]
    few = dataclasses.replace(found, rows=tuple(rows))
    assert split_assignment.warnings(found.counts()) == []
    assert split_assignment.warnings(few.counts()) == [
        "class red: no photo for validation and test"
    ]
