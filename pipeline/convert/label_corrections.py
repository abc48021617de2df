"""Apply the labels that a person has corrected, and keep them in later conversions.

A correction belongs to the content of a photo: it stays when the file is renamed, and
no longer fits when the file holds another photo. The source is never changed.
"""

import collections
import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.records import staging, stored_photo, tfrecord
from pipeline.records.manifest_row import Code, Row
from pipeline.records.previous_dataset import PreviousDataset
from pipeline.records.stored_photo import StoredPhotos
from pipeline.sources.lists import text_lines
from pipeline.sources.photo_source import Source
from pipeline.system import command_line
from pipeline.system.errors import DataError

SKIP = "skip"
_LEFT_OUT = "left out by a correction"


class Correction(NamedTuple):
    """What a person has said of one photo."""

    path: str  # relative to the source
    label: str  # class name, or SKIP for a photo to leave out
    sha256: str  # of the file; "" if it is not stated
    reason: str  # why the photo is left out
    where: str = ""  # file and line; "" for a correction of an earlier conversion
    corrected_from: str = ""  # class in the source at the earlier conversion
    was_gone: bool = False  # whether the earlier conversion did not find the photo


def read(files: str, class_names: Sequence[str]) -> list[Correction]:
    """Read comma-separated CSV files; what is wrong with one is a DataError."""
    corrections = []
    for path in map(Path, filter(None, files.split(","))):
        for line, entry in text_lines.read_table(path, ["path", "label"]):
            note = entry.get("note", "")
            correction = Correction(
                path=entry["path"],
                label=entry["label"],
                sha256=entry.get("sha256", "").lower(),
                reason=f"{_LEFT_OUT}: {note}" if note else _LEFT_OUT,
                where=f"{path} line {line}",
            )
            _check(correction, class_names)
            corrections.append(correction)
    return corrections


def _check(correction: Correction, class_names: Sequence[str]) -> None:
    where, label = correction.where, correction.label
    if not re.fullmatch("([0-9a-f]{64})?", correction.sha256):
        raise DataError(
            f"{where}: sha256 is {correction.sha256[:80]!r}. Expected 64 hexadecimal "
            "digits, or nothing"
        )
    if label == SKIP and SKIP in class_names:
        raise DataError(
            f"{where}: {SKIP} leaves photos out, but a class has this name. Rename the "
            "class in the source"
        )
    if label != SKIP and label not in class_names:
        close = difflib.get_close_matches(label, class_names, n=1)
        names = close or class_names
        raise DataError(
            f"{where}: class {label[:80]!r} is unknown. Expected {SKIP}, or a class of "
            f"the source, such as {names[0]}. For a new class, put photos of it into "
            "the source, and convert again"
        )


def apply(
    rows: list[Row],
    source: Source,
    given: Sequence[Correction],
    previous: PreviousDataset | None,
    directory: Path,
) -> list[str]:
    """Correct labels in rows and records, in place; return what the user must know.

    `rows` are those of `source.photos`, and records that change go to a part file of
    the data set in `directory`. Earlier corrections stay for photos without new ones.
    """
    earlier = _earlier(previous)
    if not (given or earlier):
        return []
    finder = _Finder(rows, previous)
    answers: dict[int, Correction] = {}
    unfit: dict[str, list[str]] = collections.defaultdict(list)
    for correction in given:
        indices = finder.find(correction)
        for index in indices:
            other = answers.setdefault(index, correction)
            if other.label != correction.label:
                raise DataError(
                    f"{correction.where}: {correction.path} has the label "
                    f"{correction.label!r}, but {other.label!r} in {other.where}. "
                    "Remove one of them"
                )
        if not indices:
            unfit[finder.why_not(correction)].append(correction.path)
    for correction in earlier:
        indices = finder.find(correction)
        if reason := _why_dropped(correction, source, indices):
            unfit[reason].append(correction.path)
        elif not (indices or correction.was_gone):
            unfit[finder.why_not(correction)].append(correction.path)
        else:
            answers = dict.fromkeys(indices, correction) | answers
    for index, answer in list(answers.items()):
        if not source.photos[index].class_name and answer.label != SKIP:
            unfit["in no class of the source"].append(answers.pop(index).path)
    _relabel(rows, source, answers, directory)
    return [
        command_line.one_line(
            f"corrections that no longer fit, {reason}: {len(paths)} "
            f"({command_line.first_few(paths)})"
        )
        for reason, paths in unfit.items()
    ]


class _Finder:
    """Find the photos of a source that a correction is about."""

    def __init__(self, rows: Sequence[Row], previous: PreviousDataset | None) -> None:
        self._rows, self._previous = rows, previous
        self._at_path: dict[str, list[int]] = collections.defaultdict(list)
        self._of_content: dict[str, list[int]] = collections.defaultdict(list)
        for index, row in enumerate(rows):
            self._at_path[_as_listed(row.path)].append(index)
            self._of_content[row.sha256].append(index)

    def find(self, correction: Correction) -> list[int]:
        """Return indices of the file at its path, or of new files of its content.

        A copy that was there before is another photo of the user's.
        """
        at_path = self._at_path.get(_as_listed(correction.path), [])
        if not (sha256 := correction.sha256):
            return at_path
        same = [index for index in at_path if self._rows[index].sha256 == sha256]
        contents = self._of_content.get(sha256, ())
        return same or [index for index in contents if self._is_new(self._rows[index])]

    def _is_new(self, row: Row) -> bool:
        before = self._previous.row_at(row.path) if self._previous else None
        return before is None or before.sha256 != row.sha256

    def why_not(self, correction: Correction) -> str:
        """Return why no photo was found."""
        is_there = _as_listed(correction.path) in self._at_path
        if is_there:
            return "the file has changed"
        return f"not in the source, with paths such as {self._rows[0].path}"


def _as_listed(path: str) -> str:
    """Return a path as it comes out of a CSV file that a page has saved."""
    text = command_line.as_utf8(path)
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _earlier(previous: PreviousDataset | None) -> list[Correction]:
    """Return the corrections of the data set that is updated."""
    corrections = []
    for row in previous.manifest.rows if previous else ():
        is_left_out = Code.LEFT_OUT_BY_CORRECTION in row.codes
        if row.sha256 and (row.corrected_from or is_left_out):
            corrections.append(
                Correction(
                    path=row.path,
                    label=SKIP if is_left_out else row.class_name,
                    sha256=row.sha256,
                    reason=_LEFT_OUT if row.is_gone else row.reason,
                    corrected_from=row.corrected_from or row.class_name,
                    was_gone=row.is_gone,
                )
            )
    return corrections


def _why_dropped(correction: Correction, source: Source, indices: Sequence[int]) -> str:
    """Return why an earlier correction no longer holds; "" if it does.

    A photo that the user has put into another class since is right there.
    """
    labels = {source.photos[index].class_name for index in indices}
    before = correction.corrected_from
    if before in source.labels and labels - {before, correction.label}:
        return "the label in the source has changed"
    if indices and correction.label not in (SKIP, *source.class_names):
        return f"class {correction.label} is gone"
    return ""


def _relabel(
    rows: list[Row],
    source: Source,
    answers: dict[int, Correction],
    directory: Path,
) -> None:
    """Give rows and records the labels of the answers, or of the source, in place."""
    relabelled = []
    for index, row in enumerate(rows):
        before, answer = source.photos[index].class_name, answers.get(index)
        label = answer.label if answer else before
        if answer and label == SKIP:
            row = dataclasses.replace(row, class_name=before, corrected_from="")
            rows[index] = row.skipped(Code.LEFT_OUT_BY_CORRECTION, answer.reason)
        elif label != row.class_name:
            origin = before if label != before else ""
            row = dataclasses.replace(row, class_name=label, corrected_from=origin)
            rows[index] = row
            relabelled += [index] * row.is_included
    if not relabelled:
        return
    name, photos = f"{staging.PARTIAL_NAME}/corrections.part", StoredPhotos(directory)
    with (directory / name).open("wb") as part:
        for index in relabelled:
            row, record = rows[index], photos.record(rows[index])
            number = source.labels[row.class_name]
            record = dataclasses.replace(
                record, class_name=row.class_name, label=number
            )
            framed = tfrecord.frame(stored_photo.serialize(record))
            rows[index] = dataclasses.replace(
                row, file=name, offset=part.tell(), length=len(framed)
            )
            part.write(framed)
