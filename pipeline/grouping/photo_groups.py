"""Group the photos that must share a split: copies, near-duplicates, the user's groups.

A group is a list of at least two indices of rows, ascending. Lists of groups are in the
order of their first members. Rows without a record are in no group.
"""

import dataclasses
import itertools
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Self

import numpy as np

from pipeline.grouping import near_duplicates
from pipeline.records.manifest_row import Row
from pipeline.sources.photo_source import Source
from pipeline.system.errors import DataError

Group = list[int]
# What the user's pattern finds in a path; None for a photo that it does not match.
UserKey = tuple[str | None, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoGroups:
    """What makes photos belong together, apart from being the same file."""

    similar: near_duplicates.NearDuplicates
    user_keys: Sequence[UserKey]  # one a row; photos with the same key belong together

    def among(self, rows: Sequence[Row]) -> Self:
        """Return the same without links through skipped photos."""
        is_included = np.array([row.is_included for row in rows], np.bool_)
        return dataclasses.replace(self, similar=self.similar.among(is_included))

    def same_picture(self, rows: Sequence[Row]) -> list[Group]:
        """Return groups of copies and near-duplicates."""
        return connect(itertools.chain(_copies(rows), self.similar.pairs.tolist()))

    def same_pixels(self, rows: Sequence[Row]) -> list[Group]:
        """Return groups of copies, and of the same pixels in several classes."""
        pairs = self.similar.identical.tolist()
        both = (p for p in pairs if all(rows[index].is_included for index in p))
        return connect(itertools.chain(_copies(rows), both))

    def together(self, rows: Sequence[Row]) -> list[Group]:
        """Return groups that must share a split."""
        keys = (
            key if row.is_included else None
            for row, key in zip(rows, self.user_keys, strict=True)
        )
        similar = self.similar.pairs.tolist()
        return connect(itertools.chain(_copies(rows), similar, _pairs_of_equal(keys)))


def same_files(rows: Sequence[Row]) -> list[Group]:
    """Return groups of photos with the same bytes."""
    return connect(_copies(rows))


def connect(pairs: Iterable[Sequence[int]]) -> list[Group]:
    """Return the groups that pairs of different numbers connect."""
    ends = np.array(list(pairs), np.int64).reshape(-1, 2)
    numbers, places = np.unique(ends, return_inverse=True)
    first, second = places.reshape(-1, 2).T
    roots = near_duplicates.join(np.arange(len(numbers)), first, second)
    groups: dict[int, Group] = {}
    for number, root in zip(numbers.tolist(), roots.tolist(), strict=True):
        groups.setdefault(root, []).append(number)
    return list(groups.values())


def differing(groups: Iterable[Group], rows: Sequence[Row], column: str) -> list[Group]:
    """Return the groups whose photos differ in a column of the manifest."""
    return [g for g in groups if len({getattr(rows[index], column) for index in g}) > 1]


def _copies(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """Yield pairs that connect the included photos of each SHA-256."""
    return _pairs_of_equal(row.sha256 if row.is_included else None for row in rows)


def _pairs_of_equal(keys: Iterable[Hashable]) -> Iterator[tuple[int, int]]:
    """Yield (first index, later index) of equal keys; None equals nothing."""
    first: dict[Hashable, int] = {}
    for index, key in enumerate(keys):
        if key is not None and (earlier := first.setdefault(key, index)) != index:
            yield earlier, index


def find_user_keys(source: Source, pattern: str) -> list[UserKey]:
    """Return for each photo what a regular expression finds in its path.

    That is the groups of the first match, or the whole match if there are no groups.
    Without a pattern, "", the groups that the source gives are the keys. A pattern that
    matches no path is a DataError.
    """
    if not pattern:
        return [(photo.group,) if photo.group else None for photo in source.photos]
    search = re.compile(pattern).search
    matches = (search(photo.path) for photo in source.photos)
    keys = [(match.groups() or (match[0],)) if match else None for match in matches]
    if not any(keys):
        raise DataError(
            f"--group_by={pattern}: matches no path in {source.root}, such as "
            f"{source.photos[0].path}"
        )
    return keys
