"""Decode, change and encode pixels with OpenCV, for all other modules.

Arrays of pixels are BGR as OpenCV has them, unless a function says RGB.
"""

import os
from typing import Any, Literal

from pipeline.images import file_headers

# OpenCV reads this variable when it is loaded, and checks a file's header against it
# before it allocates.
MAX_PIXELS_NAME = "OPENCV_IO_MAX_IMAGE_PIXELS"
_limit = os.environ.setdefault(MAX_PIXELS_NAME, str(file_headers.MAX_PIXELS))
max_pixels = int(_limit) if _limit.isdigit() else file_headers.MAX_PIXELS
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from pipeline.records.manifest_row import Code, ImageError  # noqa: E402

OPENCV_VERSION: str = cv2.__version__
JPEG_QUALITY = 95  # of records
WHITE = 65_535  # 16-bit value that is white unless another one is stated
_PAGE_QUALITY = 80
_STRIP_ROWS = 64
# Shares of R, G and B in a pixel's grey. Source: ITU-R BT.601.
_GREY_SHARES = np.array([0.299, 0.587, 0.114])
# Factor by which libjpeg shrinks while it decodes -> OpenCV's flags, colour and grey.
_REDUCED_FLAGS: dict[int, tuple[int, int]] = {
    8: (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    4: (cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    2: (cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    1: (cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE),
}
_EXIF_ORIENTATION_TAG = 0x0112
# Orientations of turn_pixels that undo EXIF orientations 1 to 8.
# Source: CIPA DC-008 (Exif 2.32), tag Orientation.
_TURNS = (0, 1, 3, 2, 4, 5, 7, 6)


def limit_pixels(max_pixels: int) -> None:
    """Limit images in processes started from now on; this one keeps its own limit."""
    os.environ[MAX_PIXELS_NAME] = str(max_pixels)


def use_one_thread() -> None:
    """Keep OpenCV from starting threads in a process that is one of many."""
    cv2.setNumThreads(1)


def reduction(short_side: int, least: int) -> int:
    """Return by how much libjpeg can shrink while it decodes: 8, 4, 2 or 1.

    The entropy-coded data are read in full all the same, so damage is still noticed.
    `least` is the short side that the result needs, in pixels; 0 keeps the size.
    """
    fitting = (factor for factor in _REDUCED_FLAGS if short_side // factor >= least)
    return next(fitting, 1) if least else 1


def decode_upright(data: bytes, reduction: int = 1) -> tuple[Any, int]:
    """Decode a JPEG, PNG or WebP file as photo_pixels.decode_upright does."""
    is_jpeg = file_headers.sniff(data) == "JPEG"
    flags = _REDUCED_FLAGS[reduction][0] if is_jpeg else cv2.IMREAD_UNCHANGED
    pixels, orientation = _decode(data, flags)
    turned = turn_pixels(np.atleast_3d(pixels), _TURNS[orientation - 1])
    return np.ascontiguousarray(turned), orientation


def decode_grey(data: bytes, reduction: int) -> tuple[Any, int]:
    """Decode a JPEG to uint8 [height, width], grey, without turning it upright.

    At an eighth of the size, this takes two thirds of the time of decoding in full.
    """
    return _decode(data, _REDUCED_FLAGS[reduction][1])


def _decode(data: bytes, flags: int) -> tuple[Any, int]:
    try:
        pixels, kinds, metadata = cv2.imdecodeWithMetadata(
            np.frombuffer(data, np.uint8), flags=flags | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except (cv2.error, MemoryError) as error:
        raise _decoding_error(data, str(error)) from error
    if pixels is None or pixels.size == 0:
        raise _decoding_error(data, "")
    exif = (
        block.tobytes()
        for kind, block in zip(kinds, metadata, strict=True)
        if kind == cv2.IMAGE_METADATA_EXIF
    )
    tiff = next(exif, b"").removeprefix(b"Exif\0\0")
    orientation = file_headers.tiff_tag(tiff, _EXIF_ORIENTATION_TAG)
    return pixels, orientation if orientation and orientation < 9 else 1


def _decoding_error(data: bytes, opencv_message: str) -> ImageError:
    """Return the error for a file that OpenCV does not decode."""
    kind = file_headers.sniff(data)
    # OpenCV has a single class of errors. Only the failed condition, which its message
    # quotes, tells that an image exceeds the limit.
    conditions = ("CV_IO_MAX_IMAGE", "validateInputImageSize")
    if any(condition in opencv_message for condition in conditions):
        text = f"{kind} larger than {max_pixels:,} pixels"
        return ImageError(Code.TOO_MANY_PIXELS, text)
    jpeg, reason = file_headers.JpegHeader.read(data), "cut off or damaged"
    if jpeg and jpeg.oddity and data.endswith(b"\xff\xd9"):
        reason = jpeg.oddity.text
    return ImageError(Code.UNDECODABLE, f"{kind} that does not decode: {reason}")


def turn_pixels(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn or mirror images, [..., height, width, channels].

    Their hash is then row `orientation`, 0 to 7, of `perceptual_hash.turn_hashes`; 0
    changes nothing.
    """
    if orientation & 4:
        pixels = pixels.swapaxes(-3, -2)
    if orientation & 2:
        pixels = pixels[..., ::-1, :, :]
    return pixels[..., ::-1, :] if orientation & 1 else pixels


def as_bgr(pixels: Any, white: int = WHITE) -> Any:
    """Convert decoded pixels to uint8 BGR over white; 16-bit `white` becomes 255."""
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels
    converted = np.empty((*pixels.shape[:2], 3), np.uint8)
    for top in range(0, len(pixels), _STRIP_ROWS):  # intermediate arrays are large
        strip = slice(top, top + _STRIP_ROWS)
        converted[strip] = _strip_as_bgr(pixels[strip], white)
    return converted


def _strip_as_bgr(pixels: Any, white: int) -> Any:
    if pixels.dtype == np.uint16:
        whites = np.full(pixels.shape[2:], white, np.uint32)
        if has_alpha(pixels):
            whites[-1] = WHITE
        numbers = np.minimum(pixels, whites).astype(np.uint32)
        pixels = ((numbers * 255 + whites // 2) // whites).astype(np.uint8)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., -1:].astype(np.uint16)
    colour = pixels[..., :3] if pixels.shape[2] == 4 else pixels[..., :1].repeat(3, 2)
    over_white = colour.astype(np.uint16) * alpha + 255 * (255 - alpha)
    return ((over_white + 127) // 255).astype(np.uint8)


def has_alpha(pixels: Any) -> bool:
    """Return whether the last channel of decoded pixels is their transparency."""
    return pixels.ndim == 3 and pixels.shape[2] in (2, 4)


def shrink(pixels: Any, short_side: int) -> Any:
    """Resize an image to a short side in pixels, averaging areas."""
    return _scale(pixels, short_side / min(pixels.shape[:2]))


def _scale(pixels: Any, factor: float) -> Any:
    size = [max(1, round(factor * length)) for length in pixels.shape[1::-1]]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def grey_square(pixels: Any, side: int) -> Any:
    """Stretch an image to uint8 [side, side], grey."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    return np.asarray(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA))


def encode(
    pixels: Any, format: Literal["jpeg", "png"], quality: int = JPEG_QUALITY
) -> bytes:
    """Encode uint8 [height, width, 3]; a JPEG with libjpeg's quality, 1 to 100."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == "jpeg" else []
    done, encoded = cv2.imencode(f".{format}", pixels, options)
    if not done:
        raise ImageError(Code.UNENCODABLE, "could not be encoded again")
    return bytes(encoded)


def decode_rgb(encoded: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode an image to uint8 [height, width, 3], RGB, 0..255, or raise ImageError."""
    return np.asarray(_decode(encoded, cv2.IMREAD_COLOR_RGB)[0], np.uint8)


def _decode_small(encoded: bytes, side: int) -> Any:
    """Decode a record's image, at a reduced size if that leaves twice `side`."""
    jpeg = file_headers.JpegHeader.read(encoded)
    factor = reduction(jpeg.short_side, 2 * side) if jpeg else 1
    return as_bgr(decode_upright(encoded, factor)[0])


def thumbnail(encoded: bytes, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Stretch a record's image to uint8 [side, side, 3], or raise ImageError."""
    small = _decode_small(encoded, side)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_AREA))


def thumbnail_jpeg(encoded: bytes, side: int) -> bytes:
    """Shrink a record's image to fit a square, for a page, or raise ImageError."""
    return encode(_fit(_decode_small(encoded, side), side), "jpeg", _PAGE_QUALITY)


def page_jpeg(
    pixels: np.ndarray, *, side: int = 0, quality: int = _PAGE_QUALITY
) -> bytes:
    """Encode uint8 [height, width, 3], RGB, for a page.

    `side` is the longest side of the result, in pixels; 0 keeps the size.
    """
    small = _fit(pixels, side) if side else pixels
    return encode(cv2.cvtColor(small, cv2.COLOR_RGB2BGR), "jpeg", quality)


def _fit(pixels: Any, side: int) -> Any:
    return _scale(pixels, min(1.0, side / max(pixels.shape[:2])))


def warp(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Move uint8 pixels by an affine map, bilinearly; the border continues outwards.

    The matrix, float [2, 3], times (column, row, 1) of a pixel of the result gives the
    column and row that the pixel comes from.
    """
    flags, border = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
    size = pixels.shape[1::-1]
    return cv2.warpAffine(pixels, matrix, size, flags=flags, borderMode=border)


def adjust_colours(
    pixels: np.ndarray, brightness: float, contrast: float, saturation: float
) -> np.ndarray:
    """Change brightness, contrast and saturation of uint8 [height, width, 3], RGB.

    In this order, the factors multiply the pixels, their distance from the image's mean
    grey, and their distance from their own grey. The result is clipped to 0..255.

    Source: the definitions of torchvision's ColorJitter.
    """
    mean = brightness * (_GREY_SHARES @ cv2.mean(pixels)[:3])
    mixing = saturation * np.eye(3) + (1 - saturation) * _GREY_SHARES
    offset = np.full((3, 1), (1 - contrast) * mean)
    matrix = np.concatenate([brightness * contrast * mixing, offset], axis=1)
    return cv2.transform(pixels, matrix)
