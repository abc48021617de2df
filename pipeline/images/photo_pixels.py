"""Decode any image file to upright pixels, as a viewer shows it, or refuse it.

OpenCV decodes what cameras and the web make most; Pillow decodes what OpenCV shows
wrongly or does not know. Tests compare each kind with a decoder of another make; other
kinds are refused. Only the plugins named here run, whatever a file claims to be.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pi_heif.as_plugin
import PIL
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pipeline.images import file_headers, opencv
from pipeline.records.manifest_row import Code, ImageError

VERSIONS = {"pillow": PIL.__version__, "pi_heif": pi_heif.__version__}
# One photo is decoded in one process of many.
AvifImagePlugin.DEFAULT_MAX_THREADS = pi_heif.options.DECODE_THREADS = 1
_NO_IMAGES = {
    "unknown": "",
    "PDF": " (a PDF file)",
    "ZIP": " (a ZIP file)",
    "Git LFS": " (a pointer of Git LFS; run git lfs pull)",
}
_PLUGINS = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "HEIC": pi_heif.as_plugin.HeifImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "JPEG 2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "PNM": PpmImagePlugin.PpmImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
}
_WIDE_PROFILES = re.compile(
    rb"Display P3|DCI.?P3|Adobe ?RGB|ProPhoto|ROMM|2020|Wide.?Gamut|eciRGB"
)
_SIXTEEN_BIT_MODES = ("I;16", "I;16B")
# Mode of Pillow -> mode that holds the same in 8 bits. What is missing has no known
# white, or colours that need a profile.
_EIGHT_BIT_MODES = dict.fromkeys(("P", "RGB", "CMYK", "YCbCr"), "RGB")
_EIGHT_BIT_MODES |= {"1": "L", "L": "L", "LA": "LA", "RGBA": "RGBA"}


def decode_upright(
    data: bytes, reduction: int = 1, max_pixels: int = opencv.max_pixels
) -> tuple[Any, int]:
    """Decode an image file and turn it upright, or raise ImageError.

    `reduction` is by how much a JPEG is shrunk: 1, 2, 4 or 8. The pixels are uint8 or
    uint16 [height, width] or [height, width, channels]: grey, BGR, or one of them with
    alpha. The number is the EXIF orientation, 1 to 8, that was undone.
    """
    kind = file_headers.sniff(data)
    if kind in _NO_IMAGES:
        text = f"not an image of a known format{_NO_IMAGES[kind]}"
        raise ImageError(Code.NOT_AN_IMAGE, text)
    if text := _find_rare_kind(kind, data):
        raise _unsupported(kind, text)
    if kind in ("JPEG", "PNG", "WebP"):
        return opencv.decode_upright(data, reduction)
    if kind not in _PLUGINS:
        text = f"{kind}, a format that is not read; export the photo as JPEG or PNG"
        raise ImageError(Code.UNSUPPORTED_FORMAT, text)
    try:
        with warnings.catch_warnings(action="ignore"):
            image = _PLUGINS[kind](io.BytesIO(data))
            if kind == "JPEG 2000":
                _check_jpeg_2000(data, image.mode)
            return _decode(image, kind, max_pixels)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins have no class of errors of their own
        if "unknown pixel mode" in str(error) or "unknown raw mode" in str(error):
            text = "a number of bits or channels that is not read"
            raise _unsupported(kind, text) from error
        text = f"{kind} that does not decode: cut off, damaged or of a rare kind"
        raise ImageError(Code.UNDECODABLE, text) from error


def digest(data: bytes) -> bytes:
    """Return the SHA-256 of the pixels that a viewer shows, or raise ImageError."""
    pixels, _ = decode_upright(data)
    if pixels.dtype != np.uint16:  # two pictures may differ in what 8 bits do not hold
        pixels = opencv.as_bgr(pixels)
    sha256 = hashlib.sha256(repr(pixels.shape).encode())
    sha256.update(pixels.data)
    return sha256.digest()


def count_frames(data: bytes) -> int:
    """Count the frames of an animation, or the pages; 1 for any other file."""
    return _fact(data, lambda image: getattr(image, "n_frames", 1), 1)


def has_wide_gamut(data: bytes) -> bool:
    """Return whether a file's colour profile has more colours than sRGB."""
    profile = _fact(data, lambda image: image.info.get("icc_profile"), None) or b""
    return bool(_WIDE_PROFILES.search(profile.replace(b"\0", b"")))


def _fact(data: bytes, read: Callable[[Any], Any], default: Any) -> Any:
    """Return what a function reads in a file's header; a default for damaged files."""
    plugin = _PLUGINS.get(file_headers.sniff(data))
    try:
        with warnings.catch_warnings(action="ignore"):
            return read(plugin(io.BytesIO(data))) if plugin else default
    except Exception:  # as in `decode_upright`
        return default


def _decode(image: Any, kind: str, max_pixels: int) -> tuple[Any, int]:
    if image.width * image.height > max_pixels:
        text = f"{kind} larger than {max_pixels:,} pixels"
        raise ImageError(Code.TOO_MANY_PIXELS, text)
    bits = 8
    if kind == "TIFF":
        bits = _check_tiff(image.tag_v2)
    has_alpha = image.has_transparency_data
    if kind == "GIF" and image.tile[0].extents != (0, 0, *image.size) and not has_alpha:
        raise _unsupported("GIF", "a first frame that does not cover the picture")
    image.info.pop("xmp", None)  # no viewer turns a photo by the orientation in it
    tag = image.getexif().get(ExifTags.Base.Orientation)
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BIT_MODES:
        pixels = np.asarray(image).astype(np.uint16)
    elif image.mode == "I" and kind == "PNM":  # Pillow has made 65,535 of its white
        pixels = ((np.asarray(image) + 128) // 257).astype(np.uint8)
    elif mode := _EIGHT_BIT_MODES.get(image.mode):
        if has_alpha and mode in ("L", "RGB"):  # one number or colour is transparent
            mode = "RGBA"
        pixels = np.asarray(image.convert(mode))
        if bits == 16 and 0 < pixels[..., :3].max() < 64:
            raise _unsupported("TIFF", "16-bit colours that use at most 14 bits")
    else:
        raise _unsupported(kind, f"numbers of the mode {image.mode}")
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return np.ascontiguousarray(pixels), tag if tag in range(1, 9) else 1


def _unsupported(kind: str, text: str) -> ImageError:
    return ImageError(
        Code.UNSUPPORTED_PIXELS, f"{kind} of {text}; save it as PNG of 8 or 16 bits"
    )


def _find_rare_kind(kind: str, data: bytes) -> str:
    """Name what decoders disagree on in a header of BMP, AVIF or PNG; "" if nothing."""
    if kind == "BMP":
        if int.from_bytes(data[14:18], "little") not in (40, 52, 56, 108, 124):
            return "OS/2"
        if int.from_bytes(data[30:34], "little") not in (0, 3, 6):
            return "a compressed kind, such as RLE8"
    if kind == "AVIF" and b"clap" in data[: data.find(b"mdat")]:
        return "a picture to be cropped (clap)"
    return str(_fact(data, _find_rare_png, "")) if kind == "PNG" else ""


def _find_rare_png(image: Any) -> str:
    if image.default_image:
        return "a still image that its animation leaves out"
    if image.mode != "P" and isinstance(image.info.get("transparency"), int):
        return "grey, with one grey that is transparent"
    return ""


def _check_jpeg_2000(data: bytes, mode: str) -> None:
    """Refuse depths whose white is wrong in Pillow, and what the tests do not hold.

    Source: ITU-T T.800, A.5.1 (SIZ: for each component its depth and two steps).
    """
    count_at = data.find(b"\xff\x4f\xff\x51") + 40
    size = 3 * int.from_bytes(data[count_at : count_at + 2], "big")
    components = data[count_at + 2 : count_at + 2 + size]
    depths = {depth + 1 for depth in components[::3]}  # above 128: signed numbers
    if depths != {8} and (mode not in _SIXTEEN_BIT_MODES or max(depths) > 16):
        raise _unsupported("JPEG 2000", "signed numbers, or colours not of 8 bits")
    is_ycc = b"colr\1\0\0\0\0\0\x12" in data
    if is_ycc or mode in ("P", "CMYK") or {1} != {*components[1::3], *components[2::3]}:
        raise _unsupported("JPEG 2000", "a palette, CMYK, or subsampled colours")


def _check_tiff(tags: Any) -> int:
    """Refuse kinds of TIFF that Pillow shows wrongly; return the bits of a number."""
    photometric = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0)
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    extra = tags.get(TiffImagePlugin.EXTRASAMPLES, ())
    num_colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(photometric, 1)
    if len(bits) > num_colours and extra not in ((1,), (2,)):
        raise _unsupported("TIFF", "an extra channel that may be transparency or not")
    if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 and (extra or max(bits) > 8):
        raise _unsupported("TIFF", "separate planes with transparency or 16 bits")
    if tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] != 1:
        raise _unsupported("TIFF", "signed or floating-point numbers")
    if photometric == 3 and max(tags.get(TiffImagePlugin.COLORMAP, (0,))) < 256:
        raise _unsupported("TIFF", "a palette of 8-bit numbers")
    compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
    if compression == 6 or (photometric == 6 and compression == 1):
        raise _unsupported("TIFF", "YCbCr numbers without compression, or old JPEG")
    if max(bits) > 8 and (photometric == 0 or bits[0] != 16):
        raise _unsupported(
            "TIFF", f"{bits[0]} bits; above 8, only 16 with black as 0 are read"
        )
    return int(bits[0])
