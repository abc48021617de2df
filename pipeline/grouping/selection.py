"""What became of each file -> what of it is taken, in which group and split.

Looks at all files together: labels that contradict each other, photos that belong
together, classes of which nothing is left, and the split.
"""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from pipeline.grouping import near_duplicates, split_assignment
from pipeline.records import file_table, manifest, previous_dataset
from pipeline.records.reasons import Code
from pipeline.sources import find_source
from pipeline.system.errors import DataError

NO_KEY = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bonds:
    """What makes photos belong together, beside being the same file.

    Attributes:
        similar: photos that show the same picture.
        keys: int64 [num_files], equal for files that the user groups; NO_KEY: alone.
    """

    similar: near_duplicates.Similar
    keys: np.ndarray

    def among(self, found: file_table.Table) -> Self:
        """The same for files that are taken: what is left out connects no others."""
        return dataclasses.replace(self, similar=self.similar.among(found.taken))

    def alike(self, found: file_table.Table) -> np.ndarray:
        """Groups of the same picture: int64 [num_files], the lowest number in each."""
        return near_duplicates.join(same_files(found), *self.similar.pairs.T)

    def identical(self, found: file_table.Table) -> np.ndarray:
        """Groups of the same pixels, or at least of different classes, likewise."""
        pairs = self.similar.identical
        pairs = pairs[found.taken[pairs].all(axis=1)]
        return near_duplicates.join(same_files(found), *pairs.T)

    def together(self, found: file_table.Table) -> np.ndarray:
        """Groups of what must share a split, likewise."""
        keyed = np.flatnonzero(found.taken & (self.keys != NO_KEY))
        return _join_equal(self.alike(found), keyed, self.keys)


def same_files(found: file_table.Table) -> np.ndarray:
    """Groups of files taken with the same bytes, likewise."""
    taken = np.flatnonzero(found.taken)
    return _join_equal(np.arange(len(found)), taken, found.found["sha256"])


def _join_equal(
    roots: np.ndarray, numbers: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Joins those of some files that have the same value."""
    _, first, place = np.unique(values[numbers], return_index=True, return_inverse=True)
    return near_duplicates.join(roots, numbers[first][place], numbers)


def user_keys(source: find_source.Source, pattern: str) -> np.ndarray:
    """Groups files by what a pattern finds in their paths.

    Args:
        source: all files.
        pattern: a regular expression; "" groups nothing. A file's key are the groups
            of the first match, or the whole of it if there are none.

    Returns:
        int64 [num_files]; NO_KEY without a match.

    Raises:
        DataError: nothing matches.
    """
    keys = np.full(len(source.paths), NO_KEY, np.int64)
    if not pattern:
        return keys
    numbers: dict[tuple[str | None, ...], int] = {}
    search = re.compile(pattern).search
    for number, path in enumerate(source.paths):
        if match := search(path):
            key = match.groups() or (match[0],)
            keys[number] = numbers.setdefault(key, len(numbers))
    if not numbers:
        raise DataError(
            f"--group_by={pattern} matches no path in {source.root}, as "
            f"{source.paths[0]}"
        )
    return keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Numbers of files that are left out for what is known of others.

    Attributes:
        contradicting: filed under several classes.
        bridging: new, and in one group with photos on several sides of the split.
    """

    contradicting: Sequence[int]
    bridging: Sequence[int]


def leave_out(
    found: file_table.Table,
    source: find_source.Source,
    bonds: Bonds,
    before: previous_dataset.Known | None,
    *,
    keep_conflicts: bool,
) -> LeftOut:
    """Decides what is not taken, and gives photos the split they are known by.

    Args:
        found: all files; `splits` and `folds` are those of their paths.
        source: likewise.
        bonds: what belongs together.
        before: the data set as it was; None the first time.
        keep_conflicts: takes a photo that is filed under several classes in each.
    """
    contradicting: list[int] = []
    if not keep_conflicts:
        contradicting = _leave_out_contradicting(found, source, bonds.identical(found))
    is_known = np.zeros(len(found), np.bool_)
    if before is not None:
        splits, folds = before.splits_of(found.found["sha256"])
        is_known = splits != file_table.NO_SPLIT
        found.splits[is_known] = splits[is_known]
        found.folds[is_known] = folds[is_known]
    roots = bonds.among(found).together(found)
    bridging = _leave_out_bridging(found, source, roots, is_known)
    return LeftOut(contradicting=contradicting, bridging=bridging)


def _leave_out_contradicting(
    found: file_table.Table, source: find_source.Source, roots: np.ndarray
) -> list[int]:
    """Takes no photo that is filed under two classes: both cannot be right."""
    taken = np.flatnonzero(found.taken)
    left_out: list[int] = []
    for members in divided(roots, taken, found.labels):
        names = ", ".join(sorted({source.class_name(number) for number in members}))
        reason = f"the same photo is filed under {names}"
        found.leave_out(members, Code.CONFLICTING_LABELS, reason)
        left_out += members.tolist()
    return left_out


def _leave_out_bridging(
    found: file_table.Table,
    source: find_source.Source,
    roots: np.ndarray,
    is_known: np.ndarray,
) -> list[int]:
    """Takes no new photo that belongs to photos on different sides of the split.

    A photo that was edited is new, but stands on the side of the photo before.
    """
    placed = np.flatnonzero(found.taken & (found.splits != file_table.NO_SPLIT))
    sides = found.folds.astype(np.int64) * len(manifest.SPLITS) + found.splits
    new = np.flatnonzero(found.taken & ~is_known)
    left_out: list[int] = []
    for members in divided(roots, placed, sides):
        _, first = np.unique(sides[members], return_index=True)
        one, other = members[np.sort(first)[:2]]
        bridges = new[roots[new] == roots[one]]
        found.leave_out(
            bridges,
            Code.BRIDGES_SPLITS,
            f"bridges {_side(found, one)} and {_side(found, other)}: "
            f"in one group with {source.paths[one]} and {source.paths[other]}",
        )
        left_out += bridges.tolist()
    return left_out


def _side(found: file_table.Table, number: int) -> str:
    name, fold = manifest.SPLITS[found.splits[number]], found.folds[number]
    return name if fold == file_table.NO_FOLD else f"{name} (fold {fold})"


def divided(
    roots: np.ndarray, numbers: np.ndarray, values: np.ndarray
) -> list[np.ndarray]:
    """The groups among some files in which a value is not the same for all.

    Args:
        roots: int64 [num_files], the lowest number in each one's group.
        numbers: of the files that are looked at.
        values: [num_files], of any kind that can be sorted.

    Returns:
        The numbers of the files of each, ascending.
    """
    numbers = numbers[np.lexsort((values[numbers], roots[numbers]))]
    own_roots, own_values = roots[numbers], values[numbers]
    borders = np.flatnonzero(own_roots[1:] != own_roots[:-1]) + 1
    starts, ends = np.r_[0, borders], np.r_[borders, len(numbers)]
    if not len(numbers):
        return []
    differ = own_values[starts] != own_values[ends - 1]
    return [
        np.sort(numbers[start:end])
        for start, end in zip(starts[differ], ends[differ], strict=True)
    ]


def shared(roots: np.ndarray, numbers: np.ndarray) -> list[np.ndarray]:
    """The groups of more than one among some files, as `divided` gives them."""
    return divided(roots, numbers, np.arange(len(roots)))


def check_classes(
    found: file_table.Table, source: find_source.Source, partial: Path
) -> None:
    """Refuses a class of which nothing can be used.

    Raises:
        DataError: names the class and the most frequent reason.
    """
    labels = found.labels[found.taken]
    taken = np.bincount(labels[labels >= 0], minlength=len(source.class_names))
    if taken.all():
        return
    label = int(np.argmin(taken))
    counts: collections.Counter[str] = collections.Counter()
    examples: dict[str, str] = {}
    for number, own in enumerate(found.texts(partial)):
        if found.labels[number] == label:
            row = manifest.row_of(own)
            code, reason = found.reasons.get(number) or (row.codes[0], row.reason)
            counts[code] += 1
            examples.setdefault(code, reason)
    ((code, _),) = counts.most_common(1)
    raise DataError(
        f"{source.root}: class {source.class_names[label]}: none of "
        f"{counts.total()} files can be used; most often: {examples[code]}"
    )


def group(found: file_table.Table, bonds: Bonds) -> None:
    """Puts what belongs together into one group, named after the smallest SHA-256."""
    taken = np.flatnonzero(found.taken)
    roots = bonds.together(found)[taken]
    smallest = np.lexsort((found.found["sha256"][taken], roots))
    _, first, place = np.unique(roots[smallest], return_index=True, return_inverse=True)
    found.groups[taken[smallest]] = taken[smallest[first]][place]


def assign_splits(
    found: file_table.Table, *, seed: int, shares: Mapping[str, float]
) -> None:
    """Places the photos taken: new ones join their group or fill the shares.

    Args:
        found: all files, in groups, those that are known with their split.
        seed: ranks the photos.
        shares: of validation and test.
    """
    taken = np.flatnonzero(found.taken)
    groups, group_of = split_assignment.groups_of(
        found.groups[taken],
        found.found["sha256"][found.groups[taken]],
        found.labels[taken],
        found.splits[taken],
    )
    folds = np.full(len(groups), file_table.NO_FOLD, np.int16)
    np.maximum.at(folds, group_of, found.folds[taken])
    assigned = split_assignment.by_shares(groups, seed=seed, shares=shares)
    new = found.splits[taken] == file_table.NO_SPLIT
    found.splits[taken[new]] = assigned[group_of[new]]
    found.folds[taken[new]] = folds[group_of[new]]
    _place_copies(found)


def _place_copies(found: file_table.Table) -> None:
    """Gives copies that are not taken the split of the photo that is.

    The next conversion will know them so, by their hash.
    """
    hashes = found.found["sha256"]
    taken = np.flatnonzero(found.taken)
    known, first = np.unique(hashes[taken], return_index=True)
    lacking = ~found.taken & (found.splits == file_table.NO_SPLIT) & (hashes != b"")
    numbers = np.flatnonzero(lacking & np.isin(hashes, known))
    twins = taken[first[np.searchsorted(known, hashes[numbers])]]
    found.splits[numbers] = found.splits[twins]
    found.folds[numbers] = found.folds[twins]
