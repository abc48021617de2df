"""A CSV file of photos, `path,label,split` -> a source; and its rows, for others.

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
    """Lists the photos of a CSV file.

    Args:
        root: the folder that its paths are relative to.
        path: of the file; its header names the columns path, label and, if there is
            one, split (train, validation, test or nothing); others are ignored.
        names: of the classes, for labels that are numbers; None takes labels as names.

    Raises:
        DataError: no such columns, a row without path or label, a label that
            fits no class, a photo with two labels or in two splits, or as
            listing.check.
    """
    rows = listed_photos.Rows(root, [path], _entries(path))
    found = (
        class_labels.resolve(rows.first, names)
        if names
        else class_labels.as_names(rows.first)
    )
    return rows.source(root, "CSV", found, path.name)


def _entries(path: Path) -> Iterator[listed_photos.Entry]:
    columns = {"path": ("path",), "label": ("label",)}
    for line, row in read_rows(path, columns, {"split": ("split",)}):
        where = f"{path} line {line}"
        for name in columns:
            if not row[name]:
                raise DataError(f"{where}: no {name}")
        yield listed_photos.Entry(
            path=row["path"],
            label=row["label"],
            split=listed_photos.split_of(row["split"], where),
            file=0,
            line=line,
        )


def read_rows(
    path: Path, needed: Columns, optional: Columns
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the number of its last line and some columns of each row of a CSV file.

    Args:
        path: of the file, which may end in .csv.gz.
        needed: {name of a column here: what its header may be}.
        optional: likewise; "" where there is none.

    Raises:
        DataError: no text, a needed column is missing or there twice, or a row
            has more or fewer fields than the header.
    """
    reader = csv.reader(text_lines.read_lines(path), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise DataError(f"{path}: empty; expected a header of column names")
        places = _places(path, header, needed, optional)
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{path} line {reader.line_num}: {len(fields)} fields, the header "
                    f"has {len(header)}; fields with commas need quotes"
                )
            yield (
                reader.line_num,
                {
                    name: "" if place is None else fields[place].strip()
                    for name, place in places.items()
                },
            )
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}") from error


def _places(
    path: Path, header: Sequence[str], needed: Columns, optional: Columns
) -> dict[str, int | None]:
    titles = [title.strip().lower() for title in header]
    places: dict[str, int | None] = {}
    for name, aliases in {**needed, **optional}.items():
        found = [place for place, title in enumerate(titles) if title in aliases]
        if len(found) > 1 or (not found and name in needed):
            columns = ", ".join(repr(title[:40]) for title in header[:20])
            if len(header) == 1 and re.search("[;\t]", header[0]):
                columns += "; fields need commas between them"
            raise DataError(
                f"{path}: expected one column {' or '.join(aliases)}, found "
                f"{len(found)}; the header has {columns}"
            )
        places[name] = found[0] if found else None
    return places
