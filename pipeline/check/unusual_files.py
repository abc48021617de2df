"""Name what is unusual about a file, by the codes and sizes in its manifest row."""

import collections
from collections.abc import Iterable, Mapping

from pipeline.check.check_report import Finding, Severity
from pipeline.records.manifest_row import Row
from pipeline.records.row_codes import Code

TINY_PX = 32  # short side
EXTREME_ASPECT = 4.0  # long side divided by short side
# Kind -> severity and meaning. An error would corrupt training or evaluation. A warning
# costs photos, or says that something may be wrong with them.
KINDS: Mapping[str, tuple[Severity, str]] = {
    "unreadable": ("warning", "the file cannot be opened or read"),
    "damaged": ("warning", "the file is cut off or damaged and does not decode"),
    "not an image": ("warning", "the file is no image, or of an unknown format"),
    "refused": ("warning", ""),  # for the reason that the row states
    "too large": ("warning", "the image has more pixels than --max_pixels"),
    "outside the classes": ("warning", "the file is in no class folder"),
    "crashed": ("warning", "the decoder crashed on this file"),
    "complaint": ("warning", "the image decodes, but the decoder warns"),
    "wrong ending": ("warning", "the file is named as another image format"),
    "tiny": ("warning", f"the short side is below {TINY_PX} pixels"),
    "extreme aspect": (
        "warning",
        f"one side is more than {EXTREME_ASPECT:g} times as long as the other",
    ),
    "animated": ("note", "of several frames or pages, the first is used"),
    "CMYK": ("note", "printing colours are converted to RGB"),
    "16-bit": ("note", "the numbers are reduced to 8 bits"),
    "transparent": ("note", "transparent parts are laid over white"),
    "wide gamut": ("note", "the colour profile is ignored, so colours turn out duller"),
    "turned": ("note", "the photo is turned upright as its EXIF data say"),
}
_KIND_OF_CODE: Mapping[str, str] = {
    Code.UNREADABLE: "unreadable",
    Code.OUT_OF_MEMORY: "unreadable",
    Code.UNDECODABLE: "damaged",
    Code.EMPTY: "damaged",
    Code.UNENCODABLE: "damaged",
    Code.NOT_AN_IMAGE: "not an image",
    Code.UNSUPPORTED_FORMAT: "refused",
    Code.UNSUPPORTED_PIXELS: "refused",
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
    Code.WIDE_GAMUT: "wide gamut",
    Code.TURNED_UPRIGHT: "turned",
}


def kinds_of(row: Row) -> list[str]:
    """Return the kinds, of KINDS, that apply to a file."""
    kinds = [_KIND_OF_CODE[code] for code in row.codes if code in _KIND_OF_CODE]
    if row.is_included:
        sides = sorted((row.height, row.width))
        if sides[0] < TINY_PX:
            kinds.append("tiny")
        if sides[1] > EXTREME_ASPECT * sides[0]:
            kinds.append("extreme aspect")
    return kinds


def find(rows: Iterable[Row]) -> list[Finding]:
    """Find unusual files, in the order of KINDS."""
    paths: dict[tuple[str, str], list[tuple[str]]] = collections.defaultdict(list)
    for row in rows:
        for kind in kinds_of(row):
            paths[kind, KINDS[kind][1] or row.reason].append((row.path,))
    order = list(KINDS)
    return [
        Finding(kind, KINDS[kind][0], meaning, tuple(paths[kind, meaning]))
        for kind, meaning in sorted(paths, key=lambda key: (order.index(key[0]), key))
    ]
