"""Look up what a new conversion keeps of the data set that it updates.

A photo keeps its split, even under another name, and its record if nothing about it has
changed.
"""

import bisect
import dataclasses
from collections.abc import Sequence

from pipeline.records.manifest import Manifest
from pipeline.records.manifest_row import Code, Row

# Version of the decoding of photos, one of the versions that a manifest states.
DECODER = "2"


def outdated_rows(dataset: Manifest) -> list[Row]:
    """Return rows whose pixels an earlier version of Graft may have got wrong.

    JPEG files, whose reasons name no source, and WebP files were decoded correctly.
    """
    if dataset.info.versions.get("decoder") == DECODER:
        return []
    return [
        row
        for row in dataset.included()
        if " source" in row.reason and not row.reason.startswith("WebP source")
    ]


class PreviousDataset:
    """A data set before the conversion that updates it."""

    def __init__(self, manifest: Manifest) -> None:
        """Index the rows of a manifest by SHA-256."""
        self.manifest = manifest
        # {record file: its size in bytes by the manifest}
        self.file_sizes = manifest.file_sizes()
        self._by_sha256: dict[str, Row] = {}
        for row in manifest.rows:
            # The same bytes may also lie outside any class, without a split; and an
            # edited photo that was left out has only the split of its path.
            if row.sha256 and row.split and Code.BRIDGES_SPLITS not in row.codes:
                self._by_sha256.setdefault(row.sha256, row)

    def row_at(self, path: str) -> Row | None:
        """Return the row of a path; None if no file was there."""
        rows = self.manifest.rows
        # The row of the file that was there comes before those of removed photos.
        place = bisect.bisect_left(rows, path, key=lambda row: row.path)
        is_there = place < len(rows) and rows[place].path == path
        return rows[place] if is_there else None

    def row_of_photo(self, row: Row) -> Row | None:
        """Return the row, with a split, of a file with the same SHA-256."""
        return self._by_sha256.get(row.sha256)

    def intact_files(self) -> set[str]:
        """Return names of the record files whose size is that of the manifest."""
        paths = {name: self.manifest.directory / name for name in self.file_sizes}
        sizes = {n: path.stat().st_size for n, path in paths.items() if path.exists()}
        return {name for name, size in sizes.items() if size == self.file_sizes[name]}

    def keep_splits(self, rows: list[Row]) -> None:
        """Give photos, in place, the split and fold that they had.

        The SHA-256 decides, so a photo may have a new name. An edited photo, whose
        SHA-256 is new, keeps the split of its path.
        """
        for index, row in enumerate(rows):
            before = self.row_of_photo(row) or self.row_at(row.path)
            split, fold = (before.split, before.fold) if before else ("", None)
            if (row.split, row.fold) != (split, fold):
                rows[index] = dataclasses.replace(row, split=split, fold=fold)

    def change(self, row: Row) -> str:
        """Return "new", "known", "with another class", "changed" or "gone".

        "" stands for a file that has and had no record.
        """
        before = self.row_at(row.path)
        was_included = before is not None and before.is_included
        if not row.is_included:
            if was_included and Code.REMOVED in row.codes:
                return "gone"
            is_old = Code.REPLACED in row.codes
            is_other = was_included and before and before.sha256 != row.sha256
            return "changed" if is_other and not is_old else ""
        if known := self.row_of_photo(row):
            is_same = known.class_name == row.class_name
            return "known" if is_same else "with another class"
        return "changed" if was_included else "new"

    def removed_photos(self, rows: Sequence[Row]) -> list[Row]:
        """Return rows of photos that had a record once and are not in the source now.

        A file that lies at such a photo's path now has a row of its own in `rows`, the
        rows of all files of the source.
        """
        paths = {row.path for row in rows}
        present = {row.sha256 for row in rows}
        removed = []
        for row in self.manifest.rows:
            is_left_out = Code.LEFT_OUT_BY_CORRECTION in row.codes
            if not (row.group or is_left_out) or row.sha256 in present:
                continue
            if row.path not in paths:
                removed.append(row.skipped(Code.REMOVED, "gone from the source"))
            # An edited photo that was left out had no split but that of its path.
            elif Code.BRIDGES_SPLITS not in row.codes:
                text = "replaced by another file of this name"
                removed.append(row.skipped(Code.REPLACED, text))
        return removed
