import collections
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import manifest, split

SHARES = {"validation": 0.1, "test": 0.1}


def groups(sizes, class_name="a", **how):
    return [
        split.Group(
            name=f"{class_name}{n:060}", class_name=class_name, size=size, **how
        )
        for n, size in enumerate(sizes)
    ]


def photos(assigned, members):
    counts = collections.Counter()
    for group in members:
        counts[assigned[group.name]] += group.size
    return counts


@given(
    st.lists(st.integers(1, 5), min_size=3, max_size=60),
    st.integers(0, 1000),
)
def test_each_split_is_within_one_group_of_its_share(sizes, seed):
    members = groups(sizes)
    counts = photos(split.by_shares(members, seed=seed, shares=SHARES), members)
    total = sum(sizes)
    assert sum(counts.values()) == total
    for name, share in SHARES.items():
        wanted = max(1, round(share * total))
        assert wanted <= counts[name] or counts["train"] <= max(sizes)
        assert counts[name] < wanted + max(sizes)
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
    assert photos(split.by_shares(members, seed=0, shares=SHARES), members) == expected


def test_known_groups_stay_and_new_ones_fill_up():
    old = groups([1] * 50)
    first = split.by_shares(old, seed=0, shares=SHARES)
    known = [dataclasses.replace(g, split=first[g.name]) for g in old]
    both = known + groups([1] * 150, class_name="a")[50:]
    second = split.by_shares(both, seed=0, shares=SHARES)
    assert all(second[g.name] == first[g.name] for g in old)
    assert photos(second, both) == {"train": 120, "validation": 15, "test": 15}


def test_another_seed_is_another_split():
    members = groups([1] * 50)
    splits = [split.by_shares(members, seed=s, shares=SHARES) for s in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_order_of_the_groups_does_not_matter():
    members = groups([1, 2, 3] * 9) + groups([1] * 20, class_name="b")
    backwards = list(reversed(members))
    for assign in (
        lambda g: split.by_shares(g, seed=0, shares=SHARES),
        lambda g: split.by_folds(g, seed=0, folds=5, fold=1, validation=0.1),
    ):
        assert assign(members) == assign(backwards)


@given(
    st.lists(st.integers(1, 4), min_size=5, max_size=40),
    st.lists(st.integers(1, 4), min_size=5, max_size=40),
    st.integers(2, 5),
)
def test_folds_test_every_photo_once(first, second, folds):
    members = groups(first, "a") + groups(second, "b")
    tested = collections.Counter()
    fold_of = None
    for fold in range(folds):
        assigned = split.by_folds(
            members, seed=0, folds=folds, fold=fold, validation=0.1
        )
        found = {name: number for name, (_, number) in assigned.items()}
        assert fold_of in (None, found)  # the same folds whichever is tested
        fold_of = found
        for name, (part, number) in assigned.items():
            assert (part == "test") == (number == fold)
            tested[name] += part == "test"
    assert set(tested.values()) == {1}


def test_folds_are_even():
    members = groups([1] * 53, "a") + groups([1] * 52, "b")
    assigned = split.by_folds(members, seed=0, folds=5, fold=0, validation=0.1)
    sizes = collections.Counter(fold for _, fold in assigned.values())
    assert set(sizes.values()) == {21}


class TestCommand:
    def copy(self, found, tmp_path):
        copied = dataclasses.replace(found, directory=tmp_path)
        with manifest.staging(tmp_path) as partial:
            copied.stage(partial)
            manifest.commit(tmp_path)
        return copied

    def test_folds_are_written(self, found, tmp_path):
        before = self.copy(found, tmp_path)
        config = split.Config(data=str(tmp_path), folds=5, fold=2)
        split.resplit(config)
        after = manifest.read(tmp_path)
        assert {row.fold for row in after.taken("test")} == {2}
        assert len(after.taken("test")) == 12
        assert after.records_digest == before.records_digest
        assert after.digest != before.digest

    def test_seed_and_shares(self, found, tmp_path):
        self.copy(found, tmp_path)
        config = split.Config(
            data=str(tmp_path), seed=5, validation_share=0.25, test_share=0.25
        )
        split.resplit(config)
        after = manifest.read(tmp_path)
        assert (after.seed, after.shares["test"]) == (5, 0.25)
        assert len(after.taken("test")) == len(after.taken("validation")) == 15

    def test_the_same_again_writes_nothing(self, found, tmp_path):
        self.copy(found, tmp_path)
        head = tmp_path / manifest.HEAD_NAME
        before = head.stat().st_mtime_ns
        split.resplit(split.Config(data=str(tmp_path), seed=found.seed))
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
    assert split.warnings(found) == []
    assert split.warnings(few) == ["class red: no photo for validation and test"]
