"""Verify that records are what the manifest says, photo by photo."""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.images import file_headers, opencv
from pipeline.images.errors import ImageError
from pipeline.records import example_format, manifest, stored_photo
from pipeline.records.manifest import Manifest
from pipeline.records.manifest_row import Row
from pipeline.system import command_line, process_pool
from pipeline.system.errors import DataError

_BLOCK_RECORDS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """A record, or a whole file, that is not what the manifest says.

    Attributes:
        file: name of the record file, or of the manifest.
        index: number of the record in its file, from 0; -1 for the file as a whole.
        path: path of the photo in the manifest; "" for the file as a whole.
        problem: description of what is wrong.
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

    row: Row
    index: int
    label: int


def verify(converted: Manifest, *, num_workers: int = 0) -> list[Fault]:
    """Read every record: checksums, all features, and its pixels in full.

    Args:
        converted: data set to verify; what `manifest.read` checks is not checked again.
        num_workers: number of processes; 0: one for each processor.

    Returns:
        The first fault of each record and file; [] if there are no faults.
    """
    faults = _check_head(converted)
    tasks: list[_Task] = []
    rows_of: dict[str, list[Row]] = collections.defaultdict(list)
    for row in converted.included():
        rows_of[row.file].append(row)
    for name, rows in sorted(rows_of.items()):
        rows.sort(key=lambda row: row.offset)
        path = converted.directory / name
        faults += _check_file(path, rows)
        if path.is_file():
            tasks += [
                _Task(row=row, index=index, label=converted.labels[row.class_name])
                for index, row in enumerate(rows)
            ]
    opencv.limit_pixels(
        converted.info.settings.get("max_pixels", file_headers.MAX_PIXELS)
    )
    with command_line.progress(len(tasks), "record", "check") as progress:
        for block, results in process_pool.map_blocks(
            functools.partial(_check_block, converted.directory),
            _blocks(tasks),
            on_crash=_crashed,
            num_workers=min(
                num_workers or command_line.available_cpus(),
                max(1, -(-len(tasks) // _BLOCK_RECORDS)),
            ),
            initializer=opencv.use_one_thread,
        ):
            faults += itertools.chain(*results)
            progress.update(len(block))
    return faults


def _blocks(tasks: Sequence[_Task]) -> Iterator[Sequence[_Task]]:
    for start in range(0, len(tasks), _BLOCK_RECORDS):
        yield tasks[start : start + _BLOCK_RECORDS]


def _check_head(converted: Manifest) -> list[Fault]:
    """Compare the counts in manifest.json with those of the rows."""
    path = converted.directory / manifest.HEAD_NAME
    head = json.loads(path.read_text(encoding="ascii"))
    counts = {"counts": converted.counts(), "files": converted.tally.files()}
    return [
        Fault(
            file=manifest.HEAD_NAME,
            index=-1,
            path="",
            problem=f"its {name} are not those of {manifest.ROWS_NAME}",
        )
        for name, expected in counts.items()
        if head.get(name) != expected
    ]


def _check_file(path: Path, rows: Sequence[Row]) -> list[Fault]:
    """Check that the rows of a record file leave no gap in it."""
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
    """Read records in a worker process."""
    photos = stored_photo.StoredPhotos(directory)
    problems = [(task, _problem(photos, task)) for task in block]
    return [_fault(task, problem) for task, problem in problems if problem]


def _crashed(task: _Task) -> list[Fault]:
    return [_fault(task, "the decoder crashed on it")]


def _fault(task: _Task, problem: str) -> Fault:
    return Fault(
        file=task.row.file, index=task.index, path=task.row.path, problem=problem
    )


def _problem(photos: stored_photo.StoredPhotos, task: _Task) -> str:
    """Return what is wrong with a record; "" if nothing is."""
    row = task.row
    try:
        record = photos.record(row)
    except DataError as error:
        return str(error)
    if differences := _differences(record, task):
        return "; ".join(differences)
    content_sha256 = hashlib.sha256(record.encoded).hexdigest()
    if row.action == "copied" and content_sha256 != row.sha256:
        return "its bytes are not those of the photo (SHA-256)"
    try:
        pixels = opencv.decode_rgb(record.encoded)
    except ImageError as error:
        return str(error)
    if pixels.shape[:2] != (row.height, row.width):
        height, width = pixels.shape[:2]
        return f"decodes to {width} x {height}, expected {row.width} x {row.height}"
    return ""


def _differences(record: example_format.Record, task: _Task) -> list[str]:
    """Return the features that are not as the manifest says."""
    row = task.row
    expected = example_format.Record(
        encoded=record.encoded,
        format=row.format,
        height=row.height,
        width=row.width,
        label=task.label,
        class_name=row.class_name,
        path=row.path,
        sha256=row.sha256,
    )
    return [
        f"{name} is {getattr(record, attribute)!r:.80}, "
        f"expected {getattr(expected, attribute)!r:.80}"
        for name, attribute in example_format.FEATURES.items()
        if getattr(record, attribute) != getattr(expected, attribute)
    ]
