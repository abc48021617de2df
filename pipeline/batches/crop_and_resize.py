"""Cut a window out of each image and resize it to the square that a network takes.

The geometry is that of "resize the short side to 256, then crop 224": a square window
of 224/256 of the short side is cut from the full-size image and resized once, so only
the window is decoded. Windows are computed with NumPy from the sizes in the manifest;
pixels are decoded and resized in a TensorFlow graph. A window of a padded image reaches
beyond the image, and is filled there.
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
    """How a network sees each image: which window, mirrored or not, how augmented."""

    windows: np.ndarray  # int32 [num_images, 4]: top, left, height, width, in pixels
    mirrored: np.ndarray  # bool [num_images], left and right exchanged
    # float64 [num_images, k], numbers drawn for the random operations, if any is on.
    numbers: np.ndarray | None = None


def window_sides(sizes: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Return the sizes of the windows that a network sees.

    Sizes and result are int64 [num_images, 2]: height and width, in pixels.
    """
    share = spec.size_px / spec.short_side_px
    return np.maximum(1, np.rint(_resized(sizes, spec) * share)).astype(np.int64)


def _resized(sizes: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Return the sizes of what becomes a square of `short_side_px`, in pixels."""
    if spec.resize == "squash":
        return sizes
    side = (np.max if spec.resize == "pad" else np.min)(sizes, axis=1, keepdims=True)
    return np.broadcast_to(side, sizes.shape)


def padded_sizes(sizes: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Return the sizes of the images with what is filled around them, in pixels."""
    return np.maximum(sizes, _resized(sizes, spec))


def windows_at(corners: np.ndarray, sides: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return windows as Views has them, from top and left: int [num_images, 2].

    A window whose centre lies beyond the image is moved onto it, so that every window
    shows a part of the image.
    """
    corners = np.clip(corners, -(sides // 2), sizes - (sides + 1) // 2)
    return np.concatenate([corners, sides], axis=1).astype(np.int32)


def central_views(
    sizes: np.ndarray, spec: InputSpec, *, mirrored: bool = False
) -> Views:
    """Return the central window of images of these sizes, int64 [num_images, 2]."""
    sides = window_sides(sizes, spec)
    windows = windows_at((sizes - sides) // 2, sides, sizes)
    return Views(windows=windows, mirrored=np.full(len(sizes), mirrored))


def cornered_views(sizes: np.ndarray, spec: InputSpec) -> tuple[Views, ...]:
    """Return five views of each image: centre, top left and right, bottom left, right.

    The corners are those of the central square with the image's short side; where the
    image is squashed or padded, those of all of it. Where a network sees the whole
    square, the five are the same.

    Source: Krizhevsky et al. 2012, section 4.1 (ten patches of a 256 x 256 image).
    """
    sides = window_sides(sizes, spec)
    squares = _resized(sizes, spec)
    first, room = (sizes - squares) // 2, squares - sides
    views = [central_views(sizes, spec)]
    for down_right in itertools.product((0, 1), repeat=2):
        windows = windows_at(first + room * down_right, sides, sizes)
        views.append(Views(windows=windows, mirrored=np.zeros(len(sizes), np.bool_)))
    return tuple(views)


def drawn_views(sizes: np.ndarray, spec: InputSpec, uniform: np.ndarray) -> Views:
    """Return windows at random places, half of them mirrored.

    `uniform` decides them: float64 [num_images, 3], 0 <= u < 1. Source: Krizhevsky et
    al. 2012, section 4.1 (random 224 crops of 256, mirrored).
    """
    sides = window_sides(sizes, spec)
    padded = padded_sizes(sizes, spec)
    corners = np.floor(uniform[:, :2] * (padded - sides + 1)).astype(np.int64)
    windows = windows_at((sizes - padded) // 2 + corners, sides, sizes)
    return Views(windows=windows, mirrored=uniform[:, 2] < 0.5)


def decode_window(
    encoded: Any, is_png: Any, window: Any, fill: tuple[int, ...] | None = None
) -> Any:
    """Decode a part of a JPEG or PNG file to uint8 [height, width, 3], RGB, 0..255.

    `is_png` is a bool scalar tensor, or a Python bool when all images are of one
    format. `window` is a row of Views.windows. `fill` is the colour of the window
    beyond the image, R, G and B, 0..255; None if no window reaches beyond it.
    """

    def jpeg() -> Any:
        inside = window
        if fill:
            inside = inside_of(window, tf.io.extract_jpeg_shape(encoded)[:2])
        # INTEGER_ACCURATE equals OpenCV's decoder to the bit; the default is off by up
        # to 20 levels. Only the window is decoded.
        return tf.image.decode_and_crop_jpeg(
            encoded, inside, channels=3, dct_method="INTEGER_ACCURATE"
        )

    def png() -> Any:
        return cut(tf.io.decode_png(encoded, channels=3)[None], window)[0]

    if isinstance(is_png, bool):
        pixels = png() if is_png else jpeg()
    else:
        pixels = tf.cond(is_png, png, jpeg)
    return surround(pixels[None], window, fill)[0] if fill else pixels


def inside_of(window: Any, size: Any) -> Any:
    """Return the part of a window, int32 [4], inside an image of height and width."""
    first = tf.maximum(window[:2], 0)
    return tf.concat([first, tf.minimum(window[:2] + window[2:], size) - first], 0)


def cut(images: Any, window: Any) -> Any:
    """Return what a window shows of images, [batch, height, width, 3]."""
    inside = inside_of(window, tf.shape(images)[1:3])
    top, left, height, width = tf.unstack(inside)
    return images[:, top : top + height, left : left + width]


def surround(images: Any, window: Any, fill: tuple[int, ...]) -> Any:
    """Fill a window around what it shows of images: [batch, height, width, 3]."""
    for axis in (1, 2):
        shape = tf.unstack(tf.shape(images))
        before = tf.maximum(-window[axis - 1], 0)
        bars = [
            tf.broadcast_to(
                tf.constant(fill, images.dtype),
                tf.stack([*shape[:axis], margin, *shape[axis + 1 :]]),
            )
            for margin in (before, window[axis + 1] - before - shape[axis])
        ]
        images = tf.concat([bars[0], images, bars[1]], axis)
    return images


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

    Images are uint8 or float32 [batch, height, width, 3], 0..255; the result is uint8.
    Without `halving`, every side must be below 2 * size_px. `square` says whether all
    images are square.
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
