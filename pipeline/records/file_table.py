"""What became of every file, as columns: all that must be known of the files together.

Some 80 bytes a file, so that a conversion's memory hardly grows with their number. What
else is known of a file stays on disk, as the beginning of its line in the manifest.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pipeline.records import reasons

# A file as a worker tells of it. `file` is the number of the process in whose part file
# the record lies, at `offset`; NO_RECORD; or, from KNOWN_FILES down, a record file that
# was there before.
FOUND = np.dtype(
    [
        ("sha256", "S32"),
        ("phash", "<u8"),
        ("length", "<i8"),
        ("offset", "<i8"),
        ("file", "<i4"),
        ("action", "i1"),
    ]
)
ACTIONS = ("skipped", "copied", "reencoded")
NO_RECORD = -1
KNOWN_FILES = -2
NO_SPLIT, NO_FOLD = -1, -1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Files in a row that a process has dealt with.

    Attributes:
        name: of the file in the staging folder with their lines (manifest.own_text).
        start: where they begin there, in bytes.
        size: of all of them together, in bytes.
        found: FOUND [num_files].
    """

    name: str
    start: int
    size: int
    found: np.ndarray


class Table:
    """All files of a source, in the order of their paths.

    Attributes:
        found: FOUND [num_files].
        labels: int32 [num_files]; -1 in no class.
        taken: bool [num_files], whether there will be a record.
        splits: int8 [num_files], index into manifest.SPLITS, or NO_SPLIT.
        folds: int16 [num_files], or NO_FOLD.
        groups: int32 [num_files], the number of the file after which a file's
            duplicate group is named.
        reasons: {number of a file: why it is left out although it could be included}.
    """

    def __init__(self, labels: np.ndarray) -> None:
        """Makes room for files of these labels, of which nothing is known yet."""
        count = len(labels)
        self.found = np.zeros(count, FOUND)
        self.labels = labels
        self.taken = np.zeros(count, np.bool_)
        self.splits = np.full(count, NO_SPLIT, np.int8)
        self.folds = np.full(count, NO_FOLD, np.int16)
        self.groups = np.arange(count, dtype=np.int32)
        self.reasons: dict[int, reasons.Reason] = {}
        self._count = 0
        self._segments: list[tuple[str, int, int]] = []

    def add(self, segment: Segment) -> None:
        """Takes what is told of the next files."""
        rows = slice(self._count, self._count + len(segment.found))
        self.found[rows] = segment.found
        self.taken[rows] = segment.found["action"] > 0
        self._count = rows.stop
        self._segments.append((segment.name, segment.start, segment.size))

    def __len__(self) -> int:
        return len(self.found)

    def leave_out(
        self, numbers: Iterable[int], code: reasons.Code, reason: str
    ) -> None:
        """Excludes files from the records."""
        for number in numbers:
            self.taken[number] = False
            self.reasons[int(number)] = reasons.Reason(code, reason)

    def sha256(self, number: int) -> str:
        """64 hex digits; "" if the file could not be read."""
        digest: bytes = self.found["sha256"][number]
        # NumPy leaves out zeros at the end.
        return digest.ljust(32, b"\0").hex() if digest else ""

    def texts(self, partial: Path) -> Iterator[str]:
        """Yields the beginning of each file's line in the manifest."""
        for name, start, size in self._segments:
            with (partial / name).open("rb") as file:
                file.seek(start)
                lines = file.read(size).decode("ascii").split("\n")
            yield from lines[:-1]
