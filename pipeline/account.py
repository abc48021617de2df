"""What became of each file -> what of it is taken, in which group and split.

Looks at all files together: labels that contradict each other, classes of which nothing
is left, copies, and the split.
"""

import collections
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline import known, manifest, schema, sources, split, table


def leave_out_contradictions(found: table.Table, source: sources.Source) -> None:
    """Takes no photo that is filed under two classes: both cannot be right."""
    taken = np.flatnonzero(found.taken)
    for members in same_values(found.found["sha256"][taken]):
        numbers = taken[members]
        names = {source.class_name(number) for number in numbers}
        if len(names) > 1:
            found.leave_out(
                numbers, f"the same photo is filed under {', '.join(sorted(names))}"
            )


def same_values(values: np.ndarray) -> list[np.ndarray]:
    """Places of equal values, for each value that is there more than once."""
    order = np.argsort(values, kind="stable")
    new = np.r_[True, values[order][1:] != values[order][:-1]]
    starts = np.flatnonzero(new)
    ends = np.r_[starts[1:], len(values)]
    return [
        order[start:end]
        for start, end in zip(starts, ends, strict=True)
        if end - start > 1
    ]


def check_classes(found: table.Table, source: sources.Source, partial: Path) -> None:
    """Refuses a class of which nothing can be used.

    Raises:
        schema.DataError: names the class and the most frequent reason.
    """
    labels = found.labels[found.taken]
    taken = np.bincount(labels[labels >= 0], minlength=len(source.class_names))
    if taken.all():
        return
    label = int(np.argmin(taken))
    why: collections.Counter[str] = collections.Counter()
    for number, own in enumerate(found.texts(partial)):
        if found.labels[number] == label:
            reason = found.reasons.get(number) or manifest.row_of(own).reason
            why[reason] += 1
    raise schema.DataError(
        f"{source.root}: class {source.class_names[label]}: none of "
        f"{sum(why.values())} files can be used; most often: "
        f"{why.most_common(1)[0][0]}"
    )


def group(found: table.Table) -> None:
    """Puts copies of a photo into one group, named after the smallest SHA-256."""
    for members in same_values(found.found["sha256"]):
        if found.found["sha256"][members[0]]:
            found.groups[members] = members[0]


def assign_splits(
    found: table.Table,
    before: known.Known | None,
    *,
    seed: int,
    shares: Mapping[str, float],
) -> None:
    """Places the photos taken: known ones keep their split, new ones fill the shares.

    Args:
        found: all files, in groups. Splits that are there already count as known.
        before: the data set as it was; None the first time.
        seed: ranks the photos.
        shares: of validation and test.
    """
    if before is not None:
        splits, folds = before.splits_of(found.found["sha256"])
        is_known = splits != table.NO_SPLIT
        found.splits[is_known] = splits[is_known]
        found.folds[is_known] = folds[is_known]
    taken = np.flatnonzero(found.taken)
    groups, group_of = split.groups_of(
        found.groups[taken],
        found.found["sha256"][found.groups[taken]],
        found.labels[taken],
        found.splits[taken],
    )
    assigned = split.by_shares(groups, seed=seed, shares=shares)
    found.splits[taken] = assigned[group_of]
