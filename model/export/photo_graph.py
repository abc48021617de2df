"""Compute what a network sees of photos, in TensorFlow operations alone.

The graphs run without Python. They do what conversion (pipeline.images.record_image)
and pipeline.batches.crop_and_resize do, and encode a photo again where conversion does.
EXIF orientation is read by walking the segments of a JPEG to the first that holds EXIF,
and searching the first image directory there. A JPEG whose EXIF is damaged or points
outside the segment counts as upright.

Sources: ITU-T T.81 (JPEG), B.1.1; CIPA DC-008 (Exif 2.32), tag Orientation.
"""

import functools
from typing import Any

import tensorflow as tf

from pipeline.batches import crop_and_resize
from pipeline.batches.input_spec import InputSpec
from pipeline.images import file_headers, opencv

_DEPTH_AT = 24  # offset of the bits per sample in a PNG; source: its IHDR chunk
_ORIENTATION_TAG = 0x0112
_ENTRY_BYTES = 12  # bytes of an entry of an image directory
_EXIF = b"Exif\0\0"
_FILL, _APP1, _SCAN, _END = 0xFF, 0xE1, 0xDA, 0xD9


def view_of_photo(
    encoded: Any,
    spec: InputSpec,
    resize_min: int = file_headers.RESIZE_MIN,
    white_level: int = 0,
) -> Any:
    """Return the view of an image file: uint8 [size_px, size_px, 3], RGB.

    `encoded` is a string scalar, a JPEG or PNG file of any size; a JPEG may have an
    EXIF orientation.
    `resize_min` and `white_level` are those of the run's records.
    """

    def png_window() -> Any:
        images = _decode_png(encoded, white_level)[None]
        return _window(_shrink(images, resize_min), spec)[0]

    pixels = tf.cond(
        tf.strings.substr(encoded, 0, 2) == b"\xff\xd8",
        lambda: _jpeg_window(encoded, spec, resize_min),
        png_window,
    )
    pixels.set_shape([None, None, 3])
    square = spec.keeps_aspect
    return crop_and_resize.resize(pixels, spec.size_px, halving=True, square=square)


def view_of_images(
    images: Any, spec: InputSpec, resize_min: int = file_headers.RESIZE_MIN
) -> Any:
    """Return the views of upright images: uint8 [batch, size_px, size_px, 3], RGB.

    Images are uint8 or float32 [batch, height, width, 3], RGB, 0..255.
    """
    pixels = _window(_shrink(images, resize_min), spec)
    square = spec.keeps_aspect
    return crop_and_resize.resize_all(pixels, spec.size_px, halving=True, square=square)


def portable_view_of_images(images: Any, spec: InputSpec) -> Any:
    """Return what `view_of_images` does, in operations that every format has.

    Unlike conversion, it does not shrink large images first.
    """
    pixels = tf.cast(_window(images, spec), tf.float32)
    pixels = crop_and_resize.halve(pixels, spec.size_px, square=spec.keeps_aspect)
    pixels = _interpolated(_interpolated(pixels, 2, spec.size_px), 1, spec.size_px)
    return tf.cast(pixels + 0.5, tf.uint8)


def _interpolated(images: Any, axis: int, size_px: int) -> Any:
    """Resize linearly along one axis, and add in the order of TensorFlow's resizing.

    ONNX Runtime's own resizing rounds about 50 values of a photo to another level,
    which changes probabilities by up to 4e-4. This function changes one value in a
    dozen photos.
    """
    length = tf.shape(images)[axis]
    # In float64 because converters multiply by 1 / size_px, which rounds differently.
    scale = tf.cast(tf.cast(length, tf.float64) / size_px, tf.float32)
    centres = tf.constant([n + 0.5 for n in range(size_px)], tf.float32)
    positions = centres * scale - 0.5
    floor = tf.floor(positions)
    before = tf.cast(tf.maximum(floor, 0), tf.int32)
    after = tf.minimum(tf.cast(tf.math.ceil(positions), tf.int32), length - 1)
    share = tf.reshape(positions - floor, [-1, *[1] * (3 - axis)])
    first = tf.gather(images, before, axis=axis)
    return first + (tf.gather(images, after, axis=axis) - first) * share


def _central(height: Any, width: Any, spec: InputSpec) -> Any:
    """Return the window of crop_and_resize.central_views: int32 [4]."""
    sizes = tf.stack([height, width])
    whole = sizes
    if spec.keeps_aspect:
        side = tf.reduce_max if spec.resize == "pad" else tf.reduce_min
        whole = tf.fill([2], side(sizes))
    exact = tf.cast(whole, tf.float64) * (spec.size_px / spec.short_side_px)
    sides = tf.maximum(1, tf.cast(tf.round(exact), tf.int32))
    # This is (sizes - sides) // 2; converters would round that towards 0 below 0.
    beyond = tf.maximum(sides - sizes + 1, 0) // 2
    corners = tf.maximum(sizes - sides, 0) // 2 - beyond
    return tf.concat([corners, sides], axis=0)


def _window(images: Any, spec: InputSpec) -> Any:
    """Return the central window of [batch, height, width, 3]."""
    shape = tf.shape(images)
    window = _central(shape[1], shape[2], spec)
    pixels = crop_and_resize.cut(images, window)
    fill = spec.fill
    return crop_and_resize.surround(pixels, window, fill) if fill else pixels


def _jpeg_window(encoded: Any, spec: InputSpec, resize_min: int) -> Any:
    """Return the central window of a JPEG, upright: uint8 [height, width, 3]."""
    limit = resize_min or tf.int32.max
    shape = tf.io.extract_jpeg_shape(encoded)
    short_side = tf.minimum(shape[0], shape[1])
    turned = orientation(encoded)

    def encode_again() -> Any:
        # Decoding can halve a JPEG at no cost; record_image does the same.
        can_halve = [tf.cast(short_side // n >= limit, "int32") for n in (2, 4, 8)]
        halves = tf.add_n(can_halve)
        decode = functools.partial(
            tf.io.decode_jpeg, encoded, channels=3, dct_method="INTEGER_ACCURATE"
        )
        branches = [functools.partial(decode, ratio=ratio) for ratio in (1, 2, 4, 8)]
        pixels = _turn(tf.switch_case(halves, branches), turned)
        pixels = tf.cast(_shrink(pixels[None], resize_min)[0], tf.uint8)
        pixels.set_shape([None, None, 3])
        return tf.io.encode_jpeg(pixels, quality=opencv.JPEG_QUALITY)

    is_copied = (short_side <= limit) & (turned == 1)
    stored = tf.cond(is_copied, lambda: encoded, encode_again)
    stored_shape = tf.io.extract_jpeg_shape(stored)
    window = _central(stored_shape[0], stored_shape[1], spec)
    return crop_and_resize.decode_window(stored, False, window, spec.fill)


def _turn(pixels: Any, turned: Any) -> Any:
    """Turn [height, width, 3] upright from an EXIF orientation, 1 to 8."""

    def one_of(*numbers: int) -> Any:
        return tf.reduce_any(turned == tf.constant(numbers))

    def changed(condition: Any, function: Any, pixels: Any) -> Any:
        return tf.cond(condition, lambda: function(pixels), lambda: pixels)

    pixels = changed(turned >= 5, lambda whole: tf.transpose(whole, (1, 0, 2)), pixels)
    pixels = changed(one_of(2, 3, 6, 7), lambda whole: tf.reverse(whole, [1]), pixels)
    return changed(one_of(3, 4, 7, 8), lambda whole: tf.reverse(whole, [0]), pixels)


def _shrink(images: Any, resize_min: int) -> Any:
    """Shrink images by area if the short side is longer than `resize_min`; round."""
    if not resize_min:
        return images
    sizes = tf.shape(images)[1:3]
    short_side = tf.reduce_min(sizes)

    def smaller() -> Any:
        scale = resize_min / tf.cast(short_side, tf.float64)
        size = tf.round(tf.cast(sizes, tf.float64) * scale)
        pixels = tf.raw_ops.ResizeArea(
            images=images, size=tf.maximum(1, tf.cast(size, tf.int32))
        )
        return tf.cast(tf.round(pixels), images.dtype)

    return tf.cond(short_side > resize_min, smaller, lambda: images)


def _decode_png(encoded: Any, white_level: int) -> Any:
    """Decode a PNG of any kind over white: uint8 [height, width, 3]."""
    padded = encoded + b"\0" * (_DEPTH_AT + 1)
    is_deep = tf.strings.substr(padded, _DEPTH_AT, 1) == b"\x10"

    whites = tf.constant([white_level or opencv.WHITE] * 3 + [opencv.WHITE])

    def decode(dtype: Any) -> Any:
        return tf.cast(tf.io.decode_png(encoded, channels=4, dtype=dtype), tf.int32)

    pixels = tf.cond(
        is_deep,
        lambda: (tf.minimum(decode(tf.uint16), whites) * 255 + whites // 2) // whites,
        lambda: decode(tf.uint8),
    )
    alpha = pixels[..., 3:]
    over_white = pixels[..., :3] * alpha + 255 * (255 - alpha)
    return tf.cast((over_white + 127) // 255, tf.uint8)


def orientation(encoded: Any) -> Any:
    """Read the EXIF orientation of a JPEG: int32, 1 to 8; 1 if it is not stated."""
    # One zero at the end stands for all positions beyond the file.
    octets = tf.io.decode_raw(encoded + b"\0", tf.uint8)
    start, end = _exif_segment(octets)
    return tf.cond(
        end > start, lambda: _read_directory(octets, start, end), lambda: tf.constant(1)
    )


def _at(octets: Any, positions: Any) -> Any:
    """Return the bytes at these positions, 0 beyond the end: int64."""
    last = tf.size(octets, tf.int64) - 1
    return tf.cast(tf.gather(octets, tf.clip_by_value(positions, 0, last)), tf.int64)


def _number(octets: Any, positions: Any, size: int, little: Any) -> Any:
    """Return the numbers of `size` bytes at positions: int64 of the same shape."""
    steps = tf.range(size, dtype=tf.int64)
    powers = tf.where(little, steps, size - 1 - steps)
    digits = _at(octets, positions[..., None] + steps)
    return tf.reduce_sum(tf.bitwise.left_shift(digits, 8 * powers), axis=-1)


def _exif_segment(octets: Any) -> tuple[Any, Any]:
    """Return where the first EXIF begins and ends: int64 scalars; 0 and 0 without."""
    size = tf.size(octets, tf.int64) - 1
    zero = tf.constant(0, tf.int64)

    def continues(position: Any, start: Any, _: Any) -> Any:
        return (start == 0) & (position < size)

    def step(position: Any, start: Any, end: Any) -> tuple[Any, Any, Any]:
        marker = _at(octets, position + 1)
        length = _number(octets, position + 2, 2, little=False)
        is_fill = marker == _FILL
        stands_alone = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
        is_last = (marker == _SCAN) | (marker == _END) | (length < 2)
        is_last &= ~(is_fill | stands_alone)
        is_last |= _at(octets, position) != _FILL
        name = _at(octets, position + 4 + tf.range(len(_EXIF), dtype=tf.int64))
        is_exif = tf.reduce_all(name == tf.constant(list(_EXIF), tf.int64))
        is_exif &= (marker == _APP1) & ~is_last
        after = position + tf.where(
            is_fill, zero + 1, tf.where(stands_alone, zero + 2, length + 2)
        )
        return (
            tf.where(is_last, size, after),
            tf.where(is_exif, position + 4 + len(_EXIF), start),
            tf.where(is_exif, tf.minimum(after, size), end),
        )

    _, start, end = tf.while_loop(continues, step, [zero + 2, zero, zero])
    return start, end


def _read_directory(octets: Any, start: Any, end: Any) -> Any:
    """Return the orientation that the TIFF from `start` to `end` states: int32."""
    head = _at(octets, start + tf.range(4, dtype=tf.int64))
    little = tf.reduce_all(head == tf.constant(list(b"II*\0"), tf.int64))
    big = tf.reduce_all(head == tf.constant(list(b"MM\0*"), tf.int64))
    first = start + _number(octets, start + 4, 4, little)
    count = _number(octets, first, 2, little)
    stop = tf.minimum(first + 2 + _ENTRY_BYTES * count, end - _ENTRY_BYTES + 1)
    entries = tf.range(first + 2, tf.maximum(stop, first + 2), _ENTRY_BYTES)
    tags = _number(octets, entries, 2, little)
    values = _number(octets, entries + 8, 2, little)
    stated = tf.boolean_mask(values, tags == _ORIENTATION_TAG)
    first_stated = tf.cast(tf.concat([stated, [1]], 0)[0], tf.int32)
    is_known = (little | big) & (first_stated >= 1) & (first_stated <= 8)
    return tf.where(is_known, first_stated, 1)
