"""Files of a block -> records in a part file; part files -> one record file per class.

The first half runs in worker processes, which hand back only rows: the records' bytes
stay on disk. The second half joins them in the order of the manifest.
"""

import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from pipeline import image, manifest, records, schema, sources


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One file for a worker.

    Attributes:
        file: of the source.
        label: 0-based label of its class; -1 outside any class.
        known: its row, if its record may be kept as long as the file is the same.
    """

    file: sources.SourceFile
    label: int
    known: manifest.Row | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of a file.

    Attributes:
        row: without split, and without the record's final place.
        file: where the record's bytes lie now; None if skipped.
        offset: in that file.
    """

    row: manifest.Row
    file: Path | None
    offset: int


# Videos and archives lie among photos; none of them is read into memory.
_MAX_FILE_BYTES = 512 << 20
# Set in each worker process by start_worker.
_messages: image.DecoderMessages | None = None


def start_worker() -> None:
    """Prepares a worker process: it only decodes, so its stderr is the decoders'."""
    global _messages
    _messages = image.DecoderMessages()
    image.use_one_thread()


def convert_block(
    root: Path, partial: Path, directory: Path, resize_min: int, block: Sequence[Task]
) -> list[Answer]:
    """Decodes a block of files in a worker process; adds its records to its part.

    Args:
        root: source folder.
        partial: staging folder for the part.
        directory: where the records of known files lie.
        resize_min: longest short side of a record's image, in pixels.
        block: the files.
    """
    part = partial / f"{os.getpid()}.part"
    answers = []
    with part.open("ab") as file:
        for task in block:
            answer, record = _convert_file(root, resize_min, task)
            if record:
                answer = dataclasses.replace(answer, file=part, offset=file.tell())
                file.write(record)
            elif answer.row.taken:
                answer = dataclasses.replace(
                    answer, file=directory / answer.row.file, offset=answer.row.offset
                )
            answers.append(answer)
    return answers


def _convert_file(root: Path, resize_min: int, task: Task) -> tuple[Answer, bytes]:
    """Returns the answer and the framed record; b"" if skipped or known already."""
    path, class_name = task.file.path, task.file.class_name

    def skipped(reason: str, sha256: str = "", size: int = 0) -> tuple[Answer, bytes]:
        row = manifest.Row(
            path=path,
            class_name=class_name,
            sha256=sha256,
            source_bytes=size,
            action="skipped",
            reason=reason,
        )
        return Answer(row=row, file=None, offset=0), b""

    try:
        data = _read(f"{root}/{path}")
    except OSError as error:
        return skipped(f"cannot be read: {error.strerror}")
    except image.ImageError as error:
        return skipped(str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    if task.known and task.known.sha256 == sha256:
        return Answer(row=task.known, file=None, offset=0), b""
    if not task.file.class_name:
        return skipped("not in a class folder", sha256, len(data))
    try:
        stored = image.encode_for_record(
            data, resize_min=resize_min, messages=_messages
        )
    except image.ImageError as error:
        return skipped(str(error), sha256, len(data))
    except MemoryError:
        return skipped("too large for this machine's memory", sha256, len(data))
    record = records.frame(
        schema.serialize(
            {
                "image/encoded": stored.encoded,
                "image/format": stored.format.encode(),
                "image/height": stored.height,
                "image/width": stored.width,
                "image/class/label": task.label,
                "image/class/text": os.fsencode(task.file.class_name),
                "image/filename": os.fsencode(task.file.path),
                "image/sha256": sha256.encode(),
            }
        )
    )
    row = manifest.Row(
        path=path,
        class_name=class_name,
        sha256=sha256,
        source_bytes=len(data),
        format=stored.format,
        height=stored.height,
        width=stored.width,
        orientation=stored.orientation,
        action=stored.action,
        reason=stored.reason,
        group=sha256,
        length=len(record),
    )
    return Answer(row=row, file=None, offset=0), record


def _read(path: str) -> bytes:
    """A whole file, in as few system calls as can be; never waits for a pipe.

    Raises:
        image.ImageError: no file that could be a photo.
        OSError: cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise image.ImageError("not a regular file")
        if about.st_size > _MAX_FILE_BYTES:
            limit = _MAX_FILE_BYTES >> 20
            raise image.ImageError(f"larger than {limit} MB, no photo")
        data = os.read(descriptor, about.st_size)
        while len(data) < about.st_size:  # some network file systems give less
            more = os.read(descriptor, about.st_size - len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(descriptor)


def crashed(task: Task) -> Answer:
    """The answer for a file that took its worker down."""
    row = manifest.Row(
        path=task.file.path,
        class_name=task.file.class_name,
        sha256="",
        source_bytes=0,
        action="skipped",
        reason="the decoder crashed on this file",
    )
    return Answer(row=row, file=None, offset=0)


def join(
    members: Sequence[manifest.Row], done: Mapping[str, Answer], target: Path
) -> None:
    """Writes the records of `members`, in their order, into one file."""
    with target.open("wb") as out:
        for path, start, length in _runs(members, done):
            with path.open("rb") as part:
                part.seek(start)
                _copy(part, out, length)


def _runs(
    members: Sequence[manifest.Row], done: Mapping[str, Answer]
) -> Iterator[tuple[Path, int, int]]:
    """Merges neighbouring records of one file into (file, offset, length) runs."""
    path, start, length = Path(), 0, 0
    for row in members:
        answer = done[row.path]
        if answer.file is None:
            raise RuntimeError(f"{row.path} is taken but has no record")
        if answer.file == path and answer.offset == start + length:
            length += row.length
            continue
        if length:
            yield path, start, length
        path, start, length = answer.file, answer.offset, row.length
    yield path, start, length


def _copy(part: BinaryIO, out: BinaryIO, length: int) -> None:
    while length:
        chunk = part.read(min(length, 1 << 20))
        if not chunk:
            raise schema.DataError(f"{part.name}: ended early while it was copied")
        out.write(chunk)
        length -= len(chunk)
