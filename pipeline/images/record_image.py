"""Bytes of any image file -> bytes of a record, or the reason why not.

The one decoder of the project, and the only user of OpenCV: what is converted,
predicted, judged in a folder or posted to a server goes through `encode_for_record`, so
training and use see the same pixels.
"""

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any, Literal

from pipeline.images import decoding_settings

# OpenCV reads it when it is loaded, and asks a file's header before it allocates.
MAX_PIXELS_NAME = "OPENCV_IO_MAX_IMAGE_PIXELS"
_own_limit = os.environ.setdefault(MAX_PIXELS_NAME, str(decoding_settings.MAX_PIXELS))
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from pipeline.images import file_headers, perceptual_hash  # noqa: E402
from pipeline.records.reasons import Code, Reason  # noqa: E402

OPENCV_VERSION: str = cv2.__version__
JPEG_QUALITY = 95
_STRIP_ROWS = 64
# Shares of R, G and B in a pixel's grey. Source: ITU-R BT.601.
_GREY_SHARES = np.array([0.299, 0.587, 0.114])
_EXIF_ORIENTATION_TAG = 0x0112
# EXIF orientation -> (quarter turns counter-clockwise, then mirror left-right).
# Source: CIPA DC-008 (Exif 2.32), tag Orientation.
_TURNS = {
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}


class ImageError(ValueError):
    """These bytes cannot become a record.

    Attributes:
        kind: the reason; the message is the same reason as a sentence.
    """

    def __init__(self, kind: Code, message: str) -> None:
        super().__init__(kind, message)  # both, so that it can be pickled
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])


def no_memory() -> ImageError:
    """Returns the error to raise when an image does not fit into the memory."""
    return ImageError(Code.OUT_OF_MEMORY, "too large for this machine's memory")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordImage:
    """An image as a record holds it.

    Attributes:
        encoded: a whole JPEG or PNG file, upright, 8 bits, RGB or grey.
        format: of `encoded`.
        height: of `encoded`, in pixels.
        width: likewise.
        orientation: EXIF orientation that the source stated and that was applied.
        action: "copied" when `encoded` is the source, byte for byte.
        codes: why it was re-encoded, as members of reasons.Code; () if copied.
        reason: the same as a sentence; "" if copied.
        phash: perceptual hash, see phash.of.
    """

    encoded: bytes
    format: Literal["jpeg", "png"]
    height: int
    width: int
    orientation: int
    action: Literal["copied", "reencoded"]
    codes: tuple[str, ...] = ()
    reason: str = ""
    phash: str


STDERR = 2  # its file descriptor


class DecoderMessages:
    """Collects what libjpeg and its like print to stderr while they decode.

    Damage that a decoder survives ("Corrupt JPEG data: premature end of data segment")
    is told nowhere else. File descriptor 2 of the whole process is redirected, so this
    is for worker processes that only decode.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), STDERR)

    def new(self) -> str:
        """First line printed since the last call; "" if nothing was."""
        size = os.fstat(STDERR).st_size
        if not size:
            return ""
        text = os.pread(STDERR, min(size, 4096), 0)
        os.ftruncate(STDERR, 0)
        os.lseek(STDERR, 0, os.SEEK_SET)
        lines = text.decode("utf-8", "replace").strip().splitlines()
        return lines[0][:200] if lines else ""


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Within it, what decoders print to stderr goes nowhere; nor does anything else."""
    kept, nowhere = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDERR)
    try:
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
        os.close(nowhere)


def limit_pixels(max_pixels: int) -> None:
    """Sets the limit of processes that start from now on; this one keeps its own."""
    os.environ[MAX_PIXELS_NAME] = str(max_pixels)


def encode_for_record(
    data: bytes,
    *,
    resize_min: int,
    refuse_animated: bool = False,
    messages: DecoderMessages | None = None,
) -> RecordImage:
    """Decodes an image file in full and returns what a record shall hold.

    A JPEG that decodes without complaint, upright, 8 bits, RGB or grey, with a short
    side of at most `resize_min`, is taken as it is. Anything else is turned upright,
    laid over white where it is transparent, shrunk to that short side and encoded anew:
    PNG stays PNG, the rest becomes JPEG of quality 95.

    Args:
        data: the whole file.
        resize_min: longest short side that a record may have, in pixels; 0: no limit.
        refuse_animated: takes no animation, rather than its first frame.
        messages: where this process collects its decoders' complaints.

    Raises:
        ImageError: empty, no image that OpenCV reads, cut off, larger than allowed, or
            an animation that is refused.
    """
    if not data:
        raise ImageError(Code.EMPTY, "empty file")
    if messages:
        messages.new()  # of a file before this one, that did not decode
    jpeg = file_headers.JpegHeader.read(data) if data[:2] == b"\xff\xd8" else None
    if (
        jpeg
        and jpeg.may_be_copied(resize_min)
        and (hashed := _hash_if_sound(data, jpeg, messages))
    ):
        return RecordImage(
            encoded=data,
            format="jpeg",
            height=jpeg.height,
            width=jpeg.width,
            orientation=1,
            action="copied",
            phash=hashed,
        )
    kind = file_headers.sniff(data)
    frames = file_headers.frames(data)
    if refuse_animated and frames > 1:
        raise ImageError(Code.ANIMATED, f"animated ({kind} of {frames} frames)")
    raw, orientation = _decode_raw(data, _flags(data, jpeg, resize_min))
    complaint = messages.new() if messages else ""
    if kind == "TIFF" and not _is_same_again(data, raw):
        raise ImageError(
            Code.DECODES_DIFFERENTLY,
            "TIFF that decodes otherwise each time, a fault of its decoder; save it as "
            "PNG",
        )
    if raw.dtype.kind == "i" or raw.dtype == np.uint32:
        raise ImageError(
            Code.UNSUPPORTED_PIXELS,
            f"{kind} of {raw.dtype} numbers, of which white is not known; save it with "
            "8 or 16 bits",
        )
    reasons = _oddities(raw, jpeg, kind, frames)
    if complaint:
        reasons.append(Reason(Code.DECODER_WARNING, f"decoder: {complaint}"))
    pixels = _as_bgr(raw)
    if orientation != 1:
        text = f"turned upright (EXIF orientation {orientation})"
        reasons.append(Reason(Code.TURNED_UPRIGHT, text))
        pixels = _turn(pixels, orientation)
    short_side = min((jpeg.height, jpeg.width) if jpeg else pixels.shape[:2])
    if resize_min and short_side > resize_min:
        reasons.append(Reason(Code.SHRUNK, f"shrunk to short side {resize_min}"))
        pixels = _shrink(pixels, resize_min)
    form: Literal["jpeg", "png"] = "png" if kind == "PNG" else "jpeg"
    return RecordImage(
        encoded=_encode(pixels, form),
        format=form,
        height=pixels.shape[0],
        width=pixels.shape[1],
        orientation=orientation,
        action="reencoded",
        codes=tuple(reason.code for reason in reasons),
        reason=", ".join(reason.text for reason in reasons),
        phash=_hash(pixels),
    )


def _is_same_again(data: bytes, raw: Any) -> bool:
    """Whether a file decodes to the same pixels a second time.

    Of a planar TIFF of 16 bits with transparency, OpenCV 5.0 leaves some unset.
    """
    np.full(2 * raw.nbytes, 0x5A, np.uint8)  # what unset memory is likely to hold next
    again, _ = _decode_raw(data, int(cv2.IMREAD_UNCHANGED))
    return bool(np.array_equal(raw, again, equal_nan=raw.dtype.kind == "f"))


def _oddities(
    raw: Any, jpeg: file_headers.JpegHeader | None, kind: str, frames: int
) -> list[Reason]:
    """Lists what differs from a plain photo, and what is done about it."""
    reasons = []
    if jpeg is None:
        reasons.append(Reason(Code.NOT_JPEG, f"{kind} source"))
    elif jpeg.oddity:
        reasons.append(jpeg.oddity)
    if frames > 1:
        parts = "pages" if kind == "TIFF" else "frames"
        text = f"animated or of several pages: first of {frames} {parts}"
        reasons.append(Reason(Code.ANIMATED, text))
    if raw.dtype == np.uint16:
        reasons.append(Reason(Code.SIXTEEN_BITS, "16-bit to 8-bit"))
    elif raw.dtype != np.uint8:
        reasons.append(Reason(Code.FLOATING_POINT, f"{raw.dtype} to 8-bit"))
    channels = raw.shape[2] if raw.ndim == 3 else 1
    if channels in (2, 4) and jpeg is None:
        reasons.append(Reason(Code.TRANSPARENT, "transparent parts laid over white"))
    return reasons


def use_one_thread() -> None:
    """Keeps OpenCV from starting threads in a process that is one of many."""
    cv2.setNumThreads(1)


def decode_record(encoded: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decodes `RecordImage.encoded` to uint8 [height, width, 3], RGB, 0..255.

    Raises:
        ImageError: does not decode, or is larger than allowed.
    """
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error as error:
        raise _decoding_error(encoded, str(error)) from error
    if pixels is None:
        raise ImageError(Code.UNDECODABLE, "does not decode")
    return np.asarray(pixels, np.uint8)


def thumbnail(encoded: bytes, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Stretches `RecordImage.encoded` to uint8 [side, side, 3], BGR, 0..255.

    Raises:
        ImageError: does not decode.
    """
    jpeg = (
        file_headers.JpegHeader.read(encoded)
        if file_headers.sniff(encoded) == "JPEG"
        else None
    )
    pixels, _ = _decode(encoded, _flags(encoded, jpeg, 2 * side))
    size = (side, side)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def small_jpeg(encoded: bytes, side: int) -> bytes:
    """Shrinks `RecordImage.encoded` to fit a square, for a page.

    Raises:
        ImageError: does not decode.
    """
    is_jpeg = file_headers.sniff(encoded) == "JPEG"
    jpeg = file_headers.JpegHeader.read(encoded) if is_jpeg else None
    pixels, _ = _decode(encoded, _flags(encoded, jpeg, 2 * side))
    scale = min(1.0, side / max(pixels.shape[:2]))
    size = tuple(max(1, round(scale * length)) for length in pixels.shape[1::-1])
    return _encode(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), "jpeg", 80)


def jpeg_of(pixels: np.ndarray[Any, np.dtype[np.uint8]], quality: int = 90) -> bytes:
    """A JPEG of pixels, for a page.

    Args:
        pixels: uint8 [height, width, 3], RGB.
        quality: of libjpeg, 1..100.
    """
    return _encode(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), "jpeg", quality)


def picture_jpeg(pixels: np.ndarray, side: int) -> bytes:
    """A JPEG of uint8 [height, width, 3], RGB, shrunk to fit a square, for a page."""
    scale = min(1.0, side / max(pixels.shape[:2]))
    size = tuple(max(1, round(scale * length)) for length in pixels.shape[1::-1])
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return _encode(cv2.cvtColor(small, cv2.COLOR_RGB2BGR), "jpeg", 80)


def pixels_digest(data: bytes) -> bytes:
    """SHA-256 of what a viewer shows of an image file: same digest, same pixels.

    Raises:
        ImageError: does not decode.
    """
    pixels, orientation = _decode(data, _flags(data, None, 0))
    if orientation != 1:
        pixels = _turn(pixels, orientation)
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _hash_if_sound(
    data: bytes, jpeg: file_headers.JpegHeader, messages: DecoderMessages | None
) -> str:
    """Hash of a JPEG that decodes in full without complaint and is upright, or "".

    libjpeg reads all entropy-coded data whatever it makes of them; an eighth of the
    size in grey takes two thirds of the time of all pixels in colour.
    """
    cell, flag = _grey_flag(min(jpeg.height, jpeg.width))
    grey, orientation = _decode_raw(data, flag)
    if orientation != 1 or (messages and messages.new()):
        return ""
    return perceptual_hash.of(grey, jpeg.height, jpeg.width, cell)


def _grey_flag(short_side: int) -> tuple[int, int]:
    """By what libjpeg shall shrink, so that the lowest frequencies stay."""
    for cell, flag in (
        (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
        (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
        (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    ):
        if short_side >= cell * 2 * perceptual_hash.SIDE:
            return cell, int(flag)
    return 1, int(cv2.IMREAD_GRAYSCALE)


def _hash(pixels: Any) -> str:
    """Hash of uint8 [height, width, 3], BGR."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    side = 4 * perceptual_hash.SIDE
    grey = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    return perceptual_hash.of(np.asarray(grey), side, side, 1)


def _flags(data: bytes, jpeg: file_headers.JpegHeader | None, resize_min: int) -> int:
    if jpeg and resize_min:
        return _reduced_flag(min(jpeg.height, jpeg.width), resize_min)
    return int(
        cv2.IMREAD_COLOR if file_headers.sniff(data) == "JPEG" else cv2.IMREAD_UNCHANGED
    )


def _decode(data: bytes, flags: int) -> tuple[Any, int]:
    """Returns uint8 [height, width, 3], BGR, not yet turned; and the orientation."""
    pixels, orientation = _decode_raw(data, flags)
    return _as_bgr(pixels), orientation


def _decode_raw(data: bytes, flags: int) -> tuple[Any, int]:
    """Returns what OpenCV gives, not yet turned; and the orientation."""
    try:
        pixels, kinds, metadata = cv2.imdecodeWithMetadata(
            np.frombuffer(data, np.uint8), flags=flags | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except (cv2.error, MemoryError) as error:
        raise _decoding_error(data, str(error)) from error
    if pixels is None or pixels.size == 0:
        raise _decoding_error(data, "")
    exif = [
        m.tobytes()
        for kind, m in zip(kinds, metadata, strict=True)
        if kind == cv2.IMAGE_METADATA_EXIF
    ]
    tiff = data if file_headers.sniff(data) == "TIFF" else exif[0] if exif else b""
    return pixels, _orientation(tiff.removeprefix(b"Exif\0\0"))


def _reduced_flag(short_side: int, resize_min: int) -> int:
    """Lets libjpeg shrink by 2, 4 or 8 while it decodes, if that is still enough.

    The entropy-coded data are read in full all the same, so damage is found as before.
    """
    for factor, flag in (
        (8, cv2.IMREAD_REDUCED_COLOR_8),
        (4, cv2.IMREAD_REDUCED_COLOR_4),
        (2, cv2.IMREAD_REDUCED_COLOR_2),
    ):
        if short_side // factor >= resize_min:
            return int(flag)
    return int(cv2.IMREAD_COLOR)


def _decoding_error(data: bytes, opencv_message: str) -> ImageError:
    """Returns the error to raise when OpenCV does not decode a file.

    OpenCV has one class of errors; that an image exceeds the limit stands in the
    failed condition that its message quotes.
    """
    kind = file_headers.sniff(data)
    if any(
        condition in opencv_message
        for condition in ("CV_IO_MAX_IMAGE", "validateInputImageSize")
    ):
        limit = f"{int(_own_limit):,}" if _own_limit.isdigit() else _own_limit
        return ImageError(Code.TOO_MANY_PIXELS, f"{kind} larger than {limit} pixels")
    if kind in ("unknown", "PDF", "ZIP"):
        known = "" if kind == "unknown" else f" (a {kind} file)"
        text = f"not an image that OpenCV reads{known}"
        return ImageError(Code.NOT_AN_IMAGE, text)
    if kind == "HEIC":
        text = "HEIC, which OpenCV does not read; export the photo as JPEG"
        return ImageError(Code.UNSUPPORTED_FORMAT, text)
    text = f"{kind} that does not decode: cut off or damaged"
    return ImageError(Code.UNDECODABLE, text)


def _as_bgr(pixels: Any) -> Any:
    """Any decoded array -> uint8 BGR, transparency laid over white, as viewers do."""
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels
    found = np.empty((*pixels.shape[:2], 3), np.uint8)
    for top in range(0, len(pixels), _STRIP_ROWS):  # what is made on the way is large
        strip = slice(top, top + _STRIP_ROWS)
        found[strip] = _strip_as_bgr(pixels[strip])
    return found


def _strip_as_bgr(pixels: Any) -> Any:
    if pixels.dtype == np.uint16:
        pixels = (pixels.astype(np.uint32) * 255 + 32_767) // 65_535
    elif pixels.dtype != np.uint8:  # float formats hold 0..1
        finite = np.nan_to_num(pixels.astype(np.float32), nan=0, posinf=1, neginf=0)
        pixels = np.clip(finite, 0, 1) * 255 + 0.5
    pixels = pixels.astype(np.uint8, copy=False)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., -1:].astype(np.uint16)
    colour = pixels[..., :3] if pixels.shape[2] == 4 else pixels[..., :1].repeat(3, 2)
    over_white = colour.astype(np.uint16) * alpha + 255 * (255 - alpha)
    return ((over_white + 127) // 255).astype(np.uint8)


def _orientation(tiff: bytes) -> int:
    """Orientation from the first image directory of TIFF or EXIF bytes; 1 if none."""
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    start = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[start : start + 2], order)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        if int.from_bytes(tiff[entry : entry + 2], order) == _EXIF_ORIENTATION_TAG:
            value = int.from_bytes(tiff[entry + 8 : entry + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def _turn(pixels: Any, orientation: int) -> Any:
    quarter_turns, mirror = _TURNS[orientation]
    turned = np.rot90(pixels, quarter_turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirror else turned)


def _shrink(pixels: Any, short_side: int) -> Any:
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _encode(
    pixels: Any, kind: Literal["jpeg", "png"], quality: int = JPEG_QUALITY
) -> bytes:
    if kind == "png":
        done, encoded = cv2.imencode(".png", pixels)
    else:
        how = [cv2.IMWRITE_JPEG_QUALITY, quality]
        done, encoded = cv2.imencode(".jpg", pixels, how)
    if not done:
        raise ImageError(Code.UNENCODABLE, "could not be encoded again")
    return bytes(encoded)


def moved(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Takes each pixel from elsewhere, bilinearly; beyond the border is the nearest.

    Args:
        pixels: uint8 [height, width, 3].
        matrix: float [2, 3]: times (column, row, 1) of a pixel of the result, column
            and row where it comes from.
    """
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = pixels.shape[1::-1]
    border = cv2.BORDER_REPLICATE
    return cv2.warpAffine(pixels, matrix, size, flags=flags, borderMode=border)


def recoloured(
    pixels: np.ndarray, brightness: float, contrast: float, saturation: float
) -> np.ndarray:
    """Changes brightness, then contrast, then saturation, clipped once to 0..255.

    Args:
        pixels: uint8 [height, width, 3], RGB.
        brightness: factor of the pixels.
        contrast: factor of their distance from the image's mean grey.
        saturation: factor of their distance from their own grey.

    Source: the definitions of torchvision's ColorJitter.
    """
    mean = brightness * (_GREY_SHARES @ cv2.mean(pixels)[:3])
    own = saturation * np.eye(3) + (1 - saturation) * _GREY_SHARES
    offset = np.full((3, 1), (1 - contrast) * mean)
    matrix = np.concatenate([brightness * contrast * own, offset], axis=1)
    return cv2.transform(pixels, matrix)
