"""Augment images with the random numbers that were drawn for them.

Geometry and colour of single images are changed by OpenCV through `tf.numpy_function`.
Including the call, that is four times as fast as TensorFlow's own image transform.
Batches are mixed by TensorFlow. Operations that are off are not part of the graph.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.batches import augmentation_settings

_GREY_LEVEL = 128  # of cutout's square


def augment(
    augmentation: augmentation_settings.Augmentation, image: Any, numbers: Any
) -> Any:
    """Move, recolour and cover the pixels of one image, as far as that is on.

    Image and result are uint8 [size_px, size_px, 3], RGB; `numbers` is a row of
    Views.numbers, float64 [k].
    """
    # Imported here: without these operations, training needs no OpenCV.
    from pipeline.images import opencv

    opencv.use_one_thread()  # images are changed side by side

    def change(pixels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
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

    changed = tf.numpy_function(change, [image, numbers], tf.uint8, stateful=False)
    return tf.ensure_shape(changed, image.shape)


def mix(
    augmentation: augmentation_settings.Augmentation,
    images: Any,
    labels: Any,
    numbers: Any,
    num_classes: int,
) -> tuple[Any, Any]:
    """Mix each image of a batch, and its label, with the image before it.

    Images are uint8 [batch, size_px, size_px, 3], labels int32 [batch], 0-based. Of
    `numbers`, rows of Views.numbers, the first is used. The other result is the share
    of each class in each image, float32 [batch, num_classes].
    """
    mixing = tf.unstack(augmentation.split(numbers[0])["mixing"])
    share = tf.cast(mixing[0], tf.float32)
    box = [tf.cast(edge, tf.int32) for edge in mixing[1:5]]
    mixed = tf.cond(
        mixing[5] > 0, lambda: _paste(images, box), lambda: _blend(images, share)
    )
    classes = tf.one_hot(labels, num_classes)
    return mixed, (1 - share) * classes + share * tf.roll(classes, 1, 0)


def _paste(images: Any, box: Sequence[Any]) -> Any:
    """Paste the same part of the image before into each image of a batch."""
    top, left, bottom, right = box
    # Copies of slices: choosing pixel by pixel took ten times as long.
    middle = images[:, top:bottom]
    part = tf.roll(middle[:, :, left:right], 1, 0)
    middle = tf.concat([middle[:, :, :left], part, middle[:, :, right:]], 2)
    mixed = tf.concat([images[:, :top], middle, images[:, bottom:]], 1)
    return tf.ensure_shape(mixed, images.shape)


def _blend(images: Any, share: Any) -> Any:
    """Blend each image of a batch with a share of the image before it.

    Images are blended one by one, which is four times as fast: they stay in the
    processor's cache.
    """

    def blend_pair(number: Any) -> Any:
        image = tf.cast(images[number], tf.float32)
        partner = tf.cast(images[number - 1], tf.float32)
        return tf.cast(image + share * (partner - image) + 0.5, tf.uint8)

    spec = tf.TensorSpec(images.shape[1:], tf.uint8)
    numbers = tf.range(tf.shape(images)[0])
    return tf.map_fn(
        blend_pair, numbers, fn_output_signature=spec, parallel_iterations=1
    )
