"""The preprocessing that weights expect, and what the user knows better.

Every network here takes RGB: where weights want blue first, the kernel of their first
layer is turned round when they are restored (model/weights/restore.py), and so is a
mean that a file gives in the weights' order.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoints import errors
from model.checkpoints.caffe import mean_file
from pipeline.batches.input_spec import InputSpec, as_tuples
from pipeline.system import absl_flags

CHANNEL_ORDERS = ("auto", "rgb", "bgr")
RESIZES = ("auto", "crop", "squash")
CHOICES = {"resize": RESIZES, "channel_order": CHANNEL_ORDERS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overrides:
    """What replaces parts of an InputSpec; the defaults replace nothing.

    Attributes:
        image_size: height and width of the input, in pixels; 0: the weights' own.
        short_side: to which photos are resized before the crop; 0: in the same relation
            to the input as the weights' own.
        resize: one of RESIZES.
        channel_order: of the weights' input; one of CHANNEL_ORDERS.
        scale: what 0..255 is divided by; 0: the weights' own.
        mean: what is subtracted then: three numbers in RGB order, or a file
            (.binaryproto, .npy) in the weights' order and units of 0..255; "": the
            weights' own.
        std: three numbers in RGB order that it is divided by then; "": likewise.
    """

    image_size: int = 0
    short_side: int = 0
    resize: str = "auto"
    channel_order: str = "auto"
    scale: float = 0.0
    mean: str = ""
    std: str = ""

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            absl_flags.check_choice(name, getattr(self, name), choices)
        for name in ("image_size", "short_side", "scale"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name}={getattr(self, name)}: expected 0 or more")

    def bgr(self, by_weights: bool) -> bool:
        """Whether the weights' input is blue, green, red."""
        return (
            by_weights if self.channel_order == "auto" else self.channel_order == "bgr"
        )

    def apply(self, spec: InputSpec, *, by_weights_bgr: bool = False) -> InputSpec:
        """The spec with what was overridden.

        Raises:
            errors.CheckpointError: the mean file cannot be read or does not fit, or the
                values do not go together.
        """
        size = self.image_size or spec.size_px
        short_side = self.short_side or round(size * spec.short_side_px / spec.size_px)
        changes: dict[str, Any] = {"size_px": size, "short_side_px": short_side}
        if self.resize != "auto":
            changes["resize"] = self.resize
        if self.scale:
            changes["scale"] = self.scale
        if self.std:
            changes["std"] = _three_numbers("std", self.std)
        if spec.mean_image and size != spec.size_px:
            changes["mean_image"] = None
            changes["mean"] = tuple(np.mean(spec.mean_image, axis=(0, 1)).tolist())
        if self.mean:
            changes["mean_image"] = None
            scale = self.scale or spec.scale
            bgr = self.bgr(by_weights_bgr)
            changes |= self._mean(size, short_side, scale=scale, bgr=bgr)
        named = [
            field.name
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        if named:
            changes["source"] = f"{spec.source}; by flags: {', '.join(named)}"
        try:
            return dataclasses.replace(spec, **changes)
        except ValueError as error:
            raise errors.MismatchedCheckpoint(
                f"preprocessing by flags ({', '.join(named)}): {error}"
            ) from error

    def _mean(
        self, size: int, short_side: int, *, scale: float, bgr: bool
    ) -> dict[str, Any]:
        """The mean in units of pixels / scale; files have it in those of 0..255."""
        path = Path(self.mean)
        if not path.exists():
            if path.suffix in (".binaryproto", ".npy"):
                raise errors.MissingCheckpoint(f"--mean={path}: no such file")
            return {"mean": _three_numbers("mean", self.mean)}
        found = mean_file.read(path)
        found = found / np.float32(scale)
        if bgr:
            found = found[..., ::-1]
        if found.ndim == 1:
            return {"mean": tuple(found.tolist())}
        height, width = found.shape[:2]
        if (height, width) not in ((size, size), (short_side, short_side)):
            raise errors.MismatchedCheckpoint(
                f"{path}: a mean image of {height} x {width} pixels; expected "
                f"{short_side} x {short_side}, as before the crop, or {size} x {size}; "
                "give three numbers for a mean of any size"
            )
        # Windows lie elsewhere in training; the mean of the central one serves all.
        start = (height - size) // 2
        window = found[start : start + size, start : start + size]
        digits = 3 + round(math.log10(scale))
        rounded = np.round(window.astype(np.float64), max(0, digits))
        return {"mean_image": as_tuples(rounded.tolist())}


AS_WEIGHTS = Overrides()


def _three_numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise errors.MismatchedCheckpoint(
            f"--{flag}={text}: no such file, and not three numbers for red, green and "
            "blue, as 123.68,116.78,103.94"
        )
    return numbers


HELP = {
    "image_size": "Height and width of the network's input; 0: that of the weights.",
    "short_side": "To which photos are resized before the crop; 0: as the weights have "
    "it.",
    "resize": "crop keeps the photo's aspect, squash does not; auto: as the weights "
    "have it.",
    "channel_order": "Order that the weights' first layer expects; auto: by their "
    "source.",
    "scale": "What pixels of 0..255 are divided by; 0: as the weights have it.",
    "mean": "What is subtracted then: a mean file (.binaryproto, .npy), or three "
    "numbers for red, green, blue; by default that of the weights.",
    "std": "What it is divided by then: three numbers; by default that of the weights.",
}


def define_flags() -> None:
    """Declares the flags; defaults are those of Overrides."""
    absl_flags.define(Overrides, HELP, CHOICES)


def from_flags() -> Overrides:
    """What the flags say."""
    return absl_flags.read(Overrides)
