"""State what a network expects of its input: size, crop, mean, scale of pixels."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

MAX_SIDE_PX = 4096  # of a network's input
_MAX_LEVEL = 512  # no mean of pixels lies beyond, in units of 0..255
_MIN_DIVISOR, _MAX_DIVISOR = 1e-4, 1e5  # of pixels
_IMAGENET_MEAN = (124, 116, 104)  # R, G, B
RESIZES = ("crop", "squash", "pad")
MeanImage = tuple[tuple[tuple[float, float, float], ...], ...]


def as_tuples(value: Any) -> Any:
    """Return nested lists as nested tuples."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a checkpoint expects of its input; a part of the weights.

    A network takes uint8 or float [batch, size_px, size_px, 3], RGB, 0..255, and starts
    with (image / scale - mean) / std on the device.

    Attributes:
        size_px: height and width of the input, in pixels.
        short_side_px: length to which the image's short side is resized before the
            crop, in pixels; with "pad" the longer side.
        resize: "crop" keeps the image's aspect; "squash" resizes both of its sides to
            `short_side_px`, as Caffe's tools do; "pad" keeps the aspect and fills the
            image up to a square (a letterbox).
        scale: 255 if mean and std are for 0..1, 1 if they are for 0..255.
        mean: means of R, G and B after the division by `scale`.
        std: standard deviations of R, G and B after the division by `scale`.
        mean_image: float [size_px, size_px, 3] in nested tuples: a mean for each pixel,
            in place of `mean`; None for `mean`.
        source: where these values stand; "assumed: ..." where the checkpoint does not
            state them.
    """

    size_px: int = 224
    short_side_px: int = 256
    resize: Literal["crop", "squash", "pad"] = "crop"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mean_image: MeanImage | None = None
    source: str

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "InputSpec":
        """Rebuild a spec from JSON, or raise ValueError or TypeError."""
        if not isinstance(values, Mapping):
            raise TypeError("not a JSON object")
        return cls(**{name: as_tuples(value) for name, value in values.items()})

    @property
    def is_assumed(self) -> bool:
        """Whether neither the file, its source nor the user states these values."""
        return self.source.startswith("assumed")

    def describe_pixels(self) -> str:
        """Return the normalisation of pixels as a formula, and its source."""
        text = f"RGB / {self.scale:g}" if self.scale != 1 else "RGB"
        if self.mean_image or any(self.mean):
            mean = "a mean image" if self.mean_image else _in_words(self.mean)
            text += f" - {mean}"
        if {*self.std} != {1.0}:
            text = f"({text}) / {_in_words(self.std)}"
        return f"{text}; {self.source}"

    def __post_init__(self) -> None:
        self._check_sizes()
        for name in ("mean", "std"):
            if not _are_numbers(getattr(self, name), (3,)):
                raise ValueError(f"{name}: expected three finite numbers")
        if not _are_numbers(self.scale, ()):
            raise ValueError("scale: expected a finite number")
        divisors = (*self.std, self.scale)
        if min(divisors) < _MIN_DIVISOR or max(divisors) > _MAX_DIVISOR:
            raise ValueError(
                f"std={self.std}, scale={self.scale}: expected {_MIN_DIVISOR:g} to "
                f"{_MAX_DIVISOR:g}"
            )
        if max(map(abs, self.mean)) * self.scale > _MAX_LEVEL:
            raise ValueError(
                f"mean={self.mean}: pixels are divided by {self.scale:g} first, so "
                f"expected at most {255 / self.scale:g}"
            )
        shape = (self.size_px, self.size_px, 3)
        if self.mean_image is not None and not _are_numbers(self.mean_image, shape):
            raise ValueError(
                f"mean image: expected {self.size_px} x {self.size_px} pixels of three "
                "finite numbers"
            )
        if not isinstance(self.source, str) or not self.source.isprintable():
            raise ValueError("source: expected a line of text")

    @property
    def keeps_aspect(self) -> bool:
        """Whether windows are square."""
        return self.resize != "squash"

    @property
    def fill(self) -> tuple[int, ...] | None:
        """R, G and B around a padded image, 0..255; None where images are not padded.

        It is the mean colour, which becomes 0, like the padding of convolutions. Where
        the preprocessing subtracts no mean, it is ImageNet's.
        """
        if self.resize != "pad":
            return None
        rows = self.mean_image or ((self.mean,),)
        pixels = [pixel for row in rows for pixel in row]
        mean = [sum(c) / len(pixels) * self.scale for c in zip(*pixels, strict=True)]
        if not any(mean):
            return _IMAGENET_MEAN
        return tuple(min(255, max(0, round(level))) for level in mean)

    def describe(self) -> str:
        """Return size and resizing in words."""
        side = {"crop": "shorter side", "squash": "both sides", "pad": "longer side"}
        return (
            f"{self.size_px} x {self.size_px} pixels, {self.resize} of "
            f"{side[self.resize]} {self.short_side_px}"
        )

    def _check_sizes(self) -> None:
        if self.resize not in RESIZES:
            raise ValueError(f"resize: expected one of {', '.join(RESIZES)}")
        size, short_side = self.size_px, self.short_side_px
        are_whole = type(size) is int and type(short_side) is int
        if not are_whole or not 1 <= size <= short_side <= MAX_SIDE_PX:
            raise ValueError(
                f"size_px={size!r:.40}, short_side_px={short_side!r:.40}: expected "
                f"1 <= size_px <= short_side_px <= {MAX_SIDE_PX}"
            )


def _in_words(numbers: tuple[float, ...]) -> str:
    """Return a number, or three in brackets if they differ."""
    texts = [f"{number:g}" for number in numbers]
    return texts[0] if len({*texts}) == 1 else f"[{', '.join(texts)}]"


def _are_numbers(value: Any, shape: tuple[int, ...]) -> bool:
    """Say whether nested tuples hold finite numbers, in that shape."""
    if not shape:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value)
    return (
        isinstance(value, tuple)
        and len(value) == shape[0]
        and all(_are_numbers(item, shape[1:]) for item in value)
    )
