"""Bytes or pixels of photos -> what a network sees, by TensorFlow operations alone.

What conversion and preprocessing do (record_image and preprocess), for graphs
that run without Python. Where conversion would encode a photo anew, so does the graph.
"""

from typing import Any

import tensorflow as tf

from model.export import exif
from pipeline.batches import preprocess
from pipeline.images import record_image

_JPEG_MAGIC = b"\xff\xd8"
_DEPTH_AT = 24  # where a PNG says how many bits a sample has; source: its IHDR chunk


def view_of_photo(
    encoded: Any, spec: preprocess.InputSpec, resize_min: int = record_image.RESIZE_MIN
) -> Any:
    """An image file as a network sees it.

    Args:
        encoded: string scalar, a JPEG or PNG file of any size; a JPEG may be turned.
        spec: of the network.
        resize_min: longest short side that conversion keeps, in pixels; 0: no limit.

    Returns:
        uint8 [size_px, size_px, 3], RGB, 0..255.

    Raises:
        tf.errors.InvalidArgumentError: when it runs on something else.
    """
    is_jpeg = tf.strings.substr(encoded, 0, 2) == _JPEG_MAGIC
    pixels = tf.cond(
        is_jpeg,
        lambda: _jpeg_window(encoded, spec, resize_min),
        lambda: _window(_shrink(_decode_png(encoded)[None], resize_min), spec)[0],
    )
    pixels.set_shape([None, None, 3])
    square = spec.resize == "crop"
    return preprocess.resize(pixels, spec.size_px, halve=True, square=square)


def view_of_images(
    images: Any, spec: preprocess.InputSpec, resize_min: int = record_image.RESIZE_MIN
) -> Any:
    """Upright images, of one size in a batch, as a network sees them.

    Args:
        images: uint8 or float32 [batch, height, width, 3], RGB, 0..255.
        spec: of the network.
        resize_min: longest short side that conversion keeps, in pixels; 0: no limit.

    Returns:
        uint8 [batch, size_px, size_px, 3], RGB, 0..255.
    """
    pixels = _window(_shrink(images, resize_min), spec)
    square = spec.resize == "crop"
    return preprocess.resize_all(pixels, spec.size_px, halve=True, square=square)


def portable_view_of_images(images: Any, spec: preprocess.InputSpec) -> Any:
    """`view_of_images` by simple operations alone, for formats that lack others.

    Large images are not shrunk first, as conversion does.
    """
    pixels = tf.cast(_window(images, spec), tf.float32)
    square = spec.resize == "crop"
    pixels = preprocess.halved(pixels, spec.size_px, square=square)
    pixels = _interpolated(_interpolated(pixels, 2, spec.size_px), 1, spec.size_px)
    return tf.cast(pixels + 0.5, tf.uint8)


def _interpolated(images: Any, axis: int, size_px: int) -> Any:
    """Linear along one axis, adding up in the order of TensorFlow's ResizeBilinear.

    Other libraries' own resizing rounds pixels that lie between two levels otherwise:
    in ONNX Runtime some 50 values of a photo, by which probabilities were up to 4e-4
    apart. So it is one value in a dozen photos.
    """
    length = tf.shape(images)[axis]
    # In float64, for converters multiply by 1 / size_px, which rounds otherwise.
    scale = tf.cast(tf.cast(length, tf.float64) / size_px, tf.float32)
    centres = tf.constant([n + 0.5 for n in range(size_px)], tf.float32)
    places = centres * scale - 0.5
    floor = tf.floor(places)
    before = tf.cast(tf.maximum(floor, 0), tf.int32)
    after = tf.minimum(tf.cast(tf.math.ceil(places), tf.int32), length - 1)
    share = tf.reshape(places - floor, [-1, *[1] * (3 - axis)])
    first = tf.gather(images, before, axis=axis)
    return first + (tf.gather(images, after, axis=axis) - first) * share


def _central(height: Any, width: Any, spec: preprocess.InputSpec) -> Any:
    """int32 [4]: the window of preprocess.central_views."""
    sizes = tf.stack([height, width])
    whole = (
        sizes
        if spec.resize == "squash"
        else tf.reduce_min(sizes) + tf.zeros_like(sizes)
    )
    share = spec.size_px / spec.short_side_px
    exact = tf.cast(whole, tf.float64) * share
    sides = tf.maximum(1, tf.cast(tf.round(exact), tf.int32))
    return tf.concat([(sizes - sides) // 2, sides], axis=0)


def _window(images: Any, spec: preprocess.InputSpec) -> Any:
    """The central window of [batch, height, width, 3]."""
    shape = tf.shape(images)
    top, left, height, width = tf.unstack(_central(shape[1], shape[2], spec))
    return images[:, top : top + height, left : left + width]


def _jpeg_window(encoded: Any, spec: preprocess.InputSpec, resize_min: int) -> Any:
    """uint8 [height, width, 3]: the central window of a JPEG, upright."""
    limit = resize_min or tf.int32.max
    shape = tf.io.extract_jpeg_shape(encoded)
    short_side = tf.minimum(shape[0], shape[1])
    turned = exif.orientation(encoded)

    def encoded_anew() -> Any:
        # Whole halves come for nothing with decoding; record_image takes them too.
        halves = tf.add_n(
            [tf.cast(short_side // n >= limit, tf.int32) for n in (2, 4, 8)]
        )
        branches = [_jpeg_decoder(encoded, ratio) for ratio in (1, 2, 4, 8)]
        pixels = _turn(tf.switch_case(halves, branches), turned)
        pixels = tf.cast(_shrink(pixels[None], resize_min)[0], tf.uint8)
        pixels.set_shape([None, None, 3])
        return tf.io.encode_jpeg(pixels, quality=record_image.JPEG_QUALITY)

    is_taken_as_it_is = (short_side <= limit) & (turned == 1)
    stored = tf.cond(is_taken_as_it_is, lambda: encoded, encoded_anew)
    stored_shape = tf.io.extract_jpeg_shape(stored)
    window = _central(stored_shape[0], stored_shape[1], spec)
    return preprocess.decode_window(stored, False, window)


def _jpeg_decoder(encoded: Any, ratio: int) -> Any:
    return lambda: tf.io.decode_jpeg(
        encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
    )


def _turn(pixels: Any, orientation: Any) -> Any:
    """Turns [height, width, 3] upright; see record_image for the orientations."""

    def one_of(*numbers: int) -> Any:
        return tf.reduce_any(orientation == tf.constant(numbers))

    def changed(condition: Any, function: Any, pixels: Any) -> Any:
        return tf.cond(condition, lambda: function(pixels), lambda: pixels)

    pixels = changed(
        orientation >= 5, lambda whole: tf.transpose(whole, (1, 0, 2)), pixels
    )
    pixels = changed(one_of(2, 3, 6, 7), lambda whole: tf.reverse(whole, [1]), pixels)
    return changed(one_of(3, 4, 7, 8), lambda whole: tf.reverse(whole, [0]), pixels)


def _shrink(images: Any, resize_min: int) -> Any:
    """Shrinks by area to that short side where it is longer; rounds."""
    if not resize_min:
        return images
    sizes = tf.shape(images)[1:3]
    short_side = tf.reduce_min(sizes)

    def smaller() -> Any:
        scale = resize_min / tf.cast(short_side, tf.float64)
        size = tf.round(tf.cast(sizes, tf.float64) * scale)
        found = tf.raw_ops.ResizeArea(
            images=images, size=tf.maximum(1, tf.cast(size, tf.int32))
        )
        return tf.cast(tf.round(found), images.dtype)

    return tf.cond(short_side > resize_min, smaller, lambda: images)


def _decode_png(encoded: Any) -> Any:
    """uint8 [height, width, 3]: a PNG of any kind, laid over white."""
    is_deep = (
        tf.strings.substr(encoded + b"\0" * (_DEPTH_AT + 1), _DEPTH_AT, 1) == b"\x10"
    )

    def deep() -> Any:
        found = tf.io.decode_png(encoded, channels=4, dtype=tf.uint16)
        return (tf.cast(found, tf.int32) * 255 + 32_767) // 65_535

    def usual() -> Any:
        return tf.cast(tf.io.decode_png(encoded, channels=4), tf.int32)

    found = tf.cond(is_deep, deep, usual)
    alpha = found[..., 3:]
    over_white = found[..., :3] * alpha + 255 * (255 - alpha)
    return tf.cast((over_white + 127) // 255, tf.uint8)
