"""Verify that records are what the manifest says, photo by photo."""

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.images import file_headers, opencv
from pipeline.records import manifest, stored_photo
from pipeline.records.manifest_row import ImageError, Row
from pipeline.system import command_line, process_pool
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """A record for a worker: its row, its number in its file, its label."""

    row: Row
    index: int
    label: int

    def __str__(self) -> str:
        return self.row.path

    def fault(self, problem: str) -> str:
        """Return a problem with its place; "" for no problem."""
        place = f"{self.row.file} record {self.index}: {self.row.path}"
        return f"{place}: {problem}" if problem else ""


def verify(converted: manifest.Manifest, *, num_workers: int = 0) -> list[str]:
    """Read every record: checksums, all features, and its pixels in full.

    What `manifest.read` checks is not checked again. The result is the first fault of
    each record and file, with its place.
    """
    faults = _check_head(converted)
    tasks: list[_Task] = []
    rows_of: dict[str, list[Row]] = collections.defaultdict(list)
    for row in converted.included():
        rows_of[row.file].append(row)
    for name, rows in sorted(rows_of.items()):
        rows.sort(key=lambda row: row.offset)
        of_file = [
            _Task(row=row, index=index, label=converted.labels[row.class_name])
            for index, row in enumerate(rows)
        ]
        path = converted.directory / name
        faults += _check_file(path, of_file)
        if path.is_file():
            tasks += of_file
    settings = converted.info.settings
    opencv.limit_pixels(settings.get("max_pixels", file_headers.MAX_PIXELS))
    with command_line.progress(len(tasks), "record", "check") as progress:
        for _, fault in process_pool.map_blocks(
            functools.partial(_check_block, converted.directory),
            tasks,
            on_crash=lambda task: task.fault("the decoder crashed on it"),
            initializer=opencv.use_one_thread,
            num_workers=num_workers,
        ):
            faults += [fault] * bool(fault)
            progress.update()
    return faults


def _check_head(converted: manifest.Manifest) -> list[str]:
    """Compare the counts in manifest.json with those of the rows."""
    path = converted.directory / manifest.HEAD_NAME
    head = json.loads(path.read_text(encoding="ascii"))
    counts: dict[str, Any] = {"counts": converted.counts()}
    # Earlier versions counted photos that are gone as skipped.
    if not any(row.is_gone for row in converted.rows):
        counts["files"] = converted.tally.files()
    return [
        f"{manifest.HEAD_NAME}: its {name} are not those of {manifest.ROWS_NAME}"
        for name, expected in counts.items()
        if head.get(name) != expected
    ]


def _check_file(path: Path, tasks: Sequence[_Task]) -> list[str]:
    """Check that the records of a file leave no gap in it."""
    if not path.is_file():
        return [f"{path.name}: missing, with {len(tasks)} records"]
    end = 0
    for task in tasks:
        if task.row.offset != end:
            return [task.fault(f"starts at byte {task.row.offset}, expected {end}")]
        end += task.row.length
    if (size := path.stat().st_size) != end:
        return [f"{path.name}: has {size:,} bytes, expected {end:,}"]
    return []


def _check_block(directory: Path, block: Sequence[_Task]) -> list[str]:
    """Return the fault of each record, "" for none, in a worker process."""
    photos = stored_photo.StoredPhotos(directory)
    return [task.fault(_problem(photos, task)) for task in block]


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
    header = file_headers.JpegHeader.read(record.encoded)
    if row.action == "copied" and header and header.oddity:
        return f"{header.oddity.text}: convert the photos into this folder again"
    try:
        pixels = opencv.decode_rgb(record.encoded)
    except ImageError as error:
        return str(error)
    if pixels.shape[:2] != (row.height, row.width):
        height, width = pixels.shape[:2]
        return f"decodes to {width} x {height}, expected {row.width} x {row.height}"
    return ""


def _differences(record: stored_photo.Record, task: _Task) -> list[str]:
    """Return the features that are not as the manifest says."""
    differences = []
    for name, attribute in stored_photo.FEATURES.items():
        if attribute == "encoded":  # its SHA-256 and pixels tell
            continue
        value = getattr(record, attribute)
        expected = task.label if attribute == "label" else getattr(task.row, attribute)
        if value != expected:
            differences.append(f"{name} is {value!r:.80}, expected {expected!r:.80}")
    return differences
