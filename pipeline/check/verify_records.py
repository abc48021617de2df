"""Converted records -> whether they are what the manifest says, photo by photo."""

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.images import opencv
from pipeline.images.errors import ImageError
from pipeline.records import example_format, manifest, stored_photo
from pipeline.records.manifest_row import Row
from pipeline.sources import source_settings
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

    row: Row
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
    rows: dict[str, list[Row]] = collections.defaultdict(list)
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
    opencv.limit_pixels(
        found.info.settings.get("max_pixels", source_settings.MAX_PIXELS)
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
            initializer=opencv.use_one_thread,
        ):
            for some_faults in results:
                faults += some_faults
            progress.update(len(block))
    return faults


def _blocks(tasks: Sequence[_Task]) -> Iterator[Sequence[_Task]]:
    for start in range(0, len(tasks), _BLOCK_RECORDS):
        yield tasks[start : start + _BLOCK_RECORDS]


def _check_head(found: manifest.Manifest) -> list[Fault]:
    """Compare the counts in manifest.json with those of the rows."""
    path = found.directory / manifest.HEAD_NAME
    head = json.loads(path.read_text(encoding="ascii"))
    counts = {"counts": found.counts(), "files": found.tally.files()}
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
