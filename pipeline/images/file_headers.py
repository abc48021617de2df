"""Read the header of an image file: its format, its size, its number of frames.

Sources: ITU-T T.81, annex B (JPEG); W3C PNG, third edition; GIF89a; Google's WebP
container; TIFF 6.0; ISO/IEC 23008-12 (AVIF, HEIC).
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import PurePosixPath

from pipeline.records.row_codes import Code, Reason

# Pillow warns of decompression bombs at half of this number and refuses above it.
MAX_PIXELS = 178_956_970
RESIZE_MIN = 512  # pixels of the longest short side that conversion keeps

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
_MAX_FRAMES = 1_000_000
_NO_FILL_BYTE = re.compile(rb"[^\xff]")


def sniff(data: bytes) -> str:
    """Return the name of a file's format by its first bytes, or "unknown"."""
    for name, offset, signature in _SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return name
    return "unknown"


def has_wrong_ending(path: str, format: str) -> bool:
    """Say whether a file is named as another image format than that of its content."""
    ending = PurePosixPath(path).suffix.lower().removeprefix(".")
    if format not in _ENDINGS or ending in _ENDINGS[format]:
        return False
    return has_image_ending(path)


def has_image_ending(path: str) -> bool:
    """Say whether a file is named as an image."""
    ending = PurePosixPath(path).suffix.lower().removeprefix(".")
    return any(ending in endings for endings in _ENDINGS.values())


def count_frames(data: bytes) -> int:
    """Count the frames of an animation, or the pages; 1 for a plain image.

    In a damaged file, only the frames before the damage are counted.
    """
    count = _FRAMES.get(sniff(data))
    return max(1, min(count(data), _MAX_FRAMES)) if count else 1


def _gif_frames(data: bytes) -> int:
    """Walk the blocks; each image descriptor is a frame."""
    if len(data) < 13:
        return 1
    at = 13 + _colour_table_bytes(data[10])
    count = 0
    while at < len(data) and count < _MAX_FRAMES:
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
    """Read the number from the chunk acTL, which an APNG has before its pixels."""
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
    """Count the chunks ANMF if the flag for animations is set."""
    if data[12:16] != b"VP8X" or len(data) < 21 or not data[20] & 0x02:
        return 1
    at, count = 12, 0
    while at + 8 <= len(data) and count < _MAX_FRAMES:
        count += data[at : at + 4] == b"ANMF"
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return max(2, count)


def _tiff_pages(data: bytes) -> int:
    """Follow the chain of image directories."""
    little = data[:2] == b"II"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little" if little else "big")

    at, visited = number(4, 4), set[int]()
    while 8 <= at <= len(data) - 2 and at not in visited and len(visited) < _MAX_FRAMES:
        visited.add(at)
        at = number(at + 2 + 12 * number(at, 2), 4)
    return len(visited)


def _avif_frames(data: bytes) -> int:
    """Return 2 if the brand says that the file is a sequence of images."""
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
    """The facts in the markers before a JPEG's first scan.

    Attributes:
        height: height as stored, before EXIF orientation, in pixels.
        width: width as stored.
        oddity: the property that forbids a plain copy; None if nothing does.
    """

    height: int
    width: int
    oddity: Reason | None

    @property
    def short_side(self) -> int:
        """Return the length of the shorter side, in pixels."""
        return min(self.height, self.width)

    def may_be_copied(self, resize_min: int) -> bool:
        """Say whether the header permits a record with the file's own bytes.

        `resize_min` is the longest short side of a record, in pixels; 0 is no limit.
        """
        return not self.oddity and (not resize_min or self.short_side <= resize_min)

    @classmethod
    def read(cls, data: bytes) -> "JpegHeader | None":
        """Walk the marker segments; None if this is no JPEG or has no frame header."""
        if data[:2] != b"\xff\xd8":
            return None
        position = 2
        while position + 4 <= len(data) and data[position] == 0xFF:
            marker = data[position + 1]
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            if marker == 0xFF:  # fill bytes
                marker_byte = _NO_FILL_BYTE.search(data, position)
                position = (marker_byte.start() if marker_byte else len(data)) - 1
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
        code, oddity = Code.UNUSUAL_JPEG, ""
        if marker not in (0xC0, 0xC1, 0xC2):  # Huffman-coded baseline to progressive
            oddity = f"JPEG process 0x{marker:02x}"
        elif frame[0] != 8:
            oddity = f"{frame[0]}-bit JPEG"
        elif components == 4:
            code, oddity = Code.CMYK, "CMYK JPEG"
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
