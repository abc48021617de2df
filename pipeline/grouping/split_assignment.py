"""Assign groups of photos to train, validation and test, or to folds.

Groups are given as {name of a group: the label of each of its photos}. A name is the
smallest SHA-256 of the group's photos.
"""

import collections
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipeline.records.manifest import SPLITS

DEFAULT_SHARES = {"validation": 0.1, "test": 0.1}
# With fewer photos per class, a tenth of them is less than one photo.
SMALL_CLASS = 10
_TRAIN, _VALIDATION, _TEST = SPLITS

Groups = Mapping[str, Sequence[int]]


def by_shares(
    groups: Groups,
    *,
    seed: int,
    shares: Mapping[str, float],
    known: Mapping[str, str] | None = None,
    salt: str = "split",
) -> dict[str, str]:
    """Split the groups that have no split yet, class by class.

    Groups of several classes, and those larger than what a split should have of their
    class, come first, the largest before the others: each goes where it leaves the most
    room for its classes. Then, within a class, groups are ranked by a salted hash of
    their name and fill the share of test, then of validation; the rest is for training.
    A class without such large groups meets its shares within one group. A class of
    three or more groups has at least one in each split, unless groups of several
    classes make that impossible.

    The shares are {"validation": share, "test": share} of a class's photos, 0..1.
    `known` is {name of a group: split} for the groups that have one; the result is the
    same for the others.
    """
    known, assigned = known or {}, {}
    new = [name for name in groups if name not in known]
    quotas = _SplitQuotas(groups, shares, (groups[name] for name in new))
    for name, split in known.items():
        quotas.add(groups[name], split)

    def order(name: str) -> int:
        return -len(groups[name]) if quotas.is_large(groups[name]) else 0

    for name in sorted(_ranked(new, seed, salt), key=order):
        assigned[name] = quotas.place(groups[name])
    return assigned


class _SplitQuotas:
    """Photos that each class should have and has in each split, while these fill."""

    def __init__(
        self,
        groups: Groups,
        shares: Mapping[str, float],
        waiting: Iterable[Sequence[int]],
    ) -> None:
        self._targets = _targets(groups, shares)
        self._counts = {label: dict.fromkeys(SPLITS, 0) for label in self._targets}
        self._waiting = _count_groups(waiting)  # groups that are not placed yet
        # {label: photos of its smallest split other than training}.
        highest = max((max(t.values()) for t in self._targets.values()), default=1)
        self._least = {
            label: min(target[split] or highest for split in (_VALIDATION, _TEST))
            for label, target in self._targets.items()
        }

    def is_large(self, labels: Sequence[int]) -> bool:
        """Return whether a group has several classes or more photos than a split."""
        return len({*labels}) > 1 or len(labels) > self._least[labels[0]]

    def add(self, labels: Sequence[int], split: str) -> None:
        """Count a group that has its split already."""
        for label in labels:
            self._counts[label][split] += 1

    def place(self, labels: Sequence[int]) -> str:
        """Choose the split of a group and count it there.

        A large group goes where it leaves the most room, another to test or validation
        if that is not full.
        """
        needed = self._needed(labels)
        allowed = [split for split in SPLITS if split in needed or not needed]
        if self.is_large(labels):
            sizes = sorted(collections.Counter(labels).items())
            split = max(allowed, key=lambda split: self._room_left(sizes, split))
        else:
            counts, targets = self._counts[labels[0]], self._targets[labels[0]]
            unfilled = (name for name in allowed if counts[name] < targets[name])
            split = max(unfilled, key=SPLITS.index, default=_TRAIN)
        self.add(labels, split)
        self._waiting.subtract({*labels})
        return split

    def _needed(self, labels: Sequence[int]) -> set[str]:
        """Return splits that need one of the last groups of a class, or stay empty."""
        needed: set[str] = set()
        for label in {*labels}:
            counts, targets = self._counts[label], self._targets[label]
            empty = {split for split in SPLITS if targets[split] and not counts[split]}
            if self._waiting[label] <= len(empty):
                needed |= empty
        return needed

    def _room_left(self, sizes: Sequence[tuple[int, int]], split: str) -> float:
        """Return the room left as a share of the target; negative if it is too full."""
        return sum(
            size
            * (self._targets[label][split] - self._counts[label][split] - size)
            / max(1, self._targets[label][split])
            for label, size in sizes
        )


def by_folds(
    groups: Groups, *, seed: int, folds: int, fold: int, validation: float
) -> tuple[dict[str, str], dict[str, int]]:
    """Deal every group to one of `folds` folds; fold `fold` becomes the test split.

    From the other folds, `validation` of a class's photos serve validation, the rest
    training. The results are {name of a group: its split} and {name of a group: its
    fold}; folds do not depend on `fold`.
    """
    fold_of = deal(groups, seed=seed, folds=folds)
    tested = {name: _TEST for name, number in fold_of.items() if number == fold}
    others = by_shares(
        groups,
        seed=seed,
        shares={"validation": validation, "test": 0},
        known=tested,
        salt=f"validation {fold}",
    )
    return tested | others, fold_of


def deal(groups: Groups, *, seed: int, folds: int) -> dict[str, int]:
    """Deal groups to folds; return {name of a group: its fold}.

    Each class is dealt evenly, groups of several classes and large ones first.
    """
    totals = np.bincount([label for labels in groups.values() for label in labels])
    dealt = np.zeros((folds, len(totals)))
    dealt_photos = np.zeros(folds, np.int64)
    fold_of: dict[str, int] = {}

    def order(name: str) -> tuple[bool, int, int]:
        labels = groups[name]
        is_single = len({*labels}) == 1
        return is_single, labels[0] if is_single else 0, -len(labels)

    for name in sorted(_ranked(groups, seed, "fold"), key=order):
        labels, sizes = np.unique(groups[name], return_counts=True)
        share = dealt[:, labels] @ (sizes / totals[labels])
        emptiest = int(np.lexsort((dealt_photos, share))[0])
        fold_of[name] = emptiest
        dealt[emptiest, labels] += sizes
        dealt_photos[emptiest] += len(groups[name])
    return fold_of


def _ranked(names: Iterable[str], seed: int, salt: str) -> list[str]:
    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{salt} {seed} {name}".encode()).digest()

    return sorted(names, key=rank)


def _count_groups(groups: Iterable[Sequence[int]]) -> collections.Counter[int]:
    """Return {label: number of groups that have photos of the class}."""
    return collections.Counter(itertools.chain.from_iterable(map(set, groups)))


def _targets(groups: Groups, shares: Mapping[str, float]) -> dict[int, dict[str, int]]:
    """Return {label: {split: photos that the class should have there}}."""
    num_photos = collections.Counter(itertools.chain.from_iterable(groups.values()))
    num_groups = _count_groups(groups.values())
    targets = {}
    for label, photos in num_photos.items():
        target = dict.fromkeys(SPLITS, 0)
        for split, enough in ((_TEST, 2), (_VALIDATION, 3)):
            if shares[split] and num_groups[label] >= enough:
                target[split] = max(1, round(shares[split] * photos))
        target[_TRAIN] = max(1, photos - target[_TEST] - target[_VALIDATION])
        targets[label] = target
    return targets


def warn_of_small_classes(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return lines on classes that lack photos."""
    lines = []
    for name, splits in counts.items():  # {split: number of photos}
        total = sum(splits.values())
        if lacking := [split for split in SPLITS if not splits[split]]:
            lines.append(f"warning: class {name}: no photo for {' and '.join(lacking)}")
        elif total < SMALL_CLASS:
            lines.append(
                f"warning: class {name}: few photos: {total}, {splits['test']} of them "
                "in the test split; consider python -m pipeline.split --folds=5"
            )
    return lines
