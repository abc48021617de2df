"""Apply the labels that a person has corrected, and keep them in later conversions.

A correction belongs to the content of a photo: it still holds when the file is renamed,
but not when the file holds another photo. The source is never changed.
"""

import collections
import dataclasses
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.records import staging, stored_photo, tfrecord
from pipeline.records.manifest_row import Code, Row
from pipeline.records.previous_dataset import PreviousDataset
from pipeline.sources.lists import text_lines
from pipeline.sources.photo_source import SKIP, Source
from pipeline.system import command_line
from pipeline.system.errors import DataError

_LEFT_OUT = "left out by a correction"
# Earlier versions wrote the second one.
_LEFT_OUT_CODES = {Code.LEFT_OUT_BY_CORRECTION, Code.LEFT_OUT_BY_LIST}


class Correction(NamedTuple):
    """A person's correction of one photo's label."""

    path: str  # relative to the source
    label: str  # class name, or SKIP for a photo to leave out
    sha256: str  # of the file; "" if it is not stated
    reason: str  # why the photo is left out
    where: str = ""  # file and line
    row: Row | None = None  # row that an earlier conversion has corrected


def read(files: str, class_names: Sequence[str]) -> list[Correction]:
    """Read the corrections in comma-separated CSV files, or raise DataError."""
    corrections = []
    names = {_as_listed(n): n for n in class_names} | {n: n for n in class_names}
    for file in filter(None, files.split(",")):
        # Browsers save into the home folder, and shells do not expand "~" after "=".
        path = Path(file).expanduser() if file.startswith("~/") else Path(file)
        for line, entry in text_lines.read_table(path, ["path", "label"]):
            label, where = entry["label"], f"{path} line {line}"
            label = names.get(label, label)
            if "suggested" in entry:
                raise DataError(
                    f"{path}: has a column `suggested`, as doubts.csv has, whose "
                    "labels are not corrected yet. Correct them in the report of "
                    "evaluate.py; or correct the column `label`, delete `suggested`"
                )
            if label == SKIP and SKIP in class_names:
                raise DataError(
                    f"{where}: {SKIP} leaves photos out, but a class has this name. "
                    "Rename the class in the source"
                )
            if label not in (SKIP, *class_names):
                near = difflib.get_close_matches(label, class_names, 1) or class_names
                raise DataError(
                    f"{where}: class {label[:80]!r} is unknown. Expected {SKIP}, or a "
                    f"class of the source, such as {near[0]}. For a new class, put "
                    "photos of it into the source, and convert again"
                )
            reason = ": ".join(filter(None, (_LEFT_OUT, entry.get("note"))))
            sha256 = entry.get("sha256", "").lower()
            corrections.append(Correction(entry["path"], label, sha256, reason, where))
    return corrections


def apply(
    rows: list[Row],
    source: Source,
    given: Sequence[Correction],
    previous: PreviousDataset | None,
    directory: Path,
) -> list[str]:
    """Correct rows and records in place; return a line on corrections that fail.

    `rows` are those of `source.photos`, and records that change go to a part file of
    the data set in `directory`. Earlier corrections stay for photos without new ones.
    """
    earlier = _earlier(previous)
    if not (given or earlier):
        return []
    find = _finder(rows, previous)
    correction_of: dict[int, Correction] = {}
    failed = []
    for correction in (*given, *earlier):
        indices = find(correction)
        if problem := _problem(correction, source, indices):
            failed.append(f"{correction.path}: {problem}")
            continue
        for index in indices:
            other = correction_of.setdefault(index, correction)
            if correction.where and other.label != correction.label:
                raise DataError(
                    f"{correction.where}: {correction.path} has the label "
                    f"{correction.label!r}, but {other.label!r} in {other.where}. "
                    "Remove one of them"
                )
    _relabel(rows, source, correction_of, directory)
    text = f"corrections that no longer fit: {len(failed)} "
    text += f"({command_line.first_few(failed, '; ')})"
    return [command_line.one_line(text)] if failed else []


def _finder(
    rows: Sequence[Row], previous: PreviousDataset | None
) -> Callable[[Correction], list[int]]:
    """Return a function that finds the indices of a correction's photos.

    They are the file at its path, or else new files with its content. A copy that was
    there before has a label of its own.
    """
    at_path: dict[str, list[int]] = collections.defaultdict(list)
    new: dict[str, list[int]] = collections.defaultdict(list)
    for index, row in enumerate(rows):
        at_path[_as_listed(row.path)].append(index)
        before = previous.row_at(row.path) if previous else None
        if before is None or before.sha256 != row.sha256:
            new[row.sha256].append(index)

    def find(correction: Correction) -> list[int]:
        indices = at_path.get(_as_listed(correction.path), [])
        if not (sha256 := correction.sha256):
            return indices
        same = [index for index in indices if rows[index].sha256 == sha256]
        return same or new.get(sha256, [])

    return find


def _as_listed(path: str) -> str:
    """Return a path as it comes out of a CSV file that a page has saved."""
    text = command_line.as_utf8(path)
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _earlier(previous: PreviousDataset | None) -> list[Correction]:
    """Return the corrections of the data set that is updated."""
    corrections = []
    for row in previous.manifest.rows if previous else ():
        is_left_out = not _LEFT_OUT_CODES.isdisjoint(row.codes)
        if row.sha256 and (row.corrected_from or is_left_out):
            label = SKIP if is_left_out else row.class_name
            reason = _LEFT_OUT if row.is_gone else row.reason
            corrections.append(Correction(row.path, label, row.sha256, reason, row=row))
    return corrections


def _problem(correction: Correction, source: Source, indices: Sequence[int]) -> str:
    """Return why a correction does not hold for its photos; "" if it does.

    If the user has since moved a photo to another class, that class holds.
    """
    row, label = correction.row, correction.label
    names = {source.photos[index].class_name for index in indices}
    if not names:
        is_known = row and row.is_gone
        return "" if is_known else "not in the source, or replaced by another photo"
    if "" in names and label != SKIP:
        return "in no class of the source"
    before = row and (row.corrected_from or row.class_name)
    if before in source.labels and names - {before, label}:
        return "has another label in the source now"
    is_class = label in (SKIP, *source.class_names)
    return "" if is_class else f"class {label} is not in the source"


def _relabel(
    rows: list[Row],
    source: Source,
    correction_of: dict[int, Correction],
    directory: Path,
) -> None:
    """Give rows and records their corrected label or that of the source, in place."""
    name = f"{staging.PARTIAL_NAME}/corrections.part"
    photos = stored_photo.StoredPhotos(directory)
    with (directory / name).open("wb") as part:
        for index, row in enumerate(rows):
            before, new = source.photos[index].class_name, correction_of.get(index)
            label = new.label if new else before
            if new and label == SKIP:
                row = dataclasses.replace(row, class_name=before, corrected_from="")
                rows[index] = row.skipped(Code.LEFT_OUT_BY_CORRECTION, new.reason)
            elif label != row.class_name:
                origin = before if label != before else ""
                row = dataclasses.replace(row, class_name=label, corrected_from=origin)
                if row.is_included:
                    number = source.labels[label]
                    record = dataclasses.replace(
                        photos.record(row), class_name=label, label=number
                    )
                    data = tfrecord.frame(stored_photo.serialize(record))
                    place = part.tell()
                    row = dataclasses.replace(
                        row, file=name, offset=place, length=len(data)
                    )
                    part.write(data)
                rows[index] = row
