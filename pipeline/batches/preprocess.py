"""Encoded images -> what a network takes: window, decode, resize; pure functions.

The geometry is that of "resize the short side to 256, then crop 224": a square window
of 224/256 of the short side is cut from the full-size image and resized once, so only
the window is decoded. Windows are plain NumPy arithmetic on the sizes that the manifest
knows; the pixels are handled in a TensorFlow graph.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import tensorflow as tf

MAX_SIDE_PX = 4096  # of what a network looks at
_MAX_LEVEL = 512  # no mean of pixels lies beyond, in units of 0..255
_LEAST, _MOST = 1e-4, 1e5  # of what pixels are divided by
MeanImage = tuple[tuple[tuple[float, float, float], ...], ...]


def tuples(value: Any) -> Any:
    """Nested lists as nested tuples."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a checkpoint expects of its input; it is part of the weights.

    A network takes uint8 or float [batch, size_px, size_px, 3], RGB, 0..255, and starts
    with (image / scale - mean) / std on the device.

    Attributes:
        size_px: height and width of the input.
        short_side_px: to which the image's short side is resized before the crop.
        resize: "crop" keeps the image's aspect; "squash" resizes both of its sides to
            `short_side_px`, as Caffe's tools do.
        scale: 255 if mean and std are for 0..1, 1 if they are for 0..255.
        mean: of R, G, B, in units of image / scale.
        std: likewise.
        mean_image: float [size_px, size_px, 3] in nested tuples: a mean for each pixel,
            in place of `mean`; None for `mean`.
        source: who says so; "assumed: ..." where the checkpoint does not.
    """

    size_px: int = 224
    short_side_px: int = 256
    resize: Literal["crop", "squash"] = "crop"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mean_image: MeanImage | None = None
    source: str

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "InputSpec":
        """Of what dataclasses.asdict and JSON made of one.

        Raises:
            ValueError, TypeError: it is not that.
        """
        if not isinstance(values, Mapping):
            raise TypeError("no JSON object")
        found = {
            name: tuples(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**found)

    def __post_init__(self) -> None:
        self._check_sizes()
        for name in ("mean", "std"):
            if not _are_numbers(getattr(self, name), (3,)):
                raise ValueError(f"{name}: expected three finite numbers")
        if not _are_numbers(self.scale, ()):
            raise ValueError("scale: expected a finite number")
        if min(*self.std, self.scale) < _LEAST or max(*self.std, self.scale) > _MOST:
            raise ValueError(
                f"std={self.std}, scale={self.scale}: expected {_LEAST:g} to {_MOST:g}"
            )
        if max(map(abs, self.mean)) * self.scale > _MAX_LEVEL:
            raise ValueError(
                f"mean={self.mean}: pixels are divided by {self.scale:g} first, so "
                f"expected at most {255 / self.scale:g}"
            )
        if self.mean_image is not None:
            shape = (self.size_px, self.size_px, 3)
            if not _are_numbers(self.mean_image, shape):
                raise ValueError(
                    f"mean image: expected {shape[0]} x {shape[1]} pixels of three "
                    "finite numbers"
                )
        if not isinstance(self.source, str) or not self.source.isprintable():
            raise ValueError("source: expected a line of text")

    def _check_sizes(self) -> None:
        if self.resize not in ("crop", "squash"):
            raise ValueError("resize: expected crop or squash")
        if (
            type(self.size_px) is not int
            or type(self.short_side_px) is not int
            or not 1 <= self.size_px <= self.short_side_px <= MAX_SIDE_PX
        ):
            raise ValueError(
                f"size_px={self.size_px!r:.40}, short_side_px="
                f"{self.short_side_px!r:.40}: expected 1 <= size_px <= short_side_px "
                f"<= {MAX_SIDE_PX}"
            )


def _are_numbers(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether nested tuples hold finite numbers, in that shape."""
    if not shape:
        known = isinstance(value, int | float) and not isinstance(value, bool)
        return known and math.isfinite(value)
    return (
        isinstance(value, tuple)
        and len(value) == shape[0]
        and all(_are_numbers(one, shape[1:]) for one in value)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """Which part of each image to look at, whether mirrored, and how else changed.

    Attributes:
        windows: int32 [num_images, 4]: top, left, height, width, in pixels.
        mirrored: bool [num_images].
        numbers: float64 [num_images, k], of the random operations that are
            on; None if none is.
    """

    windows: np.ndarray
    mirrored: np.ndarray
    numbers: np.ndarray | None = None


def window_sides(sizes: np.ndarray, spec: InputSpec) -> np.ndarray:
    """int64 [num_images, 2]: height and width of the window that a network sees."""
    share = spec.size_px / spec.short_side_px
    whole = sizes if spec.resize == "squash" else sizes.min(axis=1, keepdims=True)
    sides = np.maximum(1, np.rint(whole * share)).astype(np.int64)
    return np.broadcast_to(sides, sizes.shape)


def central_views(
    sizes: np.ndarray, spec: InputSpec, *, mirrored: bool = False
) -> Views:
    """The central window of each image.

    Args:
        sizes: int [num_images, 2]: height, width, in pixels, at least 1.
        spec: of the network.
        mirrored: left and right exchanged.
    """
    sides = window_sides(sizes, spec)
    corners = (sizes - sides) // 2
    windows = np.concatenate([corners, sides], axis=1).astype(np.int32)
    return Views(windows=windows, mirrored=np.full(len(sizes), mirrored))


def cornered_views(sizes: np.ndarray, spec: InputSpec) -> tuple[Views, ...]:
    """Five windows of each image: the central one, and four that share its square.

    The square is the image's central one, of the short side; of a squashed image all
    of it. Where a network looks at the whole square, the five are the same.

    Args:
        sizes: int [num_images, 2]: height, width, in pixels, at least 1.
        spec: of the network.

    Returns:
        Centre, top left, top right, bottom left, bottom right.

    Source: Krizhevsky et al. 2012, section 4.1 (ten patches of a 256 x 256 image).
    """
    sides = window_sides(sizes, spec)
    squares = sizes
    if spec.resize == "crop":
        squares = np.broadcast_to(sizes.min(axis=1, keepdims=True), sizes.shape)
    first, room = (sizes - squares) // 2, squares - sides
    corners = [
        first + room * np.array([down, right]) for down in (0, 1) for right in (0, 1)
    ]
    upright = np.zeros(len(sizes), np.bool_)
    return (
        central_views(sizes, spec),
        *(
            Views(
                windows=np.concatenate([corner, sides], axis=1).astype(np.int32),
                mirrored=upright,
            )
            for corner in corners
        ),
    )


def generator(key: tuple[int, ...]) -> np.random.Generator:
    """Random numbers that `key` decides, the same on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def random_views(sizes: np.ndarray, spec: InputSpec, key: tuple[int, ...]) -> Views:
    """A random window of each image, mirrored half of the time.

    Args:
        sizes: int [num_images, 2]: height, width, in pixels, at least 1.
        spec: of the network.
        key: decides everything; (seed, epoch) gives each epoch its own views.

    Source: Krizhevsky et al. 2012, section 4.1 (random 224 crops of 256, mirrored).
    """
    uniform = generator(key).random((len(sizes), 3))
    sides = window_sides(sizes, spec)
    corners = np.floor(uniform[:, :2] * (sizes - sides + 1)).astype(np.int64)
    windows = np.concatenate([corners, sides], axis=1).astype(np.int32)
    return Views(windows=windows, mirrored=uniform[:, 2] < 0.5)


def decode_window(encoded: Any, is_png: Any, window: Any) -> Any:
    """Decodes a part of an image.

    Args:
        encoded: string scalar, a JPEG or PNG file.
        is_png: bool scalar tensor, or a Python bool when all images are of one kind.
        window: int32 [4]: top, left, height, width; inside the image.

    Returns:
        uint8 [height, width, 3], RGB, 0..255.
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
    """Averages neighbours along one side or both while that is twice too long."""

    def too_large(images: Any) -> Any:
        sides = [tf.shape(images)[1 + axis] for axis in range(2) if by[axis] == 2]
        return tf.reduce_min(sides) >= 2 * size_px

    def half(images: Any) -> tuple[Any]:
        return (tf.nn.avg_pool2d(images, by, by, "VALID"),)

    invariant = tf.TensorShape([images.shape[0], None, None, 3])
    (found,) = tf.while_loop(too_large, half, [images], shape_invariants=[invariant])
    return found


def halved(images: Any, size_px: int, *, square: bool) -> Any:
    """Halves float32 [batch, height, width, 3] as `resize_all` does."""
    images = _halve(images, size_px, (2, 2))
    if square:
        return images
    return _halve(_halve(images, size_px, (2, 1)), size_px, (1, 2))


def resize(image: Any, size_px: int, *, halve: bool, square: bool = True) -> Any:
    """`resize_all` of one image: [height, width, 3] -> [size_px, size_px, 3]."""
    return resize_all(image[None], size_px, halve=halve, square=square)[0]


def resize_all(images: Any, size_px: int, *, halve: bool, square: bool = True) -> Any:
    """Resizes to a square, with one filter that every export format has.

    Bilinear without antialiasing looks at two pixels in each direction; shrinking by
    two or more it would skip some. So images are first halved, each time averaging
    2 x 2 pixels, until less than a factor of two is left; where they are not square,
    each side on its own.

    Args:
        images: uint8 or float32 [batch, height, width, 3], 0..255.
        size_px: side of the result.
        halve: build the halving into the graph; may be False if no image needs it.
        square: whether all images are.

    Returns:
        uint8 [batch, size_px, size_px, 3], 0..255, rounded.
    """
    images = tf.cast(images, tf.float32)
    if halve:
        images = halved(images, size_px, square=square)
    images = tf.raw_ops.ResizeBilinear(
        images=images, size=(size_px, size_px), half_pixel_centers=True
    )
    images = tf.cast(images + 0.5, tf.uint8)
    images.set_shape([None, size_px, size_px, 3])
    return images


def mirror(image: Any, mirrored: Any) -> Any:
    """Exchanges left and right of a [height, width, 3] image where `mirrored` is true.

    tf.reverse has a fast path for three channels; a strided slice took 0.7 ms an image.
    """
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
