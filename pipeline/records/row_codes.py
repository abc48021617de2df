"""Codes for why a photo is left out of the records, or re-encoded in them.

Programs decide by the code. The sentence that goes with it is for people, and may be
reworded.
"""

import enum
from typing import NamedTuple


class Code(enum.StrEnum):
    """What manifest.jsonl says of a file; tfrecords/README.md explains each code."""

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
    # Checks alone note it: the file's colour profile, which is ignored, is a wide one.
    WIDE_GAMUT = "wide_gamut"


class Reason(NamedTuple):
    """A code and the same as an English phrase."""

    code: Code
    text: str


class ImageError(ValueError):
    """A file cannot become a record's image; the message says why, as `kind` does."""

    def __init__(self, kind: Code, message: str) -> None:
        super().__init__(kind, message)  # both, so that it can be pickled
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])
