"""Images and the numbers drawn for them -> the images that augmentation makes of them.

Single images are changed in NumPy and OpenCV, whose call from a graph is paid for many
times over: TensorFlow's own transform took four times as long. Batches are mixed by
TensorFlow. Only what is on is called, or becomes part of a graph.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.batches import random_augmentation

_GREY_LEVEL = 128  # of cutout's square


def change(
    augmentation: random_augmentation.Augmentation, image: Any, numbers: Any
) -> Any:
    """Moves, recolours and covers the pixels of one image, as far as that is on.

    Args:
        augmentation: what is on.
        image: uint8 [size_px, size_px, 3], RGB.
        numbers: float64 [k], a row of Views.numbers.

    Returns:
        The same shape and type.
    """
    # Deferred: without these operations, training needs no OpenCV.
    from pipeline.images import opencv

    opencv.use_one_thread()  # images are changed side by side

    def changed(pixels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        parts = augmentation.split(numbers)
        if augmentation.moves:
            pixels = opencv.warp(pixels, parts["geometry"].reshape(2, 3))
        if augmentation.recolours:
            pixels = opencv.adjust_colours(pixels, *parts["colour"])
        if augmentation.cutout:
            pixels = pixels.copy()
            side = augmentation.cutout_px(len(pixels))
            top, left = parts["cutout"].astype(int)
            rows, columns = (slice(max(0, n), n + side) for n in (top, left))
            pixels[rows, columns] = _GREY_LEVEL
        return pixels

    found = tf.numpy_function(changed, [image, numbers], tf.uint8, stateful=False)
    return tf.ensure_shape(found, image.shape)


def mix(
    augmentation: random_augmentation.Augmentation,
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
        numbers: float64 [batch, k], rows of Views.numbers; the first decides.
        num_classes: of the data set.

    Returns:
        Images of the same shape and type; float32 [batch, num_classes], the share of
        each class in each.
    """
    found = tf.unstack(augmentation.split(numbers[0])["mixing"])
    share, box = tf.cast(found[0], tf.float32), found[1:5]

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
