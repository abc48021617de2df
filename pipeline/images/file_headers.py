"""What the first bytes of an image file say: its kind, its size, how many frames.

Sources: ITU-T T.81, annex B (JPEG); W3C PNG, third edition; GIF89a; Google's WebP
container; TIFF 6.0; ISO/IEC 23008-12 (AVIF, HEIC).
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import PurePosixPath

from pipeline.records import reasons
from pipeline.records.reasons import Reason

_SIGNATURES = (
    ("JPEG", 0, b"\xff\xd8"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF8"),
    ("BMP", 0, b"BM"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("WebP", 8, b"WEBP"),
    ("AVIF", 4, b"ftypavi"),
    ("HEIC", 4, b"ftyphei"),
    ("HEIC", 4, b"ftypmif1"),
    ("JPEG 2000", 4, b"jP  \r\n\x87\n"),
    ("PDF", 0, b"%PDF"),
    ("ZIP", 0, b"PK\x03\x04"),
)
_ENDINGS = {
    "JPEG": {"jpg", "jpeg", "jpe", "jfif", "jif"},
    "PNG": {"png", "apng"},
    "GIF": {"gif"},
    "BMP": {"bmp", "dib"},
    "TIFF": {"tif", "tiff"},
    "WebP": {"webp"},
    "AVIF": {"avif", "avifs"},
    "HEIC": {"heic", "heif"},
    "JPEG 2000": {"jp2", "j2k", "jpf", "jpx"},
}
_MOST_FRAMES = 1_000_000
_OTHER_BYTE = re.compile(rb"[^\xff]")  # than a fill byte


def sniff(data: bytes) -> str:
    """Names the kind of a file by its first bytes; "unknown" if none fits."""
    for name, offset, signature in _SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return name
    return "unknown"


def has_wrong_ending(path: str, kind: str) -> bool:
    """Whether a file's name says that it is of another kind of image than it is."""
    ending = PurePosixPath(path).suffix.lower().removeprefix(".")
    if kind not in _ENDINGS or ending in _ENDINGS[kind]:
        return False
    return any(ending in endings for endings in _ENDINGS.values())


def frames(data: bytes) -> int:
    """The number of frames of an animation, or of pages; 1 for a plain image.

    What is damaged counts as far as it can be followed.
    """
    kind = sniff(data)
    count = _FRAMES[kind](data) if kind in _FRAMES else 1
    return max(1, min(count, _MOST_FRAMES))


def _gif_frames(data: bytes) -> int:
    """Walks the blocks; each image descriptor is a frame."""
    if len(data) < 13:
        return 1
    at = 13 + _colour_table_bytes(data[10])
    count = 0
    while at < len(data) and count < _MOST_FRAMES:
        if data[at] == 0x2C and at + 10 <= len(data):  # image descriptor
            count += 1
            at = _after_sub_blocks(data, at + 11 + _colour_table_bytes(data[at + 9]))
        elif data[at] == 0x21:  # extension
            at = _after_sub_blocks(data, at + 2)
        else:
            break
    return count


def _colour_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _png_frames(data: bytes) -> int:
    """APNG has a chunk acTL before the pixels, which begins with the number."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind == b"acTL":
            return int.from_bytes(data[at + 8 : at + 12], "big")
        if kind in (b"IDAT", b"IEND"):
            break
        at += 12 + length
    return 1


def _webp_frames(data: bytes) -> int:
    """Counts chunks ANMF, of a file that says that it is animated."""
    if data[12:16] != b"VP8X" or len(data) < 21 or not data[20] & 0x02:
        return 1
    at, count = 12, 0
    while at + 8 <= len(data) and count < _MOST_FRAMES:
        count += data[at : at + 4] == b"ANMF"
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return max(2, count)


def _tiff_pages(data: bytes) -> int:
    """Follows the chain of image directories."""
    little = data[:2] == b"II"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little" if little else "big")

    at, seen = number(4, 4), set[int]()
    while 8 <= at <= len(data) - 2 and at not in seen and len(seen) < _MOST_FRAMES:
        seen.add(at)
        at = number(at + 2 + 12 * number(at, 2), 4)
    return len(seen)


def _avif_frames(data: bytes) -> int:
    """At least: the brand says that it is a sequence."""
    return 2 if data[8:12] == b"avis" else 1


_FRAMES: dict[str, Callable[[bytes], int]] = {
    "GIF": _gif_frames,
    "PNG": _png_frames,
    "WebP": _webp_frames,
    "TIFF": _tiff_pages,
    "AVIF": _avif_frames,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class JpegHeader:
    """What the markers before the first scan say.

    Attributes:
        height: in pixels, before it is turned.
        width: likewise.
        oddity: the property that forbids a plain copy; None if nothing does.
    """

    height: int
    width: int
    oddity: Reason | None

    @property
    def short_side(self) -> int:
        """The shorter of both sides, in pixels."""
        return min(self.height, self.width)

    def may_be_copied(self, resize_min: int) -> bool:
        """Says whether nothing in the header forbids it."""
        return not self.oddity and (not resize_min or self.short_side <= resize_min)

    @classmethod
    def read(cls, data: bytes) -> "JpegHeader | None":
        """Walks the marker segments of a file.

        Returns:
            None if the file is no JPEG, or has no frame header.
        """
        if data[:2] != b"\xff\xd8":
            return None
        position = 2
        while position + 4 <= len(data) and data[position] == 0xFF:
            marker = data[position + 1]
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            if marker == 0xFF:  # fill bytes
                other = _OTHER_BYTE.search(data, position)
                position = (other.start() if other else len(data)) - 1
            elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                return cls._from_frame(marker, data[position + 4 : position + 10], data)
            else:
                position += 2 + length
        return None

    @classmethod
    def _from_frame(cls, marker: int, frame: bytes, data: bytes) -> "JpegHeader | None":
        if len(frame) < 6:
            return None
        components = frame[5]
        code, oddity = reasons.Code.UNUSUAL_JPEG, ""
        if marker not in (0xC0, 0xC1, 0xC2):  # Huffman-coded baseline to progressive
            oddity = f"JPEG process 0x{marker:02x}"
        elif frame[0] != 8:
            oddity = f"{frame[0]}-bit JPEG"
        elif components == 4:
            code, oddity = reasons.Code.CMYK, "CMYK JPEG"
        elif components not in (1, 3):
            oddity = f"{components}-component JPEG"
        elif not any(frame[1:3]) or not any(frame[3:5]):
            oddity = "JPEG whose header does not state its size"
        elif data[-2:] != b"\xff\xd9":
            # Multi-picture files and padding; TensorFlow refuses some of them.
            oddity = "JPEG with data after its end"
        return cls(
            height=int.from_bytes(frame[1:3], "big"),
            width=int.from_bytes(frame[3:5], "big"),
            oddity=Reason(code, oddity) if oddity else None,
        )
