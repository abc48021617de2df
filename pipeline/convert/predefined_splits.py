"""Splits that the source gives -> splits of the data set, and no photo in two of them.

A given split is kept as it is and gets no other photos. One that the source does not
give is taken by shares from the photos that are given for training or for nothing.
"""

from collections.abc import Mapping

import numpy as np

from pipeline.grouping import selection
from pipeline.records import file_table, manifest, previous_dataset
from pipeline.records.reasons import Code
from pipeline.sources import photo_source
from pipeline.system.errors import DataError

_TRAIN = manifest.SPLITS.index("train")


def leave_out_copies(
    found: file_table.Table, source: photo_source.Source, roots: np.ndarray
) -> None:
    """Takes a photo for the last split only that it, or one of its group, is given for.

    A copy among the training photos of what is tested would make the figures too good,
    so the test photo stays, then the validation photo.

    Args:
        found: all files.
        source: with their splits.
        roots: int64 [num_files], the lowest number in each one's group.
    """
    if not source.given:
        return
    taken = np.flatnonzero(found.taken)
    splits = np.maximum(source.splits, _TRAIN)
    for members in selection.divided(roots, taken, splits):
        best = members[np.argmax(splits[members])]
        copies = members[splits[members] < splits[best]]
        same = found.found["sha256"][copies] == found.found["sha256"][best]
        name, path = manifest.SPLITS[splits[best]], source.paths[best]
        reason = f"also in {name}: {path}"
        found.leave_out(copies[same], Code.ALSO_IN_LATER_SPLIT, reason)
        reason = f"belongs to a photo that is given for {name}: {path}"
        found.leave_out(copies[~same], Code.GROUP_IN_LATER_SPLIT, reason)
        # As the next conversion will know it, by the photo that is taken.
        found.splits[copies[same]] = splits[best]


def place(
    found: file_table.Table,
    source: photo_source.Source,
    before: previous_dataset.Known | None,
) -> None:
    """Writes the given splits into the table.

    Args:
        found: all files.
        source: with their splits.
        before: the data set as it was; None the first time.

    Raises:
        DataError: a photo is known in another split than it is given for.
    """
    if not source.given:
        return
    # Where a split is not given, some of the training photos will be for that.
    open_splits = [
        number
        for number, name in enumerate(manifest.SPLITS)
        if name not in source.given and number != _TRAIN
    ]
    if before is not None:
        splits, _ = before.splits_of(found.found["sha256"])
        moved = (
            found.taken & (splits != file_table.NO_SPLIT) & (splits != source.splits)
        )
        moved &= source.splits != file_table.NO_SPLIT
        moved &= ~((source.splits == _TRAIN) & np.isin(splits, open_splits))
        if moved.any():
            first = int(np.argmax(moved))
            raise DataError(
                f"{before.directory}: {moved.sum():,} photos are known in another "
                f"split than the source gives, {source.paths[first]} first (known in "
                f"{manifest.SPLITS[splits[first]]}, given for "
                f"{manifest.SPLITS[source.splits[first]]}); known photos do not change "
                "sides: convert into a new folder with --out"
            )
    kept = found.taken & (source.splits != file_table.NO_SPLIT)
    if open_splits:
        kept &= source.splits != _TRAIN
    found.splits[kept] = source.splits[kept]


def open_shares(
    source: photo_source.Source, shares: Mapping[str, float]
) -> dict[str, float]:
    """The shares of those splits that the source does not give; 0 for the others."""
    return {
        name: 0 if name in source.given else share for name, share in shares.items()
    }


def notes(source: photo_source.Source, shares: Mapping[str, float]) -> list[str]:
    """What to tell of splits that are given, or else not."""
    if not source.given:
        return []
    taken = {
        name: share for name, share in open_shares(source, shares).items() if share
    }
    line = f"given splits: {', '.join(source.given)}"
    if taken:
        what = " and ".join(f"{name} ({share:g})" for name, share in taken.items())
        line += f"; {what} {'is' if len(taken) == 1 else 'are'} taken from the rest"
    return [line]
