"""Read a CSV file of photos, `path,label,split`, as a source.

path,label,split
a/1.jpg,daisy,train
"b, c/2.jpg",roses,
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.sources import class_labels, listed_photos, photo_source, text_lines
from pipeline.system.errors import DataError

Columns = Mapping[str, Sequence[str]]


def list_photos(
    root: Path, path: Path, names: class_labels.Names | None
) -> photo_source.Source:
    """List the photos of a CSV file.

    Args:
        root: folder that the paths in the file are relative to.
        path: CSV file. Its header names the columns path, label and, if there are
            splits, split; other columns are ignored.
        names: names of the classes, for labels that are numbers; None takes the labels
            as class names.

    Raises:
        DataError: a row or a label is wrong, a photo has two labels or splits, or
            photo_source.check refuses the source.
    """
    listed = listed_photos.ListedPhotos(root, [path], _entries(path))
    if names:
        classes = class_labels.resolve(listed.first, names)
    else:
        classes = class_labels.as_names(listed.first)
    return listed.to_source("CSV", classes, path.name)


def _entries(path: Path) -> Iterator[listed_photos.Entry]:
    columns = {"path": ("path",), "label": ("label",)}
    for line, row in read_rows(path, columns, {"split": ("split",)}):
        where = f"{path} line {line}"
        for name in columns:
            if not row[name]:
                raise DataError(f"{where}: no {name}")
        split = listed_photos.split_of(row["split"], where)
        yield listed_photos.Entry(row["path"], row["label"], split, path, line)


def read_rows(
    path: Path, needed: Columns, optional: Columns
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of the last line, and columns, of each row of a CSV file.

    Args:
        path: CSV file, which may be gzipped and end in .csv.gz.
        needed: {name of a column: titles that its header may have}.
        optional: the same for columns that may be missing; their values are "" then.

    Raises:
        DataError: the file is not text, a needed column is missing or repeated, or a
            row has more or fewer fields than the header.
    """
    reader = csv.reader(text_lines.read_lines(path), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise DataError(f"{path}: is empty. Expected a header of column names")
        places = _places(path, header, needed, optional)
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{path} line {reader.line_num}: has {len(fields)} fields. "
                    f"Expected {len(header)}, as in the header. Put quotes around "
                    "fields with commas"
                )
            yield (
                reader.line_num,
                {name: fields[place].strip() for name, place in places.items()}
                | dict.fromkeys(optional.keys() - places.keys(), ""),
            )
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}") from error


def _places(
    path: Path, header: Sequence[str], needed: Columns, optional: Columns
) -> dict[str, int]:
    """Return {name of a column: its place in the header}, of those that are there."""
    titles = [title.strip().lower() for title in header]
    places: dict[str, int] = {}
    for name, aliases in {**needed, **optional}.items():
        columns = [place for place, title in enumerate(titles) if title in aliases]
        if len(columns) > 1 or (not columns and name in needed):
            listed = ", ".join(repr(title[:40]) for title in header[:20])
            if len(header) == 1 and re.search("[;\t]", header[0]):
                listed += ". Separate fields by commas"
            raise DataError(
                f"{path}: expected one column {' or '.join(aliases)}, found "
                f"{len(columns)}. The header has {listed}"
            )
        if columns:
            places[name] = columns[0]
    return places
