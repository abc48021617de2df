"""Decide which photos get a record, and put all photos of a group in one split.

A split that the source gives gets no other photos. Other splits get their shares of the
photos that are given for training, or that have no given split.

Functions that decide about rows change the given list in place: a data set may have
hundreds of thousands of rows.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from pipeline.grouping import split_assignment
from pipeline.grouping.photo_groups import Group, PhotoGroups
from pipeline.records.manifest import SPLITS
from pipeline.records.manifest_row import Code, Reason, Row
from pipeline.records.previous_dataset import PreviousDataset
from pipeline.sources.photo_source import Source
from pipeline.system.errors import DataError

# {index of a row: why it gets no record}.
Reasons = dict[int, Reason]
_TRAIN = SPLITS[0]


def leave_out(rows: list[Row], reasons: Reasons) -> None:
    """Turn rows into skipped ones, in place."""
    for index, reason in reasons.items():
        rows[index] = rows[index].skipped(*reason)


def find_contradicting(rows: Sequence[Row], groups: Sequence[Group]) -> Reasons:
    """Find photos of the same pixels under several classes: not all can be right."""
    reasons: Reasons = {}
    for group in groups:
        class_names = sorted({rows[index].class_name for index in group})
        if len(class_names) > 1:
            text = f"the same photo is filed under {', '.join(class_names)}"
            reasons |= dict.fromkeys(group, Reason(Code.CONFLICTING_LABELS, text))
    return reasons


def find_bridging(
    rows: Sequence[Row], groups: Sequence[Group], previous: PreviousDataset | None
) -> Reasons:
    """Find new photos in groups whose known photos are in different splits.

    An edited photo is new, but has the split of the photo that it replaces. `rows` have
    the splits they had; photos of a group must share one.
    """
    reasons: Reasons = {}
    if previous is None:
        return reasons
    for group in groups:
        placed = [rows[index] for index in group if rows[index].split]
        others = [row for row in placed if _side(row) != _side(placed[0])]
        if not others:
            continue
        first, second = placed[0], others[0]
        text = (
            f"bridges {_side(first)} and {_side(second)}: "
            f"in one group with {first.path} and {second.path}"
        )
        new = [i for i in group if previous.row_of_photo(rows[i]) is None]
        reasons |= dict.fromkeys(new, Reason(Code.BRIDGES_SPLITS, text))
    return reasons


def _side(row: Row) -> str:
    return row.split if row.fold is None else f"{row.split} (fold {row.fold})"


def leave_out_copies(rows: list[Row], source: Source, groups: Sequence[Group]) -> None:
    """Skip, in place, photos whose group is also given for a later split.

    A copy of a test photo among the training photos would make the accuracy too high.
    So test photos stay, or else validation photos.
    """
    if not source.given:
        return
    for group in groups:
        split_of = {index: source.photos[index].split or _TRAIN for index in group}
        best = max(group, key=lambda index: SPLITS.index(split_of[index]))
        split, path = split_of[best], rows[best].path
        for index in group:
            row = rows[index]
            if split_of[index] == split:
                continue
            if row.sha256 == rows[best].sha256:
                row = row.skipped(Code.ALSO_IN_LATER_SPLIT, f"also in {split}: {path}")
                # The next conversion will know this photo by the one that stays.
                rows[index] = dataclasses.replace(row, split=split)
            else:
                reason = f"belongs to a photo that is given for {split}: {path}"
                rows[index] = row.skipped(Code.GROUP_IN_LATER_SPLIT, reason)


def check_classes(rows: Sequence[Row], source: Source) -> None:
    """Refuse, with a DataError, a class none of whose files can be used."""
    usable = {row.class_name for row in rows if row.is_included}
    empty = [name for name in source.class_names if name not in usable]
    if not empty:
        return
    skipped = [row for row in rows if row.class_name == empty[0]]
    if not skipped:
        raise DataError(
            f"{source.root}: class {empty[0]}: the corrections leave no photo in it. "
            "Remove the class from the source, or leave a photo in it"
        )
    example_of = {row.codes[0]: row for row in reversed(skipped)}
    code = statistics.mode(row.codes[0] for row in skipped)
    raise DataError(
        f"{source.root}: class {empty[0]}: none of its files can be used. "
        f"Most frequent reason: {example_of[code].reason}"
    )


def place_given(
    rows: list[Row], source: Source, previous: PreviousDataset | None
) -> None:
    """Write the given splits into the rows of all files, in place.

    Photos of the previous data set that had another split are a DataError.
    """
    # Some of the training photos serve the splits that are not given.
    open_splits = [name for name in SPLITS[1:] if name not in source.given]
    moved = []
    for index, photo in enumerate(source.photos):
        row = rows[index]
        if not row.is_included or not photo.split:
            continue
        is_open = photo.split == _TRAIN and bool(open_splits)
        before = previous.row_of_photo(row) if previous else None
        allowed = {photo.split, *(open_splits if is_open else ())}
        if before is not None and before.split not in allowed:
            moved.append((photo, before.split))
        elif not is_open:
            rows[index] = dataclasses.replace(row, split=photo.split)
    if moved and previous:
        photo, split = moved[0]
        raise DataError(
            f"{previous.manifest.directory}: photos that are known in "
            f"another split than the source gives: {len(moved):,}, {photo.path} first "
            f"(known in {split}, given for {photo.split}). Known photos keep theirs. "
            "Convert into a new folder with --out"
        )


def open_shares(source: Source, shares: Mapping[str, float]) -> dict[str, float]:
    """Return the shares of the splits that the source does not give; 0 for others."""
    return {n: 0 if n in source.given else share for n, share in shares.items()}


def describe_given(source: Source, shares: Mapping[str, float]) -> list[str]:
    """Return a line about the splits that the source gives; none if it gives none."""
    if not source.given:
        return []
    opened = open_shares(source, shares).items()
    filled = [f"{name} ({share:g})" for name, share in opened if share]
    line = f"given splits: {', '.join(source.given)}"
    if filled:
        verb = "is" if len(filled) == 1 else "are"
        line += f"; {' and '.join(filled)} {verb} taken from the rest"
    return [line]


def assign_splits(
    rows: list[Row],
    groups: PhotoGroups,
    labels: Mapping[str, int],
    *,
    seed: int,
    shares: Mapping[str, float],
) -> None:
    """Give every photo its group and its split, in place.

    All new photos of a group get one split: that of the photos that have one already,
    or else one that fills the shares. So no group is divided, unless its known photos
    were in several splits before. `rows` have the splits they had or were given;
    `shares` is {"validation": share, "test": share}, 0..1.
    """
    together = groups.together(rows)
    group_of = _name_groups(rows, together)
    members: dict[str, Sequence[int]] = {}
    known: dict[str, str] = {}
    folds: dict[str, int] = {}
    alone = {name: (label,) for name, label in labels.items()}
    for row, name in zip(rows, group_of, strict=True):
        if row.is_included:
            members[name] = alone[row.class_name]
            if row.split:
                earlier = known.get(name, _TRAIN)
                known[name] = max(earlier, row.split, key=SPLITS.index)
            if row.fold is not None:
                folds[name] = max(folds.get(name, 0), row.fold)
    for group in together:
        name = group_of[group[0]]
        members[name] = [labels[rows[index].class_name] for index in group]
    splits = split_assignment.by_shares(members, known=known, seed=seed, shares=shares)
    for index, (row, name) in enumerate(zip(rows, group_of, strict=True)):
        split, fold = row.split, row.fold
        if row.is_included and not split:
            split, fold = known.get(name) or splits[name], folds.get(name)
        if (row.group, row.split, row.fold) != (name, split, fold):
            rows[index] = dataclasses.replace(row, group=name, split=split, fold=fold)
    _place_copies(rows)


def _name_groups(rows: Sequence[Row], groups: Sequence[Group]) -> list[str]:
    """Return the group of each row: the smallest SHA-256 of its photos.

    A skipped file that has a split is a group of its own; one without has none.
    """
    names = [row.sha256 if row.is_included or row.split else "" for row in rows]
    for group in groups:
        name = min(rows[index].sha256 for index in group)
        for index in group:
            names[index] = name
    return names


def _place_copies(rows: list[Row]) -> None:
    """Give skipped copies the split of the photo that has a record, in place.

    The next conversion recognises them by their SHA-256, and keeps that split.
    """
    first: dict[str, Row] = {}
    for row in rows:
        if row.is_included:
            first.setdefault(row.sha256, row)
    for index, row in enumerate(rows):
        copy = None if row.is_included or row.split else first.get(row.sha256)
        if copy:
            rows[index] = dataclasses.replace(
                row, group=row.sha256, split=copy.split, fold=copy.fold
            )
