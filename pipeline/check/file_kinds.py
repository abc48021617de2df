"""A row of what became of a file -> what is odd about the file, by kind."""

import re
from collections.abc import Mapping
from typing import Literal

from pipeline.images import file_headers, record_image
from pipeline.records import manifest

Severity = Literal["error", "warning", "note"]

TINY_PX = 32  # short side
EXTREME_ASPECT = 4.0  # of the sides
# Kind -> how bad it is, and what it means for the user. An error would corrupt training
# or evaluation; a warning costs photos or says that something may be wrong with them.
KINDS: Mapping[str, tuple[Severity, str]] = {
    "unreadable": ("warning", "cannot be opened or read"),
    "damaged": ("warning", "cut off or damaged: does not decode"),
    "not an image": ("warning", "no image, or of a kind that OpenCV does not read"),
    "too large": ("warning", "more pixels than --max_pixels, refused by the header"),
    "outside the classes": ("warning", "in no class folder"),
    "crashed": ("warning", "takes the decoder down"),
    "complaint": ("warning", "decodes, but the decoder complains"),
    "wrong ending": ("warning", "named as another kind of image than it is"),
    "tiny": ("warning", f"short side below {TINY_PX} pixels"),
    "extreme aspect": ("warning", f"one side over {EXTREME_ASPECT:g} times the other"),
    "animated": ("note", "an animation or several pages: the first counts"),
    "CMYK": ("note", "printing colours, converted as a viewer does"),
    "16-bit": ("note", "reduced to 8 bits"),
    "transparent": ("note", "laid over white"),
    "turned": ("note", "stored on its side, turned upright as its EXIF says"),
}
_REASONS = (
    ("unreadable", re.compile(r"cannot be read|not a regular file|too large for this")),
    ("damaged", re.compile(r".* that does not decode|empty file|could not be encoded")),
    (
        "not an image",
        re.compile(
            r"not an image|HEIC|larger than \d+ MB, no photo|.* numbers$|"
            r"TIFF that decodes otherwise"
        ),
    ),
    ("too large", re.compile(r".* larger than [\d,]+ pixels")),
    ("outside the classes", re.compile(r"not in a class folder")),
    ("crashed", re.compile(r"the decoder crashed")),
    ("complaint", re.compile(record_image.COMPLAINT)),
    ("animated", re.compile(record_image.ANIMATED)),
    ("CMYK", re.compile(record_image.CMYK)),
    ("16-bit", re.compile(record_image.DEEP)),
    ("transparent", re.compile(record_image.TRANSPARENT)),
    ("turned", re.compile(record_image.TURNED)),
)
_SOURCE = re.compile(r"(.+) source")


def kinds_of(row: manifest.Row) -> list[str]:
    """The kinds of KINDS that a file is of."""
    parts = row.reason.split(", ")
    found = [
        kind for kind, begins in _REASONS if any(begins.match(part) for part in parts)
    ]
    if row.is_included:
        sides = sorted((row.height, row.width))
        if file_headers.has_wrong_ending(row.path, _format(parts)):
            found.append("wrong ending")
        if sides[0] < TINY_PX:
            found.append("tiny")
        if sides[1] > EXTREME_ASPECT * sides[0]:
            found.append("extreme aspect")
    return found


def _format(parts: list[str]) -> str:
    """What kind of image a file was; only of a JPEG nothing is said."""
    named = (_SOURCE.fullmatch(part) for part in parts)
    return next((match[1] for match in named if match), "JPEG")
