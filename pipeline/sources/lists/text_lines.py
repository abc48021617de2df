"""Read the lines of a text file, or the rows of a CSV file, in any encoding."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

_MAX_BYTES = 128 << 20  # of the unpacked file
_MAX_LINE, _MAX_LINES = 1 << 20, 2 << 20  # characters of a line, lines
_ENCODINGS = {
    b"\xef\xbb\xbf": "UTF-8",
    b"\xff\xfe": "UTF-16-LE",
    b"\xfe\xff": "UTF-16-BE",
}
# What may separate columns, and a first line that tells it to Excel.
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_DELIMITER_LINE = re.compile(r'"?sep=([,;|\t])"?\s*', re.IGNORECASE)


def read(path: Path) -> list[str]:
    r"""Return the lines of a text file, each with its "\n".

    It is UTF-8, UTF-16 with a byte order mark, or Windows-1252, which is logged. A file
    that ends in .gz is unpacked. "\r" and "\r\n" end lines as well.
    """
    try:
        file_system.regular(path)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    num_lines = max(data.count(b"\n"), data.count(b"\r"))
    if len(data) > _MAX_BYTES or num_lines > _MAX_LINES:
        raise DataError(
            f"{path}: has more than {_MAX_BYTES >> 20} MB or {_MAX_LINES:,} lines. "
            "Expected a list of photos or classes"
        )
    text, guess = _decode(data, path)
    lines = list(io.StringIO(text, newline=None))
    for number, line in enumerate(lines, start=1):
        if "\0" in line or len(line) > _MAX_LINE:
            found = "a zero byte" if "\0" in line else f"{len(line):,} characters"
            found += " (an Excel workbook?)" if data.startswith(b"PK") else ""
            raise DataError(f"{path} line {number}: has {found}. Expected a text file")
    if guess:
        command_line.note(guess)
    return lines


def _decode(data: bytes, path: Path) -> tuple[str, str]:
    """Return the text, and what was guessed about its encoding."""
    mark = next(filter(data.startswith, _ENCODINGS), b"")
    encoding = _ENCODINGS.get(mark, "UTF-8")
    data = data.removeprefix(mark)
    try:
        return data.decode(encoding), ""
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    # Text in Windows-1252 hardly ever contains a letter that is valid UTF-8.
    escaped = data.decode("utf-8", "surrogateescape")
    if mark or re.search("[^\0-\x7f\udc80-\udcff]", escaped):
        raise DataError(
            f"{path} line {line}: is not {encoding}, although other lines are. Save "
            "the whole file as UTF-8"
        )
    try:
        text, encoding = data.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError:
        text, encoding = data.decode("latin-1"), "Latin-1"
    word = re.search(r"[^\s,;|]{,20}[^\0-\x7f][^\s,;|]{,20}", text)
    example = word[0] if word else ""
    return text, (
        f"{path}: is not UTF-8, so it was read as {encoding}, as in {example!r}. If "
        "that is wrong, save it as UTF-8"
    )


def read_table(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return line number and {title: field} of the rows of a CSV file.

    Each of the columns `needed` must be there once; others are allowed.
    """
    (_, titles), *rows = split_rows(path, read(path))
    for name in needed:
        if titles.count(name) != 1:
            found = ", ".join(titles)[:200]
            raise DataError(f"{path}: expected one column {name}, found {found}")
    return [(line, dict(zip(titles, fields, strict=True))) for line, fields in rows]


def split_rows(path: Path, lines: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Return line number and fields of the rows of a CSV file with these lines.

    The delimiter is the most frequent one in the header, the first row, or the one in
    Excel's first line, such as "sep=;". Spaces around fields and blank rows are
    removed.
    """
    match = _DELIMITER_LINE.fullmatch(lines[0]) if lines else None
    start = 1 if match else 0
    header = next(filter(str.strip, lines[start:]), "")
    delimiter = match[1] if match else max(_DELIMITERS, key=header.count)
    if delimiter != "," and not match:
        command_line.note(f"{path}: {_DELIMITERS[delimiter]} separate the columns")
    reader = csv.reader(lines[start:], delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    number = start
    try:
        for fields in reader:
            number = start + reader.line_num
            if "".join(fields).strip():
                rows.append((number, [field.strip() for field in fields]))
    except csv.Error as error:
        raise DataError(
            f"{path} line {number + 1}: {error}. Perhaps a quote is not closed. Inside "
            'a quoted field, write "" for a quote'
        ) from error
    if not rows:
        raise DataError(f"{path}: is empty. Expected a header of column names")
    width = len(rows[0][1])
    for number, fields in rows:
        if len(fields) != width:
            raise DataError(
                f"{path} line {number}: has {len(fields)} fields. Expected {width}, as "
                f"in the header. Put quotes around fields with {_DELIMITERS[delimiter]}"
            )
    return rows
