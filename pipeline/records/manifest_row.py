"""One row of a manifest: what became of one source file, and its line of JSON.

A code says why a photo is left out of the records, or re-encoded in them. Programs
decide by it; the sentence that goes with it is for people, and may be reworded.
"""

import dataclasses
import enum
import json
import operator
import os
import re
import sys
from typing import Any, Literal, NamedTuple, get_args

FORMAT_VERSION = 2
# Keys of a row that its data set's digest leaves out, by format version: rows of
# version 1 have no codes; in version 2 the digest does not change with the words.
NOT_IN_DIGEST = {1: ("codes",), FORMAT_VERSION: ("codes", "reason")}

Action = Literal["copied", "reencoded", "skipped"]
Split = Literal["train", "validation", "test"]


class Code(enum.StrEnum):
    """What manifest.jsonl says about a file; tfrecords/README.md explains each code."""

    # The file cannot become a record.
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    OUT_OF_MEMORY = "out_of_memory"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    UNDECODABLE = "undecodable"
    UNENCODABLE = "unencodable"
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TOO_SLOW = "decoder_too_slow"
    NO_CLASS = "no_class"
    # The photo is left out because of other photos.
    CONFLICTING_LABELS = "conflicting_labels"
    LEFT_OUT_BY_LIST = "left_out_by_list"
    LEFT_OUT_BY_CORRECTION = "left_out_by_correction"
    BRIDGES_SPLITS = "bridges_splits"
    ALSO_IN_LATER_SPLIT = "also_in_later_split"
    GROUP_IN_LATER_SPLIT = "group_in_later_split"
    REMOVED = "removed"
    REPLACED = "replaced"
    # The record's image differs from the file. A refused animation is ANIMATED, too.
    NOT_JPEG = "not_jpeg"
    UNUSUAL_JPEG = "unusual_jpeg"
    CMYK = "cmyk"
    ANIMATED = "animated"
    SIXTEEN_BITS = "16_bits"
    TRANSPARENT = "transparent"
    DECODER_WARNING = "decoder_warning"
    TURNED_UPRIGHT = "turned_upright"
    SHRUNK = "shrunk"
    # The record holds the photo; the file's name is wrong.
    WRONG_ENDING = "wrong_ending"
    # Only pipeline.check notes it: the file's wide colour profile, which is ignored.
    WIDE_GAMUT = "wide_gamut"


class Reason(NamedTuple):
    """A code, and the same reason as an English phrase."""

    code: Code
    text: str


class ImageError(ValueError):
    """A file cannot become a record's image; the message and `kind` say why."""

    def __init__(self, kind: Code, message: str) -> None:
        super().__init__(kind, message)  # both, so that it can be pickled
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One source file."""

    path: str  # relative to the source folder, with "/"
    class_name: str  # "" for a file outside any class
    corrected_from: str = ""  # class in the source before a correction, if any
    sha256: str  # of the source file; "" if it could not be read
    phash: str = ""  # perceptual hash, 16 hex digits; "" if not decoded
    source_bytes: int
    format: str = ""  # of the stored image, "jpeg" or "png"; "" if skipped
    height: int = 0  # of the stored image, in pixels; 0 if skipped
    width: int = 0  # of the stored image, in pixels; 0 if skipped
    orientation: int = 1  # EXIF orientation of the source, 1..8; 1 is upright
    action: Action
    # Why the file was re-encoded or skipped; () also where a version of Graft without
    # codes has written the row.
    codes: tuple[str, ...] = ()
    reason: str = ""  # the codes as an English phrase; "" if copied
    group: str = ""  # SHA-256 that names the group, whose photos share a split
    split: str = ""  # "train", "validation" or "test"; "" if it is in none of them
    fold: int | None = None  # 0-based; None unless the split was made by folds
    # Record file, relative to the manifest, or a part in the staging folder during a
    # conversion; "" if skipped.
    file: str = ""
    offset: int = 0  # of the record in `file`, in bytes
    length: int = 0  # of the record, in bytes, framing included

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

        Hashes, group and split stay, so that the photo is recognised if it returns. The
        code of the user's correction stays, too.
        """
        corrected = {Code.LEFT_OUT_BY_CORRECTION}.intersection(self.codes) - {code}
        nothing: dict[str, Any] = {"format": "", "file": ""}
        nothing |= dict.fromkeys(("height", "width", "offset", "length"), 0)
        return dataclasses.replace(
            self, action="skipped", codes=(code, *corrected), reason=reason, **nothing
        )


_GONE = {Code.REMOVED, Code.REPLACED}
_FIELDS = tuple(field.name for field in dataclasses.fields(Row))
_INT_FIELDS = ("source_bytes", "height", "width", "orientation", "offset", "length")
# Texts that many rows share: one string for all of them saves half of the memory.
_SHARED_FIELDS = (
    *("class_name", "corrected_from", "format", "action", "reason", "split", "file"),
)
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
    for name in leave_out if row.corrected_from else (*leave_out, "corrected_from"):
        del values[name]
    return _encode(values) + "\n"


def from_line(line: str) -> Row:
    """Parse a line of manifest.jsonl.

    A missing or unknown key is a TypeError, any other damage a ValueError or, if
    brackets are nested deeply, a RecursionError.
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
    names = row.path, row.class_name, row.corrected_from, row.file, row.reason
    os.fsencode("".join((*names, *row.codes)))
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
        return (Code.BRIDGES_SPLITS,) * bridges
    codes = values["codes"]
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise ValueError("codes is not a list of texts")
    return tuple(codes)
