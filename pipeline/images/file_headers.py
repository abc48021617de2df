"""Read the header of an image file: its format, and of a JPEG its size.

Source: ITU-T T.81, annex B (JPEG).
"""

import dataclasses
import re
from pathlib import PurePosixPath
from typing import Literal

from pipeline.records.manifest_row import Code, Reason
from pipeline.system import file_system

# Pillow warns of decompression bombs at half of this number and refuses above it.
MAX_PIXELS = 178_956_970
RESIZE_MIN = 512  # pixels of the longest short side that conversion keeps

_SIGNATURES = {  # regular expressions for the first bytes
    "JPEG": rb"\xff\xd8",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8",
    "BMP": rb"BM",
    # Some begin with a small preview that a decoder of TIFF takes for the photo.
    "camera RAW": rb"II\*\0....(?:CR|IIII)|....ftypcrx |FUJIFILM|II(?:RO|RS|U\0)"
    rb"|II....HEAPCCDR|MM\0\*....MMMM|MMOR|FOVb|\0MR[MI]",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "WebP": rb"RIFF....WEBP",
    "AVIF": rb"....ftyp(?:avi[fs]|mif1....(?:....){,8}?avif)",
    "HEIC": rb"....ftyp(?:he[iv].|m[is]f1)",
    "JPEG 2000": rb"....jP  \r\n\x87\n|\xff\x4f\xff\x51",
    "PNM": rb"P[1-6]\s",
    "JPEG XL": rb"\xff\x0a|....JXL \r\n\x87\n",
    "Sun raster": rb"\x59\xa6\x6a\x95",
    "PAM or PFM": rb"P[7Ff]\s",
    "OpenEXR or Radiance HDR": rb"\x76\x2f\x31\x01|#\?R",
    "Photoshop": rb"8BPS",
    "DICOM": rb".{128}DICM",
    "PDF": rb"%PDF",
    "ZIP": rb"PK\x03\x04",
    "Git LFS": file_system.LFS_POINTER,
}
_ENDINGS = {
    "JPEG": {"jpg", "jpeg", "jpe", "jfif", "jif"},
    "PNG": {"png", "apng"},
    "GIF": {"gif"},
    "BMP": {"bmp", "dib"},
    "TIFF": {"tif", "tiff"},
    "WebP": {"webp"},
    "AVIF": {"avif", "avifs"},
    "HEIC": {"heic", "heif", "hif"},
    "JPEG 2000": {"jp2", "j2k", "j2c", "jpc", "jpf", "jpx"},
    "PNM": {"pbm", "pgm", "pnm", "ppm"},
}
# A scan of other frequencies than the lowest; without, libraries guess differently.
_FINE_SCAN = re.compile(rb"\xff\xda\0\x08\x01..[^\0]", re.DOTALL)
_NO_FILL_BYTE = re.compile(rb"[^\xff]")


def sniff(data: bytes) -> str:
    """Return the name of a file's format by its first bytes, or "unknown"."""
    for name, signature in _SIGNATURES.items():
        if re.match(signature, data, re.DOTALL):
            return "camera RAW" if name == "TIFF" and _is_camera_raw(data) else name
    return "unknown"


def _is_camera_raw(tiff: bytes) -> bool:
    """Return whether a TIFF file is a DNG, or begins with a preview as NEF and ARW."""
    is_small = bool((tiff_tag(tiff, 254, 4) or 0) & 1)
    is_preview = is_small and tiff_tag(tiff, 330) is not None
    is_mosaic = tiff_tag(tiff, 262) in (32_803, 34_892)
    return is_mosaic or is_preview or tiff_tag(tiff, 50_706) is not None


def tiff_tag(tiff: bytes, tag: int, num_bytes: int = 2) -> int | None:
    """Return a number of `num_bytes` in the first directory of TIFF or EXIF bytes.

    Source: TIFF 6.0, section 2.
    """
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return None
    start = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[start : start + 2], order)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        if int.from_bytes(tiff[entry : entry + 2], order) == tag:
            return int.from_bytes(tiff[entry + 8 : entry + 8 + num_bytes], order)
    return None


def has_wrong_ending(path: str, format: str) -> bool:
    """Return whether a file is named as another image format than its content's."""
    return format in _ENDINGS and named_format(path) not in ("", format)


def named_format(path: str) -> str:
    """Return the image format whose ending a file has; "" for another ending."""
    ending = PurePosixPath(path).suffix.lower().removeprefix(".")
    return next((name for name, ends in _ENDINGS.items() if ending in ends), "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class JpegHeader:
    """The facts in the markers before a JPEG's first scan."""

    height: int  # as stored, before EXIF orientation, in pixels
    width: int
    oddity: Reason | None  # what forbids a plain copy

    @property
    def short_side(self) -> int:
        """Return the length of the shorter side, in pixels."""
        return min(self.height, self.width)

    @classmethod
    def read(cls, data: bytes) -> "JpegHeader | None":
        """Walk the marker segments; None if it is not a JPEG or has no frame header."""
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
        elif marker == 0xC2 and not _FINE_SCAN.search(data):
            oddity = "progressive JPEG that ends after its first scan"
        elif data[-2:] != b"\xff\xd9":
            # Multi-picture files and padding; TensorFlow refuses some of them.
            oddity = "JPEG with data after its end"
        return cls(
            height=int.from_bytes(frame[1:3], "big"),
            width=int.from_bytes(frame[3:5], "big"),
            oddity=Reason(code, oddity) if oddity else None,
        )
