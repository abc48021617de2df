"""A row of what became of a file -> what is odd about the file, by kind."""

from collections.abc import Mapping
from typing import Literal

from pipeline.records import manifest
from pipeline.records.reasons import Code

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
_KIND_OF_CODE: Mapping[str, str] = {
    Code.UNREADABLE: "unreadable",
    Code.OUT_OF_MEMORY: "unreadable",
    Code.UNDECODABLE: "damaged",
    Code.EMPTY: "damaged",
    Code.UNENCODABLE: "damaged",
    Code.NOT_AN_IMAGE: "not an image",
    Code.UNSUPPORTED_FORMAT: "not an image",
    Code.UNSUPPORTED_PIXELS: "not an image",
    Code.DECODES_DIFFERENTLY: "not an image",
    Code.TOO_MANY_BYTES: "not an image",
    Code.TOO_MANY_PIXELS: "too large",
    Code.NO_CLASS: "outside the classes",
    Code.DECODER_CRASHED: "crashed",
    Code.DECODER_WARNING: "complaint",
    Code.WRONG_ENDING: "wrong ending",
    Code.ANIMATED: "animated",
    Code.CMYK: "CMYK",
    Code.SIXTEEN_BITS: "16-bit",
    Code.TRANSPARENT: "transparent",
    Code.TURNED_UPRIGHT: "turned",
}


def kinds_of(row: manifest.Row) -> list[str]:
    """List the kinds of KINDS that apply to a file."""
    kinds = [_KIND_OF_CODE[code] for code in row.codes if code in _KIND_OF_CODE]
    if row.is_included:
        sides = sorted((row.height, row.width))
        if sides[0] < TINY_PX:
            kinds.append("tiny")
        if sides[1] > EXTREME_ASPECT * sides[0]:
            kinds.append("extreme aspect")
    return kinds
