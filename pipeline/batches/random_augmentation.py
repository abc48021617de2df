"""Draw the random numbers by which training photos are augmented, and augment them.

The augmentation of a photo is a function of (seed, epoch, row). The numbers of all rows
are drawn before an epoch, each group of operations with a key of its own. So an epoch
can be resumed in its middle, and switching one operation on does not change the others.

Geometry and colour of single images are changed by OpenCV through `tf.numpy_function`.
Including the call, that is four times as fast as TensorFlow's own image transform.
Batches are mixed by TensorFlow. Operations that are off are not part of the graph.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.batches import crop_and_resize
from pipeline.batches.augmentation_settings import Augmentation
from pipeline.batches.input_spec import InputSpec

_CROP_ATTEMPTS = 10
_GREY_LEVEL = 128  # of cutout's square
# Last parts of the keys of random numbers; 0 is for the order of an epoch, 2 for the
# views of cached features.
_WINDOW, _CROP, _GEOMETRY, _COLOUR, _CUTOUT = 1, 3, 4, 5, 6
_MIXUP, _CUTMIX, _CUTMIX_PLACE, _WHICH = 7, 8, 9, 10
# A function from the last part of a key to its generator.
Generators = Callable[[int], np.random.Generator]


def draw_views(
    augmentation: Augmentation,
    sizes: np.ndarray,
    spec: InputSpec,
    order: np.ndarray,
    key: tuple[int, ...],
) -> crop_and_resize.Views:
    """Draw how each image is seen and augmented in an epoch; `key` is (seed, epoch).

    Sizes are int [num_images, 2]: height, width, in pixels. `order` has the rows in the
    order of the epoch. The position of a batch's first example decides how it is mixed.
    """

    def generator(part: int) -> np.random.Generator:
        return crop_and_resize.seeded_generator((*key, part))

    uniform = generator(_WINDOW).random((len(sizes), 3))
    plain = crop_and_resize.drawn_views(sizes, spec, uniform)
    windows, mirrored = plain.windows, plain.mirrored
    if augmentation.crop_area:
        windows = _draw_crops(augmentation, sizes, spec, generator(_CROP))
    if not augmentation.mirror:
        mirrored = np.zeros_like(mirrored)
    parts = [
        _DRAWS[group](augmentation, len(sizes), spec.size_px, generator)
        for group in augmentation.widths
    ]
    if augmentation.mixes:
        by_place = parts[-1]
        parts[-1] = np.empty_like(by_place)
        parts[-1][order] = by_place
    numbers = np.concatenate(parts, axis=1) if parts else None
    return crop_and_resize.Views(windows=windows, mirrored=mirrored, numbers=numbers)


def _draw_crops(
    augmentation: Augmentation,
    sizes: np.ndarray,
    spec: InputSpec,
    random: np.random.Generator,
) -> np.ndarray:
    """Draw windows of random area, aspect and place, as Views has them.

    If ten of them in a row do not fit into the image, the window is the largest central
    one of an allowed aspect. Padding counts as part of the image.
    """
    padded = crop_and_resize.padded_sizes(sizes, spec)
    area, aspects = augmentation.crop_areas, augmentation.crop_aspects
    # Sides of a window with the area of the whole image and aspect 1.
    whole = padded.astype(np.float64)
    if spec.resize == "crop":
        whole = np.sqrt(whole.prod(axis=1, keepdims=True)).repeat(2, axis=1)
    aspect = (padded[:, 1] / whole[:, 1]) / (padded[:, 0] / whole[:, 0])
    shares = np.stack([aspect / aspects[0], aspects[1] / aspect], axis=1)
    sides = np.maximum(1, np.rint(padded * np.minimum(1, shares))).astype(np.int64)
    corners = (padded - sides) // 2
    waiting = np.ones(len(sizes), np.bool_)
    for _ in range(_CROP_ATTEMPTS):
        uniform = random.random((len(sizes), 4))
        share = np.sqrt(area[0] + uniform[:, 0] * (area[1] - area[0]))
        low, high = np.log(aspects)
        stretch = np.exp((low + uniform[:, 1] * (high - low)) / 2)
        tried = whole * np.stack([share / stretch, share * stretch], axis=1)
        tried = np.maximum(1, np.rint(tried)).astype(np.int64)
        fits = waiting & (tried <= padded).all(axis=1)
        places = np.floor(uniform[:, 2:] * (padded - tried + 1)).astype(np.int64)
        sides[fits], corners[fits] = tried[fits], places[fits]
        waiting &= ~fits
        if not waiting.any():
            break
    corners += (sizes - padded) // 2
    return crop_and_resize.windows_at(corners, sides, sizes)


def _draw_geometry(
    augmentation: Augmentation, count: int, size_px: int, generator: Generators
) -> np.ndarray:
    """Draw where each pixel of the result comes from.

    The image is turned, shifted, sheared and zoomed about its centre, in the order and
    sense of the Keras ImageDataGenerator. Returns a to f, float64 [count, 6]: column
    x and row y come from column a x + b y + c and row d x + e y + f.
    """
    uniform = generator(_GEOMETRY).uniform(-1, 1, (count, 6))
    turn = math.radians(augmentation.rotation) * uniform[:, 0]
    down, right = (augmentation.shift * size_px * uniform[:, 1:3]).T
    sheared = turn + math.radians(augmentation.shear) * uniform[:, 3]
    tall, wide = (1 + augmentation.zoom * uniform[:, 4:6]).T
    a, b = wide * np.cos(sheared), tall * np.sin(turn)
    d, e = -wide * np.sin(sheared), tall * np.cos(turn)
    centre = (size_px - 1) / 2
    c = centre * (1 - a - b) + np.sin(turn) * down + np.cos(turn) * right
    f = centre * (1 - d - e) + np.cos(turn) * down - np.sin(turn) * right
    return np.stack([a, b, c, d, e, f], axis=1)


def _draw_colour(
    augmentation: Augmentation, count: int, _: int, generator: Generators
) -> np.ndarray:
    """Draw factors of brightness, contrast and saturation: float64 [count, 3]."""
    most = (augmentation.brightness, augmentation.contrast, augmentation.saturation)
    return 1 + generator(_COLOUR).uniform(-1, 1, (count, 3)) * most


def _draw_cutout(
    augmentation: Augmentation, count: int, size_px: int, generator: Generators
) -> np.ndarray:
    """Draw top and left of the grey square, in pixels: float64 [count, 2].

    The square may lie partly outside the image.
    """
    uniform = generator(_CUTOUT).random((count, 2))
    return np.floor(uniform * size_px) - augmentation.cutout_px(size_px) // 2


def _draw_mixing(
    augmentation: Augmentation, count: int, size_px: int, generator: Generators
) -> np.ndarray:
    """Draw how a batch is mixed, for each position of the epoch where one may begin.

    The numbers, float64 [count, 6], are the share of the partner; top, left, bottom and
    right of the part that is pasted, in pixels; 1 to paste, 0 to blend.
    """
    mixup, cutmix = augmentation.mixup, augmentation.cutmix
    mixing = np.zeros((count, 6))
    if mixup:
        mixing[:, 0] = generator(_MIXUP).beta(mixup, mixup, count)
    if cutmix:
        share = generator(_CUTMIX).beta(cutmix, cutmix, count)
        sides = np.rint(size_px * np.sqrt(share))[:, None]
        uniform = generator(_CUTMIX_PLACE).random((count, 2))
        corners = np.floor(uniform * size_px) - sides // 2
        first = np.clip(corners, 0, size_px)
        last = np.clip(corners + sides, 0, size_px)
        area = (last - first).prod(axis=1, keepdims=True) / size_px**2
        boxes = np.concatenate([area, first, last, np.ones((count, 1))], axis=1)
        share_of_cutmix = 0.5 if mixup else 1
        pasted = generator(_WHICH).random(count) < share_of_cutmix
        mixing[pasted] = boxes[pasted]
    return mixing


_DRAWS: dict[str, Callable[..., np.ndarray]] = {
    "geometry": _draw_geometry,
    "colour": _draw_colour,
    "cutout": _draw_cutout,
    "mixing": _draw_mixing,
}


def augment(augmentation: Augmentation, image: Any, numbers: Any) -> Any:
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
    augmentation: Augmentation, images: Any, labels: Any, numbers: Any, num_classes: int
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
