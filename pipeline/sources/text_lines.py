"""A text file from a stranger -> its lines, one by one, in bounded memory."""

import gzip
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.system.errors import DataError

MAX_LINE_BYTES = 4096
# A million photos take some 100 MB of list.
_MAX_FILE_BYTES = 2 << 30


def read_lines(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[str]:
    r"""Yields the lines of a UTF-8 file, each but perhaps the last with its "\n".

    A byte order mark and carriage returns at the ends of lines are left out; bytes that
    are no UTF-8 become lone surrogates, as in paths. What ends in .gz is unpacked.

    Raises:
        DataError: no such file, not a plain one, larger than 2 GB, damaged, in
            UTF-16, or a line with a zero byte or of more than `max_line_bytes`.
    """
    _check_plain(path)
    left = _MAX_FILE_BYTES
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            number = 0
            while line := file.readline(max_line_bytes + 1):
                number += 1
                left -= len(line)
                if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise DataError(f"{path}: is UTF-16; save it as UTF-8")
                if len(line) > max_line_bytes or left < 0 or b"\0" in line:
                    raise DataError(
                        f"{path} line {number}: {_fault(line, left)}; is it a list?"
                    )
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                yield _decode(line)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error})") from error


def _check_plain(path: Path) -> None:
    try:
        about = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # a zero byte in the name
        raise DataError(f"{path}: {error}") from error
    if not stat.S_ISREG(about.st_mode):
        raise DataError(f"{path}: not a plain file; expected a list as text")
    if about.st_size > _MAX_FILE_BYTES:
        raise DataError(f"{path}: {about.st_size:,} bytes are no list of photos")


def _fault(line: bytes, left: int) -> str:
    if left < 0:
        return f"more than {_MAX_FILE_BYTES >> 30} GB of text"
    if b"\0" in line:
        return "holds a zero byte"
    return f"longer than {len(line) - 1:,} bytes"


def _decode(line: bytes) -> str:
    end = "\n" if line.endswith(b"\n") else ""
    return line.rstrip(b"\r\n").decode("utf-8", "surrogateescape") + end
