"""Files of a block -> records and lines of the manifest, in files of this process.

This runs in worker processes, which hand back a few numbers for each file: the bytes of
records and lines stay on disk, until the records are joined in the manifest's order.
"""

import dataclasses
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.images import errors, file_headers, opencv, record_image
from pipeline.images.errors import ImageError
from pipeline.records import example_format, file_table, manifest, tfrecord
from pipeline.records.reasons import Code
from pipeline.sources import photo_source
from pipeline.system import file_system, standard_error
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One file for a worker.

    Attributes:
        path: relative to the source folder.
        class_name: "" outside any class.
        label: 0-based; -1 outside any class.
        known: its row, if its record may be kept as long as the file is the same.
        known_file: what stands for the file of that record in table.FOUND.
        known_sha256: of the file as it was known; "" if it was not.
        span: where its bytes lie.
    """

    path: str
    class_name: str
    label: int
    span: photo_source.Span
    known: manifest.Row | None = None
    known_file: int = file_table.NO_RECORD
    known_sha256: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """What is the same for all files.

    Attributes:
        root: source folder.
        partial: staging folder for the parts.
        directory: of the data set, where known records lie.
        resize_min: longest short side of a record's image, in pixels; 0: no limit.
        max_pixels: larger photos are refused, before they are decoded.
        refuse_animated: takes no animation, rather than its first frame.
        keeps_records: writes the records, and not only what is known of the files.
    """

    root: Path
    partial: Path
    directory: Path
    resize_min: int
    max_pixels: int
    refuse_animated: bool = False
    keeps_records: bool = True

    @property
    def settings(self) -> dict[str, int | str]:
        """What decides a record's bytes, as a data set's settings have it."""
        return {
            "resize_min": self.resize_min,
            "max_pixels": self.max_pixels,
            "animated": "refuse" if self.refuse_animated else "first",
        }


# Videos and archives lie among photos; none of them is read into memory.
_MAX_FILE_BYTES = 512 << 20
# Set in each worker process by start_worker.
_messages: standard_error.Collector | None = None


def start_worker() -> None:
    """Prepares a worker process: it only decodes, so its stderr is the decoders'."""
    global _messages
    _messages = standard_error.Collector()
    opencv.use_one_thread()


def part_path(partial: Path, number: int) -> Path:
    """The file with the records of a process."""
    return partial / f"{number}.part"


def convert_block(how: How, block: Sequence[Task]) -> file_table.Segment:
    """Decodes a block of files in a worker process."""
    found = np.zeros(len(block), file_table.FOUND)
    lines = []
    with part_path(how.partial, os.getpid()).open("ab") as file:
        for number, task in enumerate(block):
            row, record = _convert_file(how, task)
            lines.append(manifest.own_text(row) + "\n")
            place, offset = file_table.NO_RECORD, 0
            if record and how.keeps_records:
                place, offset = os.getpid(), file.tell()
                file.write(record)
            elif row.is_included:
                place, offset = task.known_file, row.offset
            found[number] = _entry(row, place, offset)
    return _segment(how.partial, lines, found)


def digest_block(root: Path, spans: Sequence[photo_source.Span]) -> list[bytes]:
    """What photos have in common with others of the same pixels alone."""
    found = []
    for span in spans:
        try:
            found.append(opencv.digest(read(root, span)))
        except (OSError, ImageError):  # it was changed a moment ago
            found += no_digest(span)
    return found


def no_digest(span: photo_source.Span) -> list[bytes]:
    """The same of a photo that does not decode."""
    return [hashlib.sha256(repr(span).encode()).digest()]


def crashed(how: How, task: Task) -> file_table.Segment:
    """What is told of a file that took its worker down."""
    row = _skipped(task, Code.DECODER_CRASHED, "the decoder crashed on this file")
    found = np.array([_entry(row, file_table.NO_RECORD, 0)], file_table.FOUND)
    return _segment(how.partial, [manifest.own_text(row) + "\n"], found)


def _entry(row: manifest.Row, place: int, offset: int) -> tuple[object, ...]:
    """What stands for a file in table.FOUND."""
    digest, action = bytes.fromhex(row.sha256), file_table.ACTIONS.index(row.action)
    return digest, int(row.phash or "0", 16), row.length, offset, place, action


def _segment(partial: Path, lines: list[str], found: np.ndarray) -> file_table.Segment:
    name, text = f"{os.getpid()}.lines", "".join(lines).encode("ascii")
    with (partial / name).open("ab") as file:
        start = file.tell()
        file.write(text)
    return file_table.Segment(name=name, start=start, size=len(text), found=found)


def _skipped(
    task: Task, code: Code, reason: str, sha256: str = "", size: int = 0
) -> manifest.Row:
    """The row of a file of which no record is made.

    One that cannot be read now keeps the hash it was known by, and so its split.
    """
    return manifest.Row(
        path=task.path,
        class_name=task.class_name,
        sha256=sha256 or task.known_sha256,
        source_bytes=size,
        action="skipped",
        codes=(code,),
        reason=reason,
    )


def _convert_file(how: How, task: Task) -> tuple[manifest.Row, bytes]:
    """Returns the row and the framed record; b"" if skipped or known already."""
    try:
        data = read(how.root, task.span)
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        return _skipped(task, Code.UNREADABLE, reason), b""
    except ImageError as error:
        return _skipped(task, error.kind, str(error)), b""
    sha256 = hashlib.sha256(data).hexdigest()
    if task.known and task.known.sha256 == sha256 and _is_intact(how, task.known):
        return task.known, b""
    if not task.class_name:
        reason = "not in a class folder"
        return _skipped(task, Code.NO_CLASS, reason, sha256, len(data)), b""
    try:
        stored = record_image.encode_for_record(
            data,
            resize_min=how.resize_min,
            refuse_animated=how.refuse_animated,
            messages=_messages,
        )
    except ImageError as error:
        return _skipped(task, error.kind, str(error), sha256, len(data)), b""
    except MemoryError:
        refused = errors.out_of_memory()
        return _skipped(task, refused.kind, str(refused), sha256, len(data)), b""
    record = tfrecord.frame(
        example_format.serialize(
            example_format.Record(
                encoded=stored.encoded,
                format=stored.format,
                height=stored.height,
                width=stored.width,
                label=task.label,
                class_name=task.class_name,
                path=task.path,
                sha256=sha256,
            )
        )
    )
    codes = stored.codes
    if file_headers.has_wrong_ending(task.path, file_headers.sniff(data)):
        codes = (*codes, Code.WRONG_ENDING)
    row = manifest.Row(
        path=task.path,
        class_name=task.class_name,
        sha256=sha256,
        phash=stored.phash,
        source_bytes=len(data),
        format=stored.format,
        height=stored.height,
        width=stored.width,
        orientation=stored.orientation,
        action=stored.action,
        codes=codes,
        reason=stored.reason,
        length=len(record),
    )
    return row, record


def _is_intact(how: How, row: manifest.Row) -> bool:
    """Whether a known record is still what was written."""
    try:
        with (how.directory / row.file).open("rb") as file:
            tfrecord.read_from(file, row.offset, row.length, row.file)
    except (DataError, OSError):
        return False
    return True


def read(root: Path, span: photo_source.Span) -> bytes:
    """A file or a part of it, in few system calls; never waits for a pipe.

    Raises:
        image.ImageError: no file that could be a photo.
        OSError: cannot be read.
    """
    name, offset, length = span
    path = f"{root}/{name}"
    if file_system.is_remote(path):
        return _read_remote(file_system.path(path), offset, length)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ImageError(Code.UNREADABLE, "not a regular file")
        size = about.st_size if length == photo_source.WHOLE else length
        _check_size(size)
        data = os.pread(descriptor, size, offset)
        while len(data) < size:  # some network file systems give less
            more = os.pread(descriptor, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(descriptor)


def _read_remote(path: Path, offset: int, length: int) -> bytes:
    size = path.stat().st_size if length == photo_source.WHOLE else length
    _check_size(size)
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _check_size(size: int) -> None:
    if size > _MAX_FILE_BYTES:
        raise ImageError(
            Code.TOO_MANY_BYTES, f"larger than {_MAX_FILE_BYTES >> 20} MB, no photo"
        )
