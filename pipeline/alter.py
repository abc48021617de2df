"""Images and the numbers drawn for them -> the images that augmentation makes of them.

Tensor functions of the numbers that pipeline.augment draws; only what is on becomes
part of a graph.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from pipeline import augment

_GREY_LEVEL = 128  # of cutout's square
# Shares of R, G and B in a pixel's grey. Source: ITU-R BT.601.
_GREY_SHARES = (0.299, 0.587, 0.114)


def _split(augmentation: augment.Augmentation, numbers: Any) -> dict[str, Any]:
    """{group of operations that is on: its part of the last axis}."""
    widths = augmentation.widths
    parts = tf.split(numbers, list(widths.values()), axis=-1)
    return dict(zip(widths, parts, strict=True))


def change(augmentation: augment.Augmentation, image: Any, numbers: Any) -> Any:
    """Moves, recolours and covers the pixels of one image, as far as that is on.

    Args:
        augmentation: what is on.
        image: uint8 [size_px, size_px, 3], RGB.
        numbers: float32 [k], a row of Views.numbers.

    Returns:
        The same shape and type.
    """
    parts = _split(augmentation, numbers)
    if augmentation.moves or augmentation.recolours:
        pixels = tf.cast(image, tf.float32)
        if augmentation.moves:
            pixels = _move(pixels, parts["geometry"])
        if augmentation.recolours:
            pixels = _recolour(augmentation, pixels, parts["colour"])
        image = tf.cast(pixels + 0.5, tf.uint8)
    if augmentation.cutout:
        size_px = image.shape[0]
        side = augmentation.cutout_px(size_px)
        top, left = tf.unstack(tf.cast(parts["cutout"], tf.int32))
        inside = _box(size_px, top, left, side)
        grey = tf.constant(_GREY_LEVEL, tf.uint8)
        flat = tf.reshape(image, [size_px, -1])
        image = tf.reshape(tf.where(inside, grey, flat), image.shape)
    return image


def _move(pixels: Any, numbers: Any) -> Any:
    """Takes each pixel from elsewhere, bilinearly; beyond the border is the nearest."""
    size_px = pixels.shape[0]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=tf.pad(numbers, [[0, 2]])[None],
        output_shape=(size_px, size_px),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )[0]
    moved.set_shape([size_px, size_px, 3])
    return moved


def _recolour(augmentation: augment.Augmentation, pixels: Any, numbers: Any) -> Any:
    """Brightness, then contrast, then saturation as one sum, clipped once to 0..255."""
    brightness, contrast, saturation = tf.unstack(numbers)
    shares = tf.constant(_GREY_SHARES)
    flat = tf.reshape(pixels, [-1, 3])
    offset = 0.0
    if augmentation.contrast:
        mean = tf.reduce_sum(tf.reduce_mean(flat, 0) * shares)
        offset = (1 - contrast) * brightness * mean
    scale = brightness * contrast
    if augmentation.saturation:
        own = saturation * tf.eye(3) + (1 - saturation) * shares[:, None]
        flat = tf.matmul(flat, scale * own)
    else:
        flat *= scale
    return tf.reshape(tf.clip_by_value(flat + offset, 0.0, 255.0), pixels.shape)


def _box(size_px: int, top: Any, left: Any, side: int) -> Any:
    """Whether a number of an image lies in a square; bool [size_px, 3 size_px].

    Spreading a last axis of 1 over three channels took five times as long.
    """
    places = tf.range(size_px)
    rows = (places >= top) & (places < top + side)
    columns = (places >= left) & (places < left + side)
    return rows[:, None] & tf.repeat(columns, 3)[None, :]


def mix(
    augmentation: augment.Augmentation,
    images: Any,
    labels: Any,
    numbers: Any,
    num_classes: int,
) -> tuple[Any, Any]:
    """Mixes each image of a batch, and its label, with that of the one before it.

    Args:
        augmentation: with mixup, cutmix or both.
        images: uint8 [batch, size_px, size_px, 3].
        labels: int32 [batch].
        numbers: float32 [batch, k], rows of Views.numbers; the first decides.
        num_classes: of the data set.

    Returns:
        Images of the same shape and type; float32 [batch, num_classes], the share of
        each class in each.
    """
    found = tf.unstack(_split(augmentation, numbers[0])["mixing"])
    share, *box = found[:5]

    def paste() -> Any:
        return _paste(images, [tf.cast(edge, tf.int32) for edge in box])

    def blend() -> Any:
        return _blend(images, share)

    if augmentation.mixup and augmentation.cutmix:
        mixed = tf.cond(found[5] > 0, paste, blend)
    else:
        mixed = paste() if augmentation.cutmix else blend()
    classes = tf.one_hot(labels, num_classes)
    return mixed, (1 - share) * classes + share * tf.roll(classes, 1, 0)


def _paste(images: Any, box: Sequence[Any]) -> Any:
    """Gives each image of a batch the same part of the one before it.

    Args:
        images: uint8 [batch, size_px, size_px, 3].
        box: of the part: top, left, bottom and right, int32 scalars.
    """
    # Copies of slices: choosing pixel by pixel took ten times as long.
    top, left, bottom, right = box
    middle = images[:, top:bottom]
    part = tf.roll(middle[:, :, left:right], 1, 0)
    middle = tf.concat([middle[:, :, :left], part, middle[:, :, right:]], 2)
    mixed = tf.concat([images[:, :top], middle, images[:, bottom:]], 1)
    return tf.ensure_shape(mixed, images.shape)


def _blend(images: Any, share: Any) -> Any:
    """Adds to each image of a batch a share of the one before it, and rounds.

    One image after the other stays in the processor's cache: four times as fast.
    """

    def one(number: Any) -> Any:
        own = tf.cast(images[number], tf.float32)
        other = tf.cast(images[number - 1], tf.float32)
        return tf.cast(own + share * (other - own) + 0.5, tf.uint8)

    spec = tf.TensorSpec(images.shape[1:], tf.uint8)
    numbers = tf.range(tf.shape(images)[0])
    return tf.map_fn(one, numbers, fn_output_signature=spec, parallel_iterations=1)
