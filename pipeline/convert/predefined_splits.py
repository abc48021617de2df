"""Apply splits that come with the source, and keep every photo in one split only.

A given split gets no other photos. A split that the source does not give is filled by
shares from the photos that are given for training, or for nothing.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from pipeline.grouping.photo_groups import Group
from pipeline.records.manifest import SPLITS
from pipeline.records.manifest_row import Code, Row
from pipeline.records.previous_dataset import PreviousDataset
from pipeline.sources.photo_source import Source
from pipeline.system.errors import DataError

_TRAIN = SPLITS[0]


def leave_out_copies(rows: list[Row], source: Source, groups: Sequence[Group]) -> None:
    """Skip photos of a group that is given for a later split as well, in place.

    A copy among the training photos of what is tested would make the figures too good,
    so the test photo stays, then the validation photo.
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


def place(rows: list[Row], source: Source, previous: PreviousDataset | None) -> None:
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
            f"{previous.manifest.directory}: {len(moved):,} photos are known in "
            f"another split than the source gives, {photo.path} first (known in "
            f"{split}, given for {photo.split}). Known photos keep their split. "
            "Convert into a new folder with --out"
        )


def open_shares(source: Source, shares: Mapping[str, float]) -> dict[str, float]:
    """Return the shares of the splits that the source does not give; 0 for others."""
    return {
        name: 0 if name in source.given else share for name, share in shares.items()
    }


def notes(source: Source, shares: Mapping[str, float]) -> list[str]:
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
