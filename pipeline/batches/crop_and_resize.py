"""Cut a window out of each image and resize it to the square that a network takes.

The geometry is that of "resize the short side to 256, then crop 224": a square window
of 224/256 of the short side is cut from the full-size image and resized once, so only
the window is decoded. Windows are computed with NumPy from the sizes in the manifest;
pixels are decoded and resized in a TensorFlow graph.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.batches.input_spec import InputSpec


def seeded_generator(key: tuple[int, ...]) -> np.random.Generator:
    """Return a generator whose numbers depend on `key` alone, on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """How a network sees each image: which window, mirrored or not, how augmented.

    Attributes:
        windows: int32 [num_images, 4]: top, left, height, width, in pixels.
        mirrored: bool [num_images], left and right exchanged.
        numbers: float64 [num_images, k], numbers drawn for the random operations;
            None if all of these are off.
    """

    windows: np.ndarray
    mirrored: np.ndarray
    numbers: np.ndarray | None = None


def window_sides(sizes: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Return the sizes of the windows that a network sees.

    Sizes and result are int64 [num_images, 2]: height and width, in pixels.
    """
    share = spec.size_px / spec.short_side_px
    whole = sizes if spec.resize == "squash" else sizes.min(axis=1, keepdims=True)
    sides = np.maximum(1, np.rint(whole * share)).astype(np.int64)
    return np.broadcast_to(sides, sizes.shape)


def central_views(
    sizes: np.ndarray, spec: InputSpec, *, mirrored: bool = False
) -> Views:
    """Return the central window of images of these sizes, int64 [num_images, 2]."""
    sides = window_sides(sizes, spec)
    corners = (sizes - sides) // 2
    windows = np.concatenate([corners, sides], axis=1).astype(np.int32)
    return Views(windows=windows, mirrored=np.full(len(sizes), mirrored))


def cornered_views(sizes: np.ndarray, spec: InputSpec) -> tuple[Views, ...]:
    """Return five windows of each image: one in the centre, four in the corners.

    The corners are those of the central square with the image's short side; where the
    image is squashed, those of the whole image. Where a network sees the whole square,
    the five are the same.

    Returns:
        Views of centre, top left, top right, bottom left, bottom right.

    Source: Krizhevsky et al. 2012, section 4.1 (ten patches of a 256 x 256 image).
    """
    sides = window_sides(sizes, spec)
    squares = sizes
    if spec.resize == "crop":
        squares = np.broadcast_to(sizes.min(axis=1, keepdims=True), sizes.shape)
    first, room = (sizes - squares) // 2, squares - sides
    views = [central_views(sizes, spec)]
    for down_right in itertools.product((0, 1), repeat=2):
        corners = first + room * down_right
        windows = np.concatenate([corners, sides], axis=1).astype(np.int32)
        views.append(Views(windows=windows, mirrored=np.zeros(len(sizes), np.bool_)))
    return tuple(views)


def random_views(sizes: np.ndarray, spec: InputSpec, key: tuple[int, ...]) -> Views:
    """Return a random window of each image, mirrored half of the time.

    The result depends on the sizes and `key`, such as (seed, epoch), alone.

    Source: Krizhevsky et al. 2012, section 4.1 (random 224 crops of 256, mirrored).
    """
    uniform = seeded_generator(key).random((len(sizes), 3))
    sides = window_sides(sizes, spec)
    corners = np.floor(uniform[:, :2] * (sizes - sides + 1)).astype(np.int64)
    windows = np.concatenate([corners, sides], axis=1).astype(np.int32)
    return Views(windows=windows, mirrored=uniform[:, 2] < 0.5)


def decode_window(encoded: Any, is_png: Any, window: Any) -> Any:
    """Decode a part of an image to uint8 [height, width, 3], RGB, 0..255.

    Args:
        encoded: string scalar, a JPEG or PNG file.
        is_png: bool scalar tensor, or a Python bool when all images are of one format.
        window: int32 [4]: top, left, height, width, in pixels; inside the image.
    """

    def jpeg() -> Any:
        # INTEGER_ACCURATE equals OpenCV's decoder to the bit; the default is off by up
        # to 20 levels. Only the window is decoded.
        return tf.image.decode_and_crop_jpeg(
            encoded, window, channels=3, dct_method="INTEGER_ACCURATE"
        )

    def png() -> Any:
        image = tf.io.decode_png(encoded, channels=3)
        top, left, height, width = tf.unstack(window)
        return image[top : top + height, left : left + width]

    if isinstance(is_png, bool):
        return png() if is_png else jpeg()
    return tf.cond(is_png, png, jpeg)


def _halve(images: Any, size_px: int, by: tuple[int, int]) -> Any:
    """Divide height and width by the factors `by`, as often as `size_px` allows."""

    def too_large(images: Any) -> Any:
        sides = [tf.shape(images)[1 + axis] for axis in range(2) if by[axis] == 2]
        return tf.reduce_min(sides) >= 2 * size_px

    def half(images: Any) -> tuple[Any]:
        return (tf.nn.avg_pool2d(images, by, by, "VALID"),)

    invariant = tf.TensorShape([images.shape[0], None, None, 3])
    (small,) = tf.while_loop(too_large, half, [images], shape_invariants=[invariant])
    return small


def halve(images: Any, size_px: int, *, square: bool) -> Any:
    """Halve float32 [batch, height, width, 3] as `resize_all` does."""
    for by in ((2, 2),) if square else ((2, 2), (2, 1), (1, 2)):
        images = _halve(images, size_px, by)
    return images


def resize(image: Any, size_px: int, *, halving: bool, square: bool = True) -> Any:
    """Resize one image, [height, width, 3], as `resize_all` does."""
    return resize_all(image[None], size_px, halving=halving, square=square)[0]


def resize_all(images: Any, size_px: int, *, halving: bool, square: bool = True) -> Any:
    """Resize images to a square, with one filter that every export format has.

    Bilinear interpolation without antialiasing uses two pixels in each direction, so it
    would skip some when it shrinks by two or more. Images are therefore halved first,
    averaging 2 x 2 pixels, until less than a factor of two is left. Where they are not
    square, each side is halved on its own.

    Args:
        images: uint8 or float32 [batch, height, width, 3], 0..255.
        size_px: height and width of the result.
        halving: whether the graph halves; without it, every image must be less than
            twice too large.
        square: whether all images are square.

    Returns:
        uint8 [batch, size_px, size_px, 3], 0..255, rounded.
    """
    images = tf.cast(images, tf.float32)
    if halving:
        images = halve(images, size_px, square=square)
    images = tf.raw_ops.ResizeBilinear(
        images=images, size=(size_px, size_px), half_pixel_centers=True
    )
    images = tf.cast(images + 0.5, tf.uint8)
    images.set_shape([None, size_px, size_px, 3])
    return images


def mirror(image: Any, mirrored: Any) -> Any:
    """Exchange left and right of a [height, width, 3] image where `mirrored` is true.

    tf.reverse has a fast path for three channels; a strided slice took 0.7 ms an image.
    """
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
