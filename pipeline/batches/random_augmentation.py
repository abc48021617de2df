"""Draw the random numbers by which training photos are augmented.

The augmentation of a photo is a function of (seed, epoch, row). The numbers of all rows
are drawn before an epoch, each group of operations with a key of its own. So an epoch
can be resumed in its middle, and switching one operation on does not change the others.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.batches import crop_and_resize, seeded_random
from pipeline.batches.input_spec import InputSpec

_CROP_ATTEMPTS = 10
# Last parts of the keys of random numbers; 0 is for the order of an epoch, 2 for the
# views of cached features.
_WINDOW, _CROP, _GEOMETRY, _COLOUR, _CUTOUT = 1, 3, 4, 5, 6
_MIXUP, _CUTMIX, _CUTMIX_PLACE, _WHICH = 7, 8, 9, 10
_MOST = {
    "rotation": 180,
    "shift": 1,
    "shear": 90,
    "zoom": 1,
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "cutout": 1,
    "mixup": 100,
    "cutmix": 100,
}


def _pair(
    name: str, text: str, least: float, most: float, example: str
) -> tuple[float, float]:
    """Parse two positive numbers with a comma between them, the smaller first.

    Raises:
        ValueError: the text is anything else, or a number is outside `least` to `most`.
    """
    try:
        low, high = map(float, text.split(","))
        if not 0 < low <= high or low < least or high > most:
            raise ValueError
    except ValueError:
        bounds = f"{least:g} to {most:g}" if least else f"above 0, up to {most:g}"
        raise ValueError(
            f"{name}={text}: expected the least and the greatest, {bounds}, as "
            f"{example}"
        ) from None
    return low, high


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What happens to training photos, and how strongly; 0 and "" are off.

    Attributes:
        mirror: left and right exchanged half of the time.
        crop_area: least and greatest share of the image's area that a window has, as
            "0.08,1"; "": the fixed window of the network at a random place.
        crop_aspect: least and greatest width/height of such windows; they are resized
            to a square. Where the network squashes, of the squashed image.
        rotation: degrees, to either side.
        shift: share of the side, in each direction.
        shear: degrees, to either side.
        zoom: each side by a factor of its own, 1 - zoom to 1 + zoom.
        brightness: pixels times a factor of 1 - brightness to 1 + brightness.
        contrast: likewise the distance from the image's mean grey.
        saturation: likewise the distance from the pixel's grey.
        cutout: share of the side of a grey square at a random centre.
        mixup: alpha of the beta distribution of shares in which two images are mixed.
        cutmix: likewise of the area that comes from another image. With mixup, each
            batch has one of the two, half of the time each.

    Source: Szegedy et al. 2015, section 6 (windows); DeVries and Taylor 2017 (cutout);
    Zhang et al. 2018 (mixup); Yun et al. 2019 (cutmix).
    """

    mirror: bool = True
    crop_area: str = ""
    crop_aspect: str = "0.75,1.3333"
    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    cutout: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= most:
                raise ValueError(f"{name}={value}: expected 0 to {most}")
        if self.crop_area:
            _pair("crop_area", self.crop_area, 0, 1, "0.08,1")
        _pair("crop_aspect", self.crop_aspect, 0.01, 100, "0.75,1.3333")
        if not self.crop_area and self.crop_aspect != Augmentation.crop_aspect:
            raise ValueError(
                f"--crop_aspect={self.crop_aspect}: of windows of --crop_area; "
                "expected that too"
            )

    @property
    def active(self) -> bool:
        """Whether anything but windows of a fixed size and mirroring is on."""
        return bool(self.crop_area or self.widths)

    @property
    def mixes(self) -> bool:
        """Whether images and labels of a batch are mixed."""
        return bool(self.mixup or self.cutmix)

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        return bool(self.rotation or self.shift or self.shear or self.zoom)

    @property
    def recolours(self) -> bool:
        """Whether pixels change their colours."""
        return bool(self.brightness or self.contrast or self.saturation)

    @property
    def alters(self) -> bool:
        """Whether pixels of single images are changed, after the window is resized."""
        return bool(self.moves or self.recolours or self.cutout)

    @property
    def widths(self) -> dict[str, int]:
        """{group of operations that is on: number of random numbers for an image}."""
        groups = {
            "geometry": (self.moves, 6),
            "colour": (self.recolours, 3),
            "cutout": (self.cutout, 2),
            "mixing": (self.mixes, 6),
        }
        return {name: width for name, (is_on, width) in groups.items() if is_on}

    def split(self, numbers: Any) -> dict[str, Any]:
        """Split a row of Views.numbers into {group of operations: its numbers}."""
        groups, start = {}, 0
        for name, width in self.widths.items():
            groups[name] = numbers[start : start + width]
            start += width
        return groups

    def cutout_px(self, size_px: int) -> int:
        """Return the side of the grey square in an image of `size_px`, in pixels."""
        return max(1, round(self.cutout * size_px))


HELP = {
    "mirror": "Left and right exchanged half of the time.",
    "crop_area": "Least and greatest share of a photo's area that a training window "
    "has, as 0.08,1; by default the network's window, at a random place.",
    "crop_aspect": "Least and greatest width/height of the windows of --crop_area.",
    "rotation": "Degrees to either side by which training photos are turned, 0..180.",
    "shift": "Share of the side by which they are moved in each direction, 0..1.",
    "shear": "Degrees to either side by which they are sheared, 0..90.",
    "zoom": "Each side is zoomed by its own factor of 1 - zoom to 1 + zoom, 0..1.",
    "brightness": "Pixels times a factor of 1 - brightness to 1 + brightness, 0..1.",
    "contrast": "Likewise the distance from the photo's mean grey, 0..1.",
    "saturation": "Likewise the distance from each pixel's grey, 0..1.",
    "cutout": "Share of the side of a grey square at a random place, 0..1.",
    "mixup": "Alpha of the shares in which pairs of photos and labels are mixed, as "
    "0.2; 0: none are.",
    "cutmix": "Alpha of the share of a photo that is pasted from another, as 1; 0: "
    "none is. With --mixup, each batch has one of the two.",
}
NONE = Augmentation()


def draw_views(
    augmentation: Augmentation,
    sizes: np.ndarray,
    spec: InputSpec,
    order: np.ndarray,
    key: tuple[int, ...],
) -> crop_and_resize.Views:
    """Draw how each image is seen and augmented in an epoch.

    Args:
        augmentation: the operations that are on.
        sizes: int [num_images, 2]: height, width, in pixels, at least 1.
        spec: input of the network.
        order: int [num_images]: the rows in the order of the epoch; how a batch is
            mixed depends on the place of its first example.
        key: key of the random numbers: (seed, epoch).
    """
    plain = crop_and_resize.random_views(sizes, spec, (*key, _WINDOW))
    windows, mirrored = plain.windows, plain.mirrored
    if augmentation.crop_area:
        windows = _draw_crops(augmentation, sizes, spec, (*key, _CROP))
    if not augmentation.mirror:
        mirrored = np.zeros_like(mirrored)
    parts = [
        _DRAWS[group](augmentation, len(sizes), spec.size_px, key)
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
    key: tuple[int, ...],
) -> np.ndarray:
    """Draw windows of random area, aspect and place.

    Where ten of them in turn do not fit into the image, the window is the largest
    central one of an allowed aspect.

    Returns:
        int32 [num_images, 4]: top, left, height, width, in pixels.
    """
    area = _pair("crop_area", augmentation.crop_area, 0, 1, "")
    aspects = _pair("crop_aspect", augmentation.crop_aspect, 0.01, 100, "")
    # Sides of a window of all of the area with aspect 1.
    whole = sizes.astype(np.float64)
    if spec.resize == "crop":
        whole = np.sqrt(whole.prod(axis=1, keepdims=True)).repeat(2, axis=1)
    aspect = (sizes[:, 1] / whole[:, 1]) / (sizes[:, 0] / whole[:, 0])
    shares = np.stack([aspect / aspects[0], aspects[1] / aspect], axis=1)
    sides = np.maximum(1, np.rint(sizes * np.minimum(1, shares))).astype(np.int64)
    corners = (sizes - sides) // 2
    waiting = np.ones(len(sizes), np.bool_)
    random = seeded_random.generator(key)
    for _ in range(_CROP_ATTEMPTS):
        uniform = random.random((len(sizes), 4))
        share = np.sqrt(area[0] + uniform[:, 0] * (area[1] - area[0]))
        low, high = np.log(aspects)
        stretch = np.exp((low + uniform[:, 1] * (high - low)) / 2)
        tried = whole * np.stack([share / stretch, share * stretch], axis=1)
        tried = np.maximum(1, np.rint(tried)).astype(np.int64)
        fits = waiting & (tried <= sizes).all(axis=1)
        places = np.floor(uniform[:, 2:] * (sizes - tried + 1)).astype(np.int64)
        sides[fits], corners[fits] = tried[fits], places[fits]
        waiting &= ~fits
        if not waiting.any():
            break
    return np.concatenate([corners, sides], axis=1).astype(np.int32)


def _draw_geometry(
    augmentation: Augmentation, count: int, size_px: int, key: tuple[int, ...]
) -> np.ndarray:
    """Draw where each pixel of the result comes from.

    The image is turned, shifted, sheared and zoomed about its centre, in the order and
    sense of the Keras ImageDataGenerator.

    Returns:
        float64 [count, 6]: a, b, c, d, e, f. Column x and row y of the result come from
        column a x + b y + c and row d x + e y + f of the image.
    """
    uniform = seeded_random.generator((*key, _GEOMETRY)).uniform(-1, 1, (count, 6))
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
    augmentation: Augmentation, count: int, size_px: int, key: tuple[int, ...]
) -> np.ndarray:
    """Draw factors of brightness, contrast and saturation: float64 [count, 3]."""
    uniform = seeded_random.generator((*key, _COLOUR)).uniform(-1, 1, (count, 3))
    return 1 + uniform * (
        augmentation.brightness,
        augmentation.contrast,
        augmentation.saturation,
    )


def _draw_cutout(
    augmentation: Augmentation, count: int, size_px: int, key: tuple[int, ...]
) -> np.ndarray:
    """Draw top and left of the grey square, which may lie partly outside the image.

    Returns:
        float64 [count, 2], in pixels.
    """
    uniform = seeded_random.generator((*key, _CUTOUT)).random((count, 2))
    return np.floor(uniform * size_px) - augmentation.cutout_px(size_px) // 2


def _draw_mixing(
    augmentation: Augmentation, count: int, size_px: int, key: tuple[int, ...]
) -> np.ndarray:
    """Draw how a batch is mixed, for each place of the epoch where one may begin.

    Returns:
        float64 [count, 6]: share of the partner; top, left, bottom and right of the
        part that is pasted, in pixels; 1 to paste, 0 to blend.
    """
    mixup, cutmix = augmentation.mixup, augmentation.cutmix
    mixing = np.zeros((count, 6))
    if mixup:
        random = seeded_random.generator((*key, _MIXUP))
        mixing[:, 0] = random.beta(mixup, mixup, count)
    if cutmix:
        random = seeded_random.generator((*key, _CUTMIX))
        share = random.beta(cutmix, cutmix, count)
        sides = np.rint(size_px * np.sqrt(share))[:, None]
        uniform = seeded_random.generator((*key, _CUTMIX_PLACE)).random((count, 2))
        corners = np.floor(uniform * size_px) - sides // 2
        first = np.clip(corners, 0, size_px)
        last = np.clip(corners + sides, 0, size_px)
        area = (last - first).prod(axis=1, keepdims=True) / size_px**2
        boxes = np.concatenate([area, first, last, np.ones((count, 1))], axis=1)
        which = seeded_random.generator((*key, _WHICH)).random(count) < 0.5
        pasted = which if mixup else np.ones(count, np.bool_)
        mixing[pasted] = boxes[pasted]
    return mixing


_DRAWS: dict[str, Callable[..., np.ndarray]] = {
    "geometry": _draw_geometry,
    "colour": _draw_colour,
    "cutout": _draw_cutout,
    "mixing": _draw_mixing,
}
