"""Join the records of a conversion to one record file or more a class.

A class's records are in the order of the paths. A record file that would stay the same
is not written again.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.images import decode_files
from pipeline.records.manifest_row import Row
from pipeline.records.previous_dataset import PreviousDataset
from pipeline.system import file_system
from pipeline.system.errors import DataError

# Part of a file: its name, relative to the data set, and start and size in bytes.
Extent = tuple[str, int, int]


def record_name(class_name: str, shard: int = 0, num_shards: int = 1) -> str:
    """Return the name of a class's record file, which no shard of another has."""
    quoted = re.sub(r"-(?=\d{5}-of-\d{5}$)", "%2D", file_system.file_name(class_name))
    if num_shards > 1:
        quoted += f"-{shard:05d}-of-{num_shards:05d}"
    return f"{quoted}.tfrecord"


def place(
    rows: list[Row],
    class_names: Sequence[str],
    shard_bytes: int,
    previous: PreviousDataset | None,
) -> tuple[dict[str, Sequence[Extent]], list[str]]:
    """Decide where each record goes, and write that into the rows, in place.

    Rows with a record say where it is. A record file of several records has at most
    `shard_bytes`, unless that is 0. The results are {record file to write: parts of
    other files to join for it} and the names of record files that are not needed.
    """
    members: dict[str, list[int]] = {name: [] for name in class_names}
    for index, row in enumerate(rows):
        if row.is_included:
            members[row.class_name].append(index)
    names: set[str] = set()
    written: dict[str, Sequence[Extent]] = {}
    for class_name, indices in members.items():
        shards = _shards(rows, indices, shard_bytes)
        for number, shard in enumerate(shards):
            name = record_name(class_name, number, len(shards))
            names.add(name)
            extents = _extents(rows[index] for index in shard)
            size = sum(length for _, _, length in extents)
            is_there = previous is not None and previous.file_sizes.get(name) == size
            if not (is_there and extents == [(name, 0, size)]):
                written[name] = extents
            offset = 0
            for index in shard:
                row = rows[index]
                if (row.file, row.offset) != (name, offset):
                    rows[index] = dataclasses.replace(row, file=name, offset=offset)
                offset += row.length
    before = previous.file_sizes.keys() if previous else set()
    return written, sorted(before - names)


def _shards(
    rows: Sequence[Row], indices: Sequence[int], shard_bytes: int
) -> list[list[int]]:
    """Divide photos into files; one ends where `shard_bytes` more are full."""
    shards: dict[int, list[int]] = {}
    size = 0
    for index in indices:
        size += rows[index].length
        number = (size - 1) // shard_bytes if shard_bytes else 0
        shards.setdefault(number, []).append(index)
    return list(shards.values())


def _extents(rows: Iterable[Row]) -> list[Extent]:
    """Return where the records of rows lie, neighbours in one file as one part."""
    extents: list[Extent] = []
    for row in rows:
        file, start, length = extents[-1] if extents else ("", 0, 0)
        if (row.file, row.offset) == (file, start + length):
            extents[-1] = (file, start, length + row.length)
        else:
            extents.append((row.file, row.offset, row.length))
    return extents


def write(
    written: Mapping[str, Sequence[Extent]],
    directory: Path,
    partial: Path,
    runner: decode_files.Runner,
) -> None:
    """Join the parts, which lie in a data set's folder, in its staging folder."""
    joins = (
        functools.partial(_join, directory, extents, partial / name)
        for name, extents in written.items()
    )
    runner.call(list(joins))


def _join(directory: Path, extents: Sequence[Extent], target: Path) -> None:
    """Write parts of files, in their order, into one file."""
    with target.open("wb") as out:
        for name, start, length in extents:
            with file_system.regular(directory / name).open("rb") as part:
                part.seek(start)
                while length:
                    chunk = part.read(min(length, 1 << 20))
                    if not chunk:
                        raise DataError(f"{part.name}: ended early while it was copied")
                    out.write(chunk)
                    length -= len(chunk)
