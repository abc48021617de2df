"""Turn the bytes of any image file into the image that a record holds.

Photos that are converted, predicted, evaluated from a folder or sent to the server all
pass `encode_for_record`, so training and use see the same pixels.
"""

import dataclasses
from typing import Any, Literal

import numpy as np

from pipeline.images import file_headers, opencv, perceptual_hash, photo_pixels
from pipeline.records.manifest_row import Code, ImageError, Reason
from pipeline.system import platform_support

# Cameras and scanners store values of 10, 12 and 14 bits unscaled in 16 bits.
_MOST_UNCERTAIN_BITS = 14


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordImage:
    """An image as a record holds it, with the facts that manifest_row.Row states.

    It is "copied" when `encoded` is the source, byte for byte.
    """

    encoded: bytes  # a whole JPEG or PNG file, upright, 8 bits, RGB or grey
    format: Literal["jpeg", "png"]
    height: int
    width: int
    orientation: int
    action: Literal["copied", "reencoded"]
    codes: tuple[str, ...] = ()
    reason: str = ""
    phash: str


def encode_for_record(
    data: bytes,
    *,
    resize_min: int = file_headers.RESIZE_MIN,
    white_level: int = 0,
    refuse_animated: bool = False,
) -> RecordImage:
    """Decode an image file in full and return what its record holds.

    A JPEG that decodes without complaint, upright, 8 bits, RGB or grey, with a short
    side of at most `resize_min`, is copied. Any other image is turned upright, laid
    over white where it is transparent, shrunk to that short side and encoded again:
    PNG stays PNG, the rest becomes JPEG of quality 95. A file that is refused or does
    not decode is an ImageError.

    For 0, `resize_min` sets no limit, and `white_level`, the 16-bit value that is
    white, is 65535. Pictures that it does not fit are refused: with 0, those that use
    at most 14 bits; otherwise those in which most values are above it.
    `refuse_animated` refuses an animation instead of using its first frame.
    """
    if not data:
        raise ImageError(Code.EMPTY, "empty file")
    platform_support.take_stderr_line()  # drops a message about an earlier file
    kind, jpeg = file_headers.sniff(data), file_headers.JpegHeader.read(data)
    frames = 1 if jpeg else photo_pixels.count_frames(data)
    if refuse_animated and frames > 1:
        raise ImageError(Code.ANIMATED, f"animated ({kind} of {frames} frames)")
    try:
        is_small = jpeg and (not resize_min or jpeg.short_side <= resize_min)
        if jpeg and is_small and not jpeg.oddity and (copied := _copied(data, jpeg)):
            return copied
        return _reencoded(data, jpeg, kind, frames, resize_min, white_level)
    except MemoryError as error:
        message = "too large for this machine's memory"
        raise ImageError(Code.OUT_OF_MEMORY, message) from error


def _copied(data: bytes, jpeg: file_headers.JpegHeader) -> RecordImage | None:
    """Return a JPEG as it is; None if it is not upright or the decoder complains.

    libjpeg reads all entropy-coded data at any size. It shrinks only so far that the
    lowest frequencies stay.
    """
    cell = opencv.reduction(jpeg.short_side, 2 * perceptual_hash.SIDE)
    grey, orientation = opencv.decode_grey(data, cell)
    if orientation != 1 or platform_support.take_stderr_line():
        return None
    return RecordImage(
        encoded=data,
        format="jpeg",
        height=jpeg.height,
        width=jpeg.width,
        orientation=1,
        action="copied",
        phash=perceptual_hash.hash_grey(grey, jpeg.height, jpeg.width, cell),
    )


def _reencoded(
    data: bytes,
    jpeg: file_headers.JpegHeader | None,
    kind: str,
    frames: int,
    resize_min: int,
    white_level: int,
) -> RecordImage:
    reduction = opencv.reduction(jpeg.short_side, resize_min) if jpeg else 1
    pixels, orientation = photo_pixels.decode_upright(data, reduction)
    warning = platform_support.take_stderr_line()
    if pixels.dtype == np.uint16:
        _check_white(kind, pixels, white_level)
    reasons = _differences(pixels, jpeg, kind, frames)
    if warning:
        reasons.append(Reason(Code.DECODER_WARNING, f"decoder: {warning}"))
    if orientation != 1:
        text = f"turned upright (EXIF orientation {orientation})"
        reasons.append(Reason(Code.TURNED_UPRIGHT, text))
    upright = opencv.as_bgr(pixels, white_level or opencv.WHITE)
    short_side = jpeg.short_side if jpeg else min(upright.shape[:2])
    if resize_min and short_side > resize_min:
        reasons.append(Reason(Code.SHRUNK, f"shrunk to short side {resize_min}"))
        upright = opencv.shrink(upright, resize_min)
    format: Literal["jpeg", "png"] = "png" if kind == "PNG" else "jpeg"
    side = 4 * perceptual_hash.SIDE
    grey = opencv.grey_square(upright, side)
    return RecordImage(
        encoded=opencv.encode(upright, format),
        format=format,
        height=upright.shape[0],
        width=upright.shape[1],
        orientation=orientation,
        action="reencoded",
        codes=tuple(reason.code for reason in reasons),
        reason=", ".join(reason.text for reason in reasons),
        phash=perceptual_hash.hash_grey(grey, side, side, 1),
    )


def _check_white(kind: str, pixels: Any, white_level: int) -> None:
    """Refuse a 16-bit picture that would come out dark, as X-rays do, or white."""
    colours = pixels[..., :-1] if opencv.has_alpha(pixels) else pixels
    if white_level and np.mean(colours > white_level) > 0.5:
        raise ImageError(
            Code.UNSUPPORTED_PIXELS,
            f"{kind} whose 16-bit values are mostly above {white_level}, which was "
            "stated as white (--white_level)",
        )
    bits = int(colours.max()).bit_length()
    if not white_level and 0 < bits <= _MOST_UNCERTAIN_BITS:
        raise ImageError(
            Code.UNSUPPORTED_PIXELS,
            f"{kind} that uses {bits} of its 16 bits, so that its white is unknown; "
            "state it when you convert, for instance --white_level=4095 for 12 bits",
        )


def _differences(
    pixels: Any, jpeg: file_headers.JpegHeader | None, kind: str, frames: int
) -> list[Reason]:
    """List how a file differs from a plain photo, and how it is converted."""
    reasons = []
    if jpeg is None:
        reasons.append(Reason(Code.NOT_JPEG, f"{kind} source"))
    elif jpeg.oddity:
        reasons.append(jpeg.oddity)
    if frames > 1:
        parts = "pages" if kind == "TIFF" else "frames"
        text = f"animated or of several pages: first of {frames} {parts}"
        reasons.append(Reason(Code.ANIMATED, text))
    if pixels.dtype == np.uint16:
        reasons.append(Reason(Code.SIXTEEN_BITS, "16-bit to 8-bit"))
    if opencv.has_alpha(pixels) and jpeg is None:
        reasons.append(Reason(Code.TRANSPARENT, "transparent parts laid over white"))
    return reasons
