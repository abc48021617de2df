"""What became of each file -> what of it is taken, and into which split.

Looks at all files together: labels that contradict each other, photos that are gone,
classes of which nothing is left, and the split.
"""

import collections
import dataclasses
from collections.abc import Sequence

from pipeline import manifest, schema, sources, split


def account(
    rows: Sequence[manifest.Row], known: manifest.Manifest | None
) -> list[manifest.Row]:
    """Returns one row per source file, and one per known photo that is gone.

    The same bytes under two classes cannot both be right: none of them is taken.

    Args:
        rows: what became of each source file by itself.
        known: the data set as it was; None the first time.
    """
    classes: dict[str, set[str]] = collections.defaultdict(set)
    for row in rows:
        if row.taken:
            classes[row.sha256].add(row.class_name)
    accounted = [
        _skip(row, f"the same photo is filed under {', '.join(sorted(names))}")
        if row.taken and len(names := classes[row.sha256]) > 1
        else row
        for row in rows
    ]
    present = {row.sha256 for row in accounted}
    gone = [
        _skip(row, manifest.GONE)
        for row in (known.rows if known else ())
        if row.group and row.sha256 not in present
    ]
    paths = {row.path for row in accounted}
    accounted += [row for row in gone if row.path not in paths]
    return sorted(accounted, key=lambda row: row.path)


def _skip(row: manifest.Row, reason: str) -> manifest.Row:
    """Keeps hash, group and split, so that a photo that comes back is known."""
    return dataclasses.replace(
        row,
        action="skipped",
        reason=reason,
        format="",
        height=0,
        width=0,
        file="",
        offset=0,
        length=0,
    )


def check_classes(rows: Sequence[manifest.Row], source: sources.Source) -> None:
    """Refuses a class of which nothing can be used.

    Raises:
        schema.DataError: names the class and the most frequent reason.
    """
    taken = collections.Counter(row.class_name for row in rows if row.taken)
    for name in source.class_names:
        if not taken[name]:
            why = collections.Counter(r.reason for r in rows if r.class_name == name)
            raise schema.DataError(
                f"{source.root / name}: none of {sum(why.values())} files can be used; "
                f"most often: {why.most_common(1)[0][0]}"
            )


def assign_splits(
    rows: Sequence[manifest.Row], known: manifest.Manifest | None, seed: int
) -> tuple[list[manifest.Row], dict[str, str]]:
    """Places the photos taken: known ones keep their split, new ones fill the shares.

    Args:
        rows: of `account`.
        known: the data set as it was; None the first time.
        seed: ranks the photos, unless the data set is known and has its own.

    Returns:
        The rows, known ones with their fold; and {duplicate group: split}.
    """
    # The same bytes may also lie outside any class, in a row without a split.
    before = {row.sha256: row for row in (known.rows if known else ()) if row.split}
    with_known = [
        dataclasses.replace(row, split=same.split, fold=same.fold)
        if (same := before.get(row.sha256))
        else row
        for row in rows
    ]
    assigned = split.by_shares(
        split.groups_of(with_known, keep_splits=True),
        seed=known.seed if known else seed,
        shares=known.shares if known else split.DEFAULT_SHARES,
    )
    return with_known, assigned
