"""The data set as an earlier conversion left it, as far as a later one must respect it.

No photo that is known changes its split, whatever it is called now; and its record is
kept if nothing about it has changed.
"""

import bisect
import collections
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.records import file_table, manifest
from pipeline.records.reasons import Code, Reason

REMOVED = Reason(Code.REMOVED, "gone from the source")
REPLACED = Reason(Code.REPLACED, "replaced by another file of this name")


class Known:
    """What is read of an earlier manifest, without holding its rows.

    Attributes:
        info: class names, seed, settings.
        digest: digest that the manifest has in the present version of the format.
        directory: of the data set.
        files: names of its record files.
        ends: {record file: its size in bytes}.
    """

    def __init__(self, directory: Path) -> None:
        """Reads a manifest once.

        Raises:
            DataError: damaged; as manifest.read.
        """
        self.directory = directory
        self.info, digest, version = manifest.read_head(directory)
        self.ends: dict[str, int] = collections.defaultdict(int)
        hashes, splits, folds = [], bytearray(), []
        # Rows are compared by the digest of the present format, whatever they are in.
        writers = {
            number: manifest.Writer(self.info, None, number)
            for number in {version, manifest.FORMAT_VERSION}
        }
        for row in manifest.read_rows(directory):
            for writer in writers.values():
                writer.add(manifest.Line.of(row))
            if row.is_included:
                end = row.offset + row.length
                self.ends[row.file] = max(self.ends[row.file], end)
            # The same bytes may also lie outside any class, without a split; and a
            # photo that was edited and left out has the split of its path alone.
            if row.split and Code.BRIDGES_SPLITS not in row.codes:
                hashes.append(bytes.fromhex(row.sha256))
                splits.append(manifest.SPLITS.index(row.split))
                folds.append(file_table.NO_FOLD if row.fold is None else row.fold)
        manifest.check_digest(directory, writers[version].digest, digest)
        self.digest = writers[manifest.FORMAT_VERSION].digest
        self.files = sorted(self.ends)
        order = np.argsort(np.array(hashes, "S32"), kind="stable")
        self._hashes = np.array(hashes, "S32")[order]
        self._splits = np.frombuffer(splits, np.int8)[order]
        self._folds = np.array(folds, np.int16)[order]

    def rows(self) -> Iterator[manifest.Row]:
        """Yields its rows in the order of their paths."""
        return manifest.read_rows(self.directory)

    def intact_files(self) -> set[str]:
        """The record files that are as long as they should be."""
        return {
            name
            for name, end in self.ends.items()
            if (path := self.directory / name).exists() and path.stat().st_size == end
        }

    def splits_of(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Splits and folds of photos, by their SHA-256; NO_SPLIT if they are new.

        Args:
            hashes: S32 [num_photos].

        Returns:
            int8 and int16 [num_photos].
        """
        splits = np.full(len(hashes), file_table.NO_SPLIT, np.int8)
        folds = np.full(len(hashes), file_table.NO_FOLD, np.int16)
        if len(self._hashes) and len(hashes):
            places = np.searchsorted(self._hashes, hashes)
            places = np.minimum(places, len(self._hashes) - 1)
            same = (self._hashes[places] == hashes) & (hashes != b"")
            splits[same] = self._splits[places[same]]
            folds[same] = self._folds[places[same]]
        return splits, folds

    def gone(
        self, source_paths: Sequence[str], hashes: np.ndarray
    ) -> Iterator[manifest.Row]:
        """Yields rows of photos that were taken once and are not there any more.

        What lies at their path now, if anything does, has a row of its own.

        Args:
            source_paths: of all files that are there, sorted.
            hashes: S32 [num_files], SHA-256 of them.
        """
        present = np.sort(hashes)
        for row in self.rows():
            place = bisect.bisect_left(source_paths, row.path)
            there = place < len(source_paths) and source_paths[place] == row.path
            # One that was edited and left out has no split but that of its path.
            if not row.group or (there and Code.BRIDGES_SPLITS in row.codes):
                continue
            digest = np.array(bytes.fromhex(row.sha256), "S32")
            place = int(np.searchsorted(present, digest))
            if place == len(present) or present[place] != digest:
                reason = REPLACED if there else REMOVED
                yield row.skipped(*reason)


def rows_at(known: Known, paths: Sequence[str]) -> Iterator[manifest.Row | None]:
    """Yields the known row of each path; both are in the order of the paths."""
    rows = known.rows()
    row = next(rows, None)
    for path in paths:
        while row is not None and row.path < path:
            row = next(rows, None)
        yield row if row is not None and row.path == path else None
