"""One row of a manifest: what became of one source file, and its line of JSON."""

import dataclasses
import json
import operator
import os
import re
import sys
from typing import Any, Literal, get_args

from pipeline.records.row_codes import Code

FORMAT_VERSION = 2
# Keys of a row that its data set's digest leaves out, by format version: rows of
# version 1 have no codes; in version 2 the digest does not change with the words.
NOT_IN_DIGEST = {1: ("codes",), FORMAT_VERSION: ("codes", "reason")}

Action = Literal["copied", "reencoded", "skipped"]
Split = Literal["train", "validation", "test"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One source file.

    Attributes:
        path: path relative to the source folder, with "/".
        class_name: class that the file is filed under; "" for a file outside any class.
        sha256: SHA-256 of the source file, 64 hex digits; "" if it could not be read.
        phash: perceptual hash, 16 hex digits; "" if the file was not decoded.
        format: format of the stored image, "jpeg" or "png"; "" if skipped.
        height: height of the stored image, in pixels; 0 if skipped.
        width: width of the stored image, in pixels; 0 if skipped.
        orientation: EXIF orientation of the source, 1..8; 1 is upright.
        codes: why the file was re-encoded or skipped, as members of row_codes.Code; ()
            also where a version of Graft without codes has written the row.
        reason: the same as an English phrase; "" if copied.
        group: SHA-256 that names the duplicate group, whose photos share a split.
        split: "train", "validation" or "test"; "" for a file that no split knows.
        fold: 0-based fold; None unless the split was made by folds.
        file: record file, relative to the manifest; "" if skipped. During a conversion
            it may be a part in the staging folder.
        offset: start of the record in `file`, in bytes.
        length: size of the record, in bytes, framing included.
    """

    path: str
    class_name: str
    sha256: str
    phash: str = ""
    source_bytes: int
    format: str = ""
    height: int = 0
    width: int = 0
    orientation: int = 1
    action: Action
    codes: tuple[str, ...] = ()
    reason: str = ""
    group: str = ""
    split: str = ""
    fold: int | None = None
    file: str = ""
    offset: int = 0
    length: int = 0

    @property
    def is_included(self) -> bool:
        """Whether the records hold this photo."""
        return self.action != "skipped"

    @property
    def is_gone(self) -> bool:
        """Whether the source no longer holds this photo of an earlier conversion."""
        return not (self.is_included or _GONE.isdisjoint(self.codes))

    def skipped(self, code: Code, reason: str) -> "Row":
        """Return the row of the same file without a record.

        Hashes, group and split stay, so that a photo that comes back is recognised.
        """
        return dataclasses.replace(
            self,
            action="skipped",
            codes=(code,),
            reason=reason,
            format="",
            height=0,
            width=0,
            file="",
            offset=0,
            length=0,
        )


_GONE = {Code.REMOVED, Code.REPLACED}
_FIELDS = tuple(field.name for field in dataclasses.fields(Row))
_INT_FIELDS = ("source_bytes", "height", "width", "orientation", "offset", "length")
# Texts that many rows share: one string for all of them saves half of the memory.
_SHARED_FIELDS = ("class_name", "format", "action", "reason", "split", "file")
# Types of a row's values, without and with a fold.
_ROW_KINDS = {
    tuple(
        {"fold": fold, "codes": tuple, **dict.fromkeys(_INT_FIELDS, int)}.get(name, str)
        for name in _FIELDS
    )
    for fold in (type(None), int)
}
_values = operator.attrgetter(*_FIELDS)
# SHA-256, group and perceptual hash, action and format, split.
_TEXTS = re.compile(
    "(?:[0-9a-f]{64})? (?:[0-9a-f]{64})? (?:[0-9a-f]{16})? "
    f"(?:{'|'.join(get_args(Action))}) (?:jpeg|png)? (?:{'|'.join(get_args(Split))})?"
)
_MAX_SIDE_PX = 1 << 20  # as in OpenCV
_MAX_RECORD_BYTES = 1 << 31  # as in Protocol Buffers
_MAX_FILE_BYTES = 1 << 53
_encode = json.JSONEncoder(separators=(",", ":")).encode


def to_line(row: Row, leave_out: tuple[str, ...] = ()) -> str:
    """Return the line of manifest.jsonl for a row, without some of the keys."""
    values = dict(zip(_FIELDS, _values(row), strict=True))
    for name in leave_out:
        del values[name]
    return _encode(values) + "\n"


def from_line(line: str) -> Row:
    """Parse a line of manifest.jsonl.

    A missing or unknown key is a TypeError, any other damage a ValueError or, of deep
    brackets, a RecursionError.
    """
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    for name in _SHARED_FIELDS:
        if isinstance(text := values.get(name), str):
            values[name] = sys.intern(text)
    if values.get("group") == values.get("sha256"):
        values["group"] = values.get("sha256")
    row = Row(**values | {"codes": _codes(values)})
    if tuple(map(type, _values(row))) not in _ROW_KINDS:
        raise ValueError("a value has the wrong type")
    # Refuses lone surrogates.
    os.fsencode("".join((row.path, row.class_name, row.file, row.reason, *row.codes)))
    texts = row.sha256, row.group, row.phash, row.action, row.format, row.split
    if not _TEXTS.fullmatch(" ".join(texts)):
        raise ValueError(f"sha256, group, phash, action, format or split: {texts}")
    least = row.action != "skipped"
    if not (
        least <= row.height <= _MAX_SIDE_PX
        and least <= row.width <= _MAX_SIDE_PX
        and least <= row.length < _MAX_RECORD_BYTES
        and 0 <= row.offset < _MAX_FILE_BYTES
        and 0 <= row.source_bytes < _MAX_FILE_BYTES
        and 1 <= row.orientation <= 8
        and 0 <= (row.fold or 0) < _MAX_FILE_BYTES
    ):
        raise ValueError("a number is beyond its range")
    return row


def _codes(values: dict[str, Any]) -> tuple[str, ...]:
    """Return a row's codes, which version 1 of the format does not have.

    There, a reason that begins with "bridges" is a part of the format: it marks a photo
    whose split is not its own. No other reason of that version decides anything.
    """
    if "codes" not in values:
        bridges = str(values.get("reason")).startswith("bridges")
        return (Code.BRIDGES_SPLITS,) if bridges else ()
    codes = values["codes"]
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise ValueError("codes is not a list of texts")
    return tuple(codes)
