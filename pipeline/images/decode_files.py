"""Decode the files of a source to rows of the manifest and records, in workers.

A worker returns rows, and writes the records to a part file of its own in the staging
folder. The part files are joined later, in the order of the manifest.
"""

import dataclasses
import functools
import hashlib
import operator
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from pipeline.images import file_headers, opencv, photo_pixels, record_image
from pipeline.records import staging, stored_photo, tfrecord
from pipeline.records.manifest_row import Code, ImageError, Row
from pipeline.records.previous_dataset import PreviousDataset, outdated_rows
from pipeline.sources.photo_source import Source, SourcePhoto
from pipeline.system import command_line, file_system, platform_support, process_pool
from pipeline.system.errors import DataError
from pipeline.system.remote.bucket import BucketPath


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One file for a worker.

    The record of `previous`, the row of its path in the previous data set, stays if it
    `may_keep` and the file and its class have not changed.
    """

    photo: SourcePhoto
    label: int  # 0-based; -1 for a file outside any class
    previous: Row | None = None
    may_keep: bool = False

    def __str__(self) -> str:
        return self.photo.path


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """Options of decoding, the same for all files; see encode_for_record."""

    root: Path  # source folder
    directory: Path | None = None  # data set, whose records may stay
    part_dir: Path | None = None  # has the staging folder; None writes no records
    resize_min: int
    max_pixels: int  # above this, a photo is refused undecoded
    white_level: int = 0
    refuse_animated: bool = False


# Folders of photos also hold videos and archives, which are not read into memory.
_MAX_FILE_BYTES = 512 << 20


def start_worker() -> None:
    """Prepare a worker process, which only decodes: stderr is the decoders' alone."""
    platform_support.collect_stderr()
    opencv.use_one_thread()


def part_name(number: int) -> str:
    """Return the name of a part file of records, relative to the data set."""
    return f"{staging.PARTIAL_NAME}/{number}.part"


def convert_block(options: DecodeOptions, block: Sequence[Task]) -> list[Row | None]:
    """Return the rows of files, None where that of the previous data set stays."""
    if options.part_dir is None:
        return [_convert_file(options, task)[0] for task in block]
    rows: list[Row | None] = []
    name = part_name(os.getpid())
    with (options.part_dir / name).open("ab") as part:
        for task in block:
            row, record = _convert_file(options, task)
            if row and record:
                row = dataclasses.replace(row, file=name, offset=part.tell())
                part.write(record)
            rows.append(row)
    return rows


def crashed(task: Task) -> Row:
    """Return the row of a file that took its worker process down."""
    crash = ImageError(Code.DECODER_CRASHED, "the decoder crashed on this file")
    return _skipped(task, crash)


def digest_block(root: Path, photos: Sequence[SourcePhoto]) -> list[bytes]:
    """Return a digest of each photo; only photos with the same pixels share one."""
    digests = []
    for photo in photos:
        try:
            digests.append(photo_pixels.digest(read(root, photo)))
        except ImageError:  # the file has changed since it was decoded
            digests.append(no_digest(photo))
    return digests


def no_digest(photo: SourcePhoto) -> bytes:
    """Return a digest that no other photo has, for one that does not decode."""
    return hashlib.sha256(os.fsencode(photo.path)).digest()


def _skipped(task: Task, error: ImageError, sha256: str = "", size: int = 0) -> Row:
    """Return the row of a file without a record.

    A file that cannot be read now keeps the SHA-256 of the previous data set, and with
    it its split.
    """
    return Row(
        path=task.photo.path,
        class_name=task.photo.class_name,
        sha256=sha256 or (task.previous.sha256 if task.previous else ""),
        source_bytes=size,
        action="skipped",
        codes=(error.kind,),
        reason=str(error),
    )


def _convert_file(options: DecodeOptions, task: Task) -> tuple[Row | None, bytes]:
    """Return the row of a file and its framed record, b"" if it is skipped.

    The row is None if the row of the previous data set stays.
    """
    photo, sha256, size = task.photo, "", 0
    try:
        data = read(options.root, photo)
        sha256, size = hashlib.sha256(data).hexdigest(), len(data)
        if _keeps_record(options, task, sha256):
            return None, b""
        if not photo.class_name:
            raise ImageError(Code.NO_CLASS, "not in a class folder")
        stored = record_image.encode_for_record(
            data,
            resize_min=options.resize_min,
            white_level=options.white_level,
            refuse_animated=options.refuse_animated,
        )
    except ImageError as error:
        return _skipped(task, error, sha256, size), b""
    fields = dict(vars(stored))
    example = stored_photo.Record(
        encoded=fields.pop("encoded"),
        format=stored.format,
        height=stored.height,
        width=stored.width,
        label=task.label,
        class_name=photo.class_name,
        path=photo.path,
        sha256=sha256,
    )
    record = tfrecord.frame(stored_photo.serialize(example))
    if file_headers.has_wrong_ending(photo.path, file_headers.sniff(data)):
        fields["codes"] += (Code.WRONG_ENDING,)
    if options.part_dir is None and photo_pixels.has_wide_gamut(data):  # a check
        fields["codes"] += (Code.WIDE_GAMUT,)
    row = Row(
        path=photo.path,
        class_name=photo.class_name,
        sha256=sha256,
        source_bytes=size,
        length=len(record),
        **fields,
    )
    return row, record


def _keeps_record(options: DecodeOptions, task: Task, sha256: str) -> bool:
    """Return whether the record of the previous data set stays."""
    row, directory = task.previous, options.directory
    if not (row and directory and task.may_keep):
        return False
    source_class = row.corrected_from or row.class_name
    if (row.sha256, source_class) != (sha256, task.photo.class_name):
        return False
    try:
        encoded = stored_photo.StoredPhotos(directory).record(row).encoded
    except (DataError, OSError):  # damaged: it is written again
        return False
    header = file_headers.JpegHeader.read(encoded)
    return not (row.action == "copied" and header and header.oddity)


def read(root: Path, photo: SourcePhoto) -> bytes:
    """Read a photo of a source, or raise ImageError; never wait for a pipe."""
    name, offset, length = photo.span or (photo.path, 0, None)
    try:
        if file_system.is_remote(str(root)):
            path = BucketPath(f"{root}/{name}")
            size = path.stat().st_size if length is None else length
            return path.read(offset, _checked_size(size))
        with open(f"{root}/{name}", "rb", opener=open_regular) as file:
            size = file.seek(0, os.SEEK_END) if length is None else length
            file.seek(offset)
            return file.read(_checked_size(size))
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise ImageError(Code.UNREADABLE, message) from error


def _checked_size(size: int) -> int:
    if size > _MAX_FILE_BYTES:
        message = f"larger than {_MAX_FILE_BYTES >> 20} MB, so not a photo"
        raise ImageError(Code.TOO_MANY_BYTES, message)
    return size


def open_regular(path: str, flags: int) -> int:
    """Open a regular file for the `opener` of open(); refuse pipes and devices."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError(Code.UNREADABLE, "not a regular file")
    return descriptor


class Runner:
    """Do the work of a conversion in processes and threads of this machine."""

    def __init__(self, num_workers: int) -> None:
        """Store the number of processes; 0 means one for each processor."""
        self._num_workers = num_workers

    def convert(
        self, options: DecodeOptions, tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Row | None]]:
        """Decode files; yield each with its row, None where the previous row stays."""
        return process_pool.map_blocks(
            functools.partial(convert_block, options),
            tasks,
            on_crash=crashed,
            initializer=start_worker,
            num_workers=self._num_workers,
        )

    def call(self, functions: Sequence[Callable[[], Any]]) -> None:
        """Call functions that write files."""
        with futures.ThreadPoolExecutor(command_line.available_cpus()) as pool:
            list(pool.map(operator.call, functions))  # raises what they raise


def decode(
    options: DecodeOptions,
    source: Source,
    previous: PreviousDataset | None,
    runner: Runner,
    settings: Mapping[str, int | str],
) -> list[Row]:
    """Decode every file whose record cannot stay; return a row for each, in order.

    Records of the previous data set may stay if it had the same `settings`, which
    determine records and hashes. A row names a part file, or a record file of the
    previous data set; only rows of the latter have group and split.
    """
    rows: list[Row] = []
    opencv.limit_pixels(options.max_pixels)
    what = "check" if options.part_dir is None else "convert"
    with command_line.progress(len(source.photos), "photo", what) as progress:
        for task, row in runner.convert(options, _tasks(source, previous, settings)):
            rows.append(_shared(task, row))
            progress.update()
    return rows


def _shared(task: Task, row: Row | None) -> Row:
    """Return the row of a task, sharing texts and rows that are in memory already."""
    photo = task.photo
    if row is not None:
        return dataclasses.replace(row, path=photo.path, class_name=photo.class_name)
    if task.previous is None:
        raise RuntimeError(f"{photo.path}: no row to keep")
    return task.previous


def _tasks(
    source: Source, previous: PreviousDataset | None, settings: Mapping[str, int | str]
) -> Iterator[Task]:
    """Yield one task a file, in the order of the paths."""
    reusable, outdated = set[str](), set[str]()
    if previous is not None:
        # Class names determine the labels in records, `settings` the rest.
        info = previous.manifest.info
        same_settings = settings.items() <= ({"white_level": 0} | info.settings).items()
        if same_settings and info.class_names == source.class_names:
            reusable = previous.intact_files()
        outdated = {row.path for row in outdated_rows(previous.manifest)}
    for photo in source.photos:
        row = previous.row_at(photo.path) if previous else None
        is_usable = row and row.is_included and row.file in reusable
        yield Task(
            photo=photo,
            label=source.labels.get(photo.class_name, -1),
            previous=row,
            may_keep=bool(is_usable and photo.path not in outdated),
        )
