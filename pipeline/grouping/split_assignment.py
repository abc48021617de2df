"""Photos and their groups -> train, validation, test, or folds.

Photos of one duplicate group always stay on one side.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.records import file_table, manifest

DEFAULT_SHARES = {"validation": 0.1, "test": 0.1}
# Below this many photos a class, a split of a tenth rounds to nothing.
SMALL_CLASS = 10
MAX_FOLDS = int(np.iinfo(np.int16).max)
_TRAIN, _VALIDATION, _TEST = range(3)  # in manifest.SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """Photos that must share a split, as columns: of groups, and of their parts.

    A part are the photos of a group that are of one class; most groups have one.

    Attributes:
        names: S32 [num_groups], smallest SHA-256 of a group's photos.
        splits: int8 [num_groups], index into manifest.SPLITS of what some of them
            already have; table.NO_SPLIT when all are new.
        starts: int64 [num_groups + 1]: group k has the parts from starts[k] on.
        labels: int32 [num_parts], 0-based class.
        sizes: int64 [num_parts], number of photos.
    """

    names: np.ndarray
    splits: np.ndarray
    starts: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def owners(self) -> np.ndarray:
        """int64 [num_parts], the group of each part."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @property
    def photos(self) -> np.ndarray:
        """int64 [num_groups], number of their photos."""
        return np.add.reduceat(self.sizes, self.starts[:-1])


def groups_of(
    groups: np.ndarray, hashes: np.ndarray, labels: np.ndarray, splits: np.ndarray
) -> tuple[Groups, np.ndarray]:
    """Collects the groups of some photos.

    Args:
        groups: int [num_photos], any number that stands for a photo's group.
        hashes: S32 [num_photos], SHA-256 of each photo's group.
        labels: int32 [num_photos].
        splits: int8 [num_photos], or NO_SPLIT.

    Returns:
        The groups, and int64 [num_photos]: which of them each photo is in.
    """
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    known = np.full(len(first), file_table.NO_SPLIT, np.int8)
    np.maximum.at(known, inverse, splits)
    num_labels = int(labels.max(initial=0)) + 1
    parts, sizes = np.unique(
        inverse.astype(np.int64) * num_labels + labels, return_counts=True
    )
    owners, part_labels = np.divmod(parts, num_labels)
    found = Groups(
        names=hashes[first],
        splits=known,
        starts=np.searchsorted(owners, np.arange(len(first) + 1)),
        labels=part_labels.astype(np.int32),
        sizes=sizes,
    )
    return found, inverse


def by_shares(
    groups: Groups, *, seed: int, shares: Mapping[str, float], salt: str = "split"
) -> np.ndarray:
    """Splits class by class; groups that have a split keep it.

    Groups of several classes, and those larger than what a split should have of their
    class, come first, the largest before the others: each goes where, for its classes,
    it leaves the most room. Then, within a class, groups are ranked by a salted hash of
    their name and fill the share of test, then of validation; the rest is for training.
    A class of groups that are not so large comes within one group of its shares. A
    class of three or more groups has at least one in each split, unless groups of
    several classes make that impossible.

    Args:
        groups: all groups, with the split that is already known, if any.
        seed: of the ranking.
        shares: {"validation": share, "test": share} of a class's photos, 0..1.
        salt: of the ranking.

    Returns:
        int8 [num_groups], index into manifest.SPLITS.
    """
    assigned = groups.splits.copy()
    targets = _targets(groups, shares)
    counts = np.zeros_like(targets)
    is_new = (assigned == file_table.NO_SPLIT)[groups.owners]
    known = groups.labels[~is_new], assigned[groups.owners[~is_new]]
    np.add.at(counts, known, groups.sizes[~is_new])
    waiting = np.bincount(groups.labels[is_new], minlength=len(targets))
    room = _Room(targets.tolist(), counts.tolist(), waiting.tolist())

    least = np.where(targets > 0, targets, targets.max(initial=1))[:, 1:].min(axis=1)
    photos, several = groups.photos, np.diff(groups.starts) > 1
    is_large = several | (photos > least[groups.labels[groups.starts[:-1]]])
    ranked = _ranked(
        groups, np.flatnonzero(groups.splits == file_table.NO_SPLIT), seed, salt
    )
    large = sorted((g for g in ranked if is_large[g]), key=lambda g: -photos[g])
    small = sorted(
        (g for g in ranked if not is_large[g]),
        key=groups.labels[groups.starts[:-1]].__getitem__,
    )
    starts, labels, sizes = (
        column.tolist() for column in (groups.starts, groups.labels, groups.sizes)
    )
    for group in (*large, *small):
        some = slice(starts[group], starts[group + 1])
        parts = list(zip(labels[some], sizes[some], strict=True))
        assigned[group] = room.take(parts, is_large=bool(is_large[group]))
    return assigned


@dataclasses.dataclass(frozen=True)
class _Room:
    """What each class has in each split while groups are placed one by one.

    Attributes:
        targets: [num_classes][num_splits], photos that there should be.
        counts: [num_classes][num_splits], photos that there are.
        waiting: [num_classes], groups with photos of the class, not yet placed.
    """

    targets: list[list[int]]
    counts: list[list[int]]
    waiting: list[int]

    def take(self, parts: Sequence[tuple[int, int]], *, is_large: bool) -> int:
        """Places a group of (label, size) parts; returns its split."""
        allowed = self._needed(parts) or {_TRAIN, _VALIDATION, _TEST}
        chosen = _TRAIN
        if is_large:
            chosen = max(sorted(allowed), key=lambda split: self._left(parts, split))
        else:
            (label, _), *_ = parts
            for split in (_TEST, _VALIDATION):
                if (
                    split in allowed
                    and self.counts[label][split] < self.targets[label][split]
                ):
                    chosen = split
                    break
        for label, size in parts:
            self.counts[label][chosen] += size
            self.waiting[label] -= 1
        return chosen

    def _needed(self, parts: Sequence[tuple[int, int]]) -> set[int]:
        """Splits that a class stays without unless it gets its last groups."""
        needed = set()
        for label, _ in parts:
            both = zip(self.targets[label], self.counts[label], strict=True)
            empty = {
                n for n, (target, count) in enumerate(both) if target and not count
            }
            if self.waiting[label] <= len(empty):
                needed |= empty
        return needed

    def _left(self, parts: Sequence[tuple[int, int]], split: int) -> float:
        """Room that is left, as a share of the target; negative if it is too much."""
        return sum(
            size
            * (self.targets[label][split] - self.counts[label][split] - size)
            / max(1, self.targets[label][split])
            for label, size in parts
        )


def by_folds(
    groups: Groups, *, seed: int, folds: int, fold: int, validation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Deals every group to one of `folds` folds; fold `fold` becomes the test split.

    Each class is dealt evenly, groups of several classes and large ones first. From the
    other folds, `validation` of the class's photos serve validation, the rest training.

    Returns:
        int8 and int16 [num_groups]: index into manifest.SPLITS, and fold; what fold a
        group is in does not depend on `fold`.
    """
    fold_of = np.full(len(groups), file_table.NO_FOLD, np.int16)
    photos = groups.photos
    totals = np.bincount(groups.labels, groups.sizes)
    dealt = np.zeros((folds, len(totals)))
    dealt_photos = np.zeros(folds, np.int64)

    def order(group: int) -> tuple[bool, int, int]:
        start, end = groups.starts[group : group + 2]
        is_single = bool(end - start == 1)
        return is_single, groups.labels[start] * is_single, -photos[group]

    ranked = _ranked(groups, np.arange(len(groups)), seed, "fold")
    for group in sorted(ranked, key=order):
        parts = slice(*groups.starts[group : group + 2])
        labels, sizes = groups.labels[parts], groups.sizes[parts]
        share = dealt[:, labels] @ (sizes / totals[labels])
        emptiest = np.lexsort((dealt_photos, share))[0]
        fold_of[group] = emptiest
        dealt[emptiest, labels] += sizes
        dealt_photos[emptiest] += photos[group]
    tested = np.where(fold_of == fold, _TEST, file_table.NO_SPLIT).astype(np.int8)
    assigned = by_shares(
        dataclasses.replace(groups, splits=tested),
        seed=seed,
        shares={"validation": validation, "test": 0},
        salt=f"validation {fold}",
    )
    return assigned, fold_of


def _ranked(groups: Groups, members: np.ndarray, seed: int, salt: str) -> list[int]:
    def rank(group: int) -> bytes:
        name = groups.names[group].ljust(32, b"\0").hex()
        return hashlib.sha256(f"{salt} {seed} {name}".encode()).digest()

    return sorted(members.tolist(), key=rank)


def _targets(groups: Groups, shares: Mapping[str, float]) -> np.ndarray:
    """int64 [num_classes, num_splits], photos that each class should have."""
    photos = np.bincount(groups.labels, groups.sizes)
    members = np.bincount(groups.labels)
    targets = np.zeros((len(photos), len(manifest.SPLITS)), np.int64)
    for split, enough in ((_TEST, 2), (_VALIDATION, 3)):
        share = shares[manifest.SPLITS[split]]
        if share:
            wanted = np.maximum(1, np.rint(share * photos))
            targets[:, split] = np.where(members >= enough, wanted, 0)
    targets[:, _TRAIN] = np.maximum(1, photos - targets.sum(axis=1))
    return targets


def warnings(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Names classes that lack photos in a split, or whose accuracy means little.

    Args:
        counts: {class name: {split: photos}}.
    """
    lines = []
    for name, splits in counts.items():
        lacking = [split for split in manifest.SPLITS if not splits[split]]
        total = sum(splits.values())
        if lacking:
            lines.append(f"class {name}: no photo for {' and '.join(lacking)}")
        elif total < SMALL_CLASS:
            lines.append(
                f"class {name}: {total} photos only, {splits['test']} of them to test "
                "on; consider python -m pipeline.split --folds=5"
            )
    return lines
