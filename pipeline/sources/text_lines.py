"""Read the lines of a text file, which may be packed with gzip."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.system.errors import DataError


def read_lines(path: Path) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 file, each but perhaps the last with its "\n".

    A byte order mark and carriage returns at the ends of lines are left out. Bytes that
    are not UTF-8 become lone surrogates, as in paths. A file that ends in .gz is
    unpacked.

    Raises:
        DataError: the file cannot be read, is a damaged gzip file, or is not UTF-8.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                        raise DataError(f"{path}: is UTF-16. Save it as UTF-8")
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if b"\0" in line:
                    raise DataError(
                        f"{path} line {number}: has a zero byte. Expected a text file"
                    )
                end = "\n" if line.endswith(b"\n") else ""
                yield line.rstrip(b"\r\n").decode("utf-8", "surrogateescape") + end
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
