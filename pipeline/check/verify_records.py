"""Converted records -> whether they are what the manifest says, photo by photo."""

import collections
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.images import record_image
from pipeline.records import example_format, manifest, tfrecord
from pipeline.system import command_line, process_pool
from pipeline.system.errors import DataError

_BLOCK_RECORDS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """A record that is not what the manifest says, or what else is wrong.

    Attributes:
        file: name of the record file, or of the manifest.
        index: of the record in its file, from 0; -1 for the file as a whole.
        path: of the photo, as the manifest has it; "" for the file as a whole.
        problem: what is wrong.
    """

    file: str
    index: int
    path: str
    problem: str

    def __str__(self) -> str:
        where = f"{self.file} record {self.index}" if self.index >= 0 else self.file
        return f"{where}: {self.path}: {self.problem}".replace(": : ", ": ")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """A record for a worker: its row, its place in the file, its label."""

    row: manifest.Row
    index: int
    label: int


def verify(found: manifest.Manifest, *, num_workers: int = 0) -> list[Fault]:
    """Reads every record: checksums, all features, and its pixels in full.

    Args:
        found: the data set; what `manifest.read` checks is not checked again.
        num_workers: processes; 0: one for each processor.

    Returns:
        What is wrong, the first fault of each record; nothing if all is well.
    """
    rows: dict[str, list[manifest.Row]] = collections.defaultdict(list)
    for row in found.included():
        rows[row.file].append(row)
    for some in rows.values():
        some.sort(key=lambda row: row.offset)
    faults = _check_head(found)
    lacking = set()
    for name, some in sorted(rows.items()):
        faults += _check_file(found.directory / name, some)
        if not (found.directory / name).is_file():
            lacking.add(name)
    tasks = [
        _Task(row=row, index=index, label=found.labels[row.class_name])
        for name, some in sorted(rows.items())
        if name not in lacking
        for index, row in enumerate(some)
    ]
    record_image.limit_pixels(
        found.info.settings.get("max_pixels", record_image.MAX_PIXELS)
    )
    with command_line.progress(len(tasks), "record", "check") as progress:
        for block, results in process_pool.map_blocks(
            functools.partial(_check_block, found.directory),
            _blocks(tasks),
            on_crash=_crashed,
            num_workers=min(
                num_workers or command_line.available_cpus(),
                max(1, -(-len(tasks) // _BLOCK_RECORDS)),
            ),
            initializer=record_image.use_one_thread,
        ):
            for some_faults in results:
                faults += some_faults
            progress.update(len(block))
    return faults


def _blocks(tasks: Sequence[_Task]) -> Iterator[Sequence[_Task]]:
    for start in range(0, len(tasks), _BLOCK_RECORDS):
        yield tasks[start : start + _BLOCK_RECORDS]


def _check_head(found: manifest.Manifest) -> list[Fault]:
    """Whether the counts in manifest.json are those of the rows."""
    path = found.directory / manifest.HEAD_NAME
    head = json.loads(path.read_text(encoding="ascii"))
    faults = []
    tally = found.tally
    for name, counts in (("counts", tally.splits()), ("files", tally.files())):
        if head.get(name) != counts:
            problem = f"its {name} are not those of {manifest.ROWS_NAME}"
            faults.append(
                Fault(file=manifest.HEAD_NAME, index=-1, path="", problem=problem)
            )
    return faults


def _check_file(path: Path, rows: Sequence[manifest.Row]) -> list[Fault]:
    """Whether the rows of a record file leave no gap in it."""
    if not path.is_file():
        problem = f"missing, with {len(rows)} records"
        return [Fault(file=path.name, index=-1, path="", problem=problem)]
    end = 0
    for index, row in enumerate(rows):
        if row.offset != end:
            problem = f"starts at byte {row.offset}, expected {end}"
            return [Fault(file=path.name, index=index, path=row.path, problem=problem)]
        end += row.length
    if (size := path.stat().st_size) != end:
        problem = f"has {size:,} bytes, expected {end:,}"
        return [Fault(file=path.name, index=-1, path="", problem=problem)]
    return []


def _check_block(directory: Path, block: Sequence[_Task]) -> list[Fault]:
    """Reads records in a worker process."""
    faults = []
    opened: dict[str, int] = {}
    try:
        for task in block:
            name = task.row.file
            if name not in opened:
                opened[name] = os.open(directory / name, os.O_RDONLY)
            if problem := _problem(opened[name], task):
                faults.append(_fault(task, problem))
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
    return faults


def _crashed(task: _Task) -> list[Fault]:
    return [_fault(task, "the decoder crashed on it")]


def _fault(task: _Task, problem: str) -> Fault:
    return Fault(
        file=task.row.file, index=task.index, path=task.row.path, problem=problem
    )


def _problem(file_descriptor: int, task: _Task) -> str:
    """What is wrong with a record; "" if nothing is."""
    row = task.row
    try:
        payload = tfrecord.read_at(file_descriptor, row.offset, row.length, row.file)
        values = example_format.parse(payload)
    except DataError as error:
        return str(error)
    if different := _differences(values, task):
        return "; ".join(different)
    encoded = values["image/encoded"]
    if not isinstance(encoded, bytes):
        raise TypeError("schema.parse gives bytes")
    if row.action == "copied" and hashlib.sha256(encoded).hexdigest() != row.sha256:
        return "its bytes are not those of the photo (SHA-256)"
    try:
        pixels = record_image.decode_record(encoded)
    except record_image.ImageError as error:
        return str(error)
    if pixels.shape[:2] != (row.height, row.width):
        height, width = pixels.shape[:2]
        return f"decodes to {width} x {height}, expected {row.width} x {row.height}"
    return ""


def _differences(values: Mapping[str, bytes | int], task: _Task) -> list[str]:
    """Features that are not as the manifest says."""
    row = task.row
    expected: dict[str, bytes | int] = {
        "image/format": row.format.encode(),
        "image/height": row.height,
        "image/width": row.width,
        "image/class/label": task.label,
        "image/class/text": os.fsencode(row.class_name),
        "image/filename": os.fsencode(row.path),
        "image/sha256": row.sha256.encode(),
    }
    return [
        f"{name} is {values[name]!r:.80}, expected {value!r:.80}"
        for name, value in expected.items()
        if values[name] != value
    ]


def image_of(found: manifest.Manifest, row: manifest.Row) -> bytes:
    """The image in a record.

    Raises:
        DataError: the record is damaged.
    """
    with (found.directory / row.file).open("rb") as file:
        payload = tfrecord.read_from(file, row.offset, row.length, row.file)
    encoded = example_format.parse(payload)["image/encoded"]
    if not isinstance(encoded, bytes):
        raise TypeError("schema.parse gives bytes")
    return encoded
