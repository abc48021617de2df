"""Records in part files -> one record file or more a class, in the order of the paths.

A record file whose records would stay as they are is left alone.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.images import decode_files, local_runner
from pipeline.records import example_format, file_table, previous_dataset, tfrecord
from pipeline.system import file_system
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Where the records go.

    Attributes:
        names: of the record files.
        files: int32 [num_files], index into `names`; table.NO_RECORD without a record.
        offsets: int64 [num_files], in bytes.
        written: names of the files to be written.
        obsolete: names of files that are there and no longer wanted.
    """

    names: Sequence[str]
    files: np.ndarray
    offsets: np.ndarray
    written: Sequence[str]
    obsolete: Sequence[str]


def record_name(class_name: str, shard: int = 0, num_shards: int = 1) -> str:
    """File name of a class's records, told apart from those of shards."""
    quoted = re.sub(r"-(?=\d{5}-of-\d{5}$)", "%2D", file_system.file_name(class_name))
    if num_shards > 1:
        quoted += f"-{shard:05d}-of-{num_shards:05d}"
    return f"{quoted}.tfrecord"


def place(
    found: file_table.Table,
    class_names: Sequence[str],
    shard_bytes: int,
    before: previous_dataset.Known | None,
) -> Places:
    """Decides where each record goes.

    Args:
        found: all files.
        class_names: in label order.
        shard_bytes: a record file has at most so many, or one record; 0: no limit.
        before: the data set as it was.
    """
    names: list[str] = []
    written: list[str] = []
    files = np.full(len(found), file_table.NO_RECORD, np.int32)
    offsets = np.zeros(len(found), np.int64)
    lengths = found.found["length"]
    for label, class_name in enumerate(class_names):
        members = np.flatnonzero(found.taken & (found.labels == label))
        shards = _shards(members, lengths, shard_bytes)
        for number, some in enumerate(shards):
            name = record_name(class_name, number, len(shards))
            files[some] = len(names)
            offsets[some] = np.cumsum(lengths[some]) - lengths[some]
            names.append(name)
            if not _is_there(found, some, offsets[some], name, before):
                written.append(name)
    old = set(before.files) if before else set()
    return Places(
        names=names,
        files=files,
        offsets=offsets,
        written=written,
        obsolete=sorted(old - {*names}),
    )


def _shards(
    members: np.ndarray, lengths: np.ndarray, shard_bytes: int
) -> list[np.ndarray]:
    """Divides photos into files; one ends where `shard_bytes` more are full."""
    if not shard_bytes or not len(members):
        return [members] if len(members) else []
    number = (np.cumsum(lengths[members]) - 1) // shard_bytes
    return [members[number == shard] for shard in np.unique(number)]


def _is_there(
    found: file_table.Table,
    members: np.ndarray,
    offsets: np.ndarray,
    name: str,
    before: previous_dataset.Known | None,
) -> bool:
    """Whether a record file has exactly these records already."""
    if before is None or name not in before.ends:
        return False
    kept = found.found[members]
    file = file_table.KNOWN_FILES - before.files.index(name)
    return bool(
        (kept["file"] == file).all()
        and (kept["offset"] == offsets).all()
        and before.ends[name] == int(kept["length"].sum())
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordFiles:
    """What the numbers in table.FOUND["file"] stand for.

    Attributes:
        partial: staging folder, with the parts.
        directory: of the data set as it was.
        known: names of its record files.
    """

    partial: Path
    directory: Path
    known: Sequence[str]

    def path(self, file: int) -> Path:
        """The file of that number."""
        if file > file_table.NO_RECORD:
            return decode_files.part_path(self.partial, file)
        if file == file_table.NO_RECORD:
            raise RuntimeError("a file is taken but has no record")
        return self.directory / self.known[file_table.KNOWN_FILES - file]


def write(
    found: file_table.Table,
    places: Places,
    files: RecordFiles,
    run: local_runner.Runner,
) -> None:
    """Joins the parts to record files in the staging folder, those to be written."""
    run.call(
        [
            functools.partial(
                _join,
                found.found[np.flatnonzero(places.files == places.names.index(name))],
                files,
                files.partial / name,
            )
            for name in places.written
        ]
    )


def _join(members: np.ndarray, files: RecordFiles, target: Path) -> None:
    """Writes records, in their order, into one file."""
    with target.open("wb") as out:
        for file, start, length in _runs(members):
            with files.path(file).open("rb") as part:
                part.seek(start)
                _copy(part, out, length)


def image_of(found: file_table.Table, number: int, files: RecordFiles) -> bytes:
    """The image in the record of a file, before the records are joined.

    Raises:
        DataError: a record from an earlier conversion is damaged; names it.
    """
    entry = found.found[number]
    path = files.path(int(entry["file"]))
    with path.open("rb") as file:
        payload = tfrecord.read_from(
            file, int(entry["offset"]), int(entry["length"]), str(path)
        )
    return example_format.parse(payload).encoded


def _runs(members: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Merges neighbouring records of one file into (file, offset, length) runs."""
    ends = members["offset"] + members["length"]
    new = (members["file"][1:] != members["file"][:-1]) | (
        members["offset"][1:] != ends[:-1]
    )
    starts = np.r_[0, np.flatnonzero(new) + 1]
    for first, last in zip(starts, np.r_[starts[1:], len(members)] - 1, strict=True):
        start = int(members["offset"][first])
        yield int(members["file"][first]), start, int(ends[last]) - start


def _copy(part: BinaryIO, out: BinaryIO, length: int) -> None:
    while length:
        chunk = part.read(min(length, 1 << 20))
        if not chunk:
            raise DataError(f"{part.name}: ended early while it was copied")
        out.write(chunk)
        length -= len(chunk)
