"""Define the settings of a weight file: its network, its classes, its preprocessing.

Every network takes RGB. If weights expect blue first, `restore` reverses the kernel of
their first layer, and the mean of a file in the weights' order is reversed here.
"""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

from model.checkpoints import errors
from pipeline.batches.input_spec import RESIZES, InputSpec, as_tuples
from pipeline.system import command_line, config_flags

_file = functools.partial(config_flags.setting, "", group="Weight file")
NAME_OF_WEIGHTS = (
    "a name, such as alexnet or efficientnet_lite2 (a wrong one lists all)"
)
ARCH = (
    "Network that the weights belong to, if their names and shapes leave it open: a "
    "name, such as alexnet_owt (a wrong one lists all), or a Keras or JSON file."
)
# Each of these makes the field of one setting.
ckpt = functools.partial(
    _file,
    f"Weights to use in place of a run, with their own classes: {NAME_OF_WEIGHTS}, or "
    "the path of a file.",
    basic=True,
    value="NAME",
)
arch = functools.partial(_file, ARCH, value="NAME")
labels = functools.partial(
    _file,
    "File of class names of --ckpt: one per line as in synset_words.txt, JSON or CSV.",
    basic=True,
    value="FILE",
)
_setting = functools.partial(config_flags.setting, group="Preprocessing")
# Settings that change the numbers of pixels, rather than which pixels are seen.
_OF_PIXELS = {"channel_order", "scale", "mean", "std"}


def refuse_without_ckpt(config: Any) -> None:
    """Refuse settings of a weight file where a run is used, by a ValueError.

    `config` has the fields `arch`, `labels` and `overrides`.
    """
    names = [name for name in ("arch", "labels") if getattr(config, name)]
    if names := names + config.overrides.changed_settings():
        raise ValueError(
            f"{', '.join(f'--{name}' for name in names)} can only be used with --ckpt. "
            "A run already defines its network, classes and preprocessing."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overrides:
    """Settings that replace parts of an InputSpec; the defaults replace nothing."""

    image_size: int = _setting(
        0,
        "Height and width of the network's input, in pixels; 0 keeps the size that the "
        "weights were trained with.",
        basic=True,
        lower=0,
        several=True,
    )
    short_side: int = _setting(
        0,
        "Short side in pixels to which photos are resized before the crop; 0 keeps the "
        "weights' ratio to the input, or shows whole photos with --resize=pad.",
        lower=0,
    )
    resize: str = _setting(
        "auto",
        "How photos become square: crop cuts off the ends; squash distorts; pad "
        "(letterbox) adds a frame and cuts nothing off; auto suits the weights.",
        choices=("auto", *RESIZES),
        several=True,
    )
    channel_order: str = _setting(
        "auto",
        "Colour order that the weights expect; auto is that of their source.",
        choices=("auto", "rgb", "bgr"),
    )
    scale: float = _setting(
        0.0, "Divides pixels of 0 to 255; 0 keeps the weights' own scale.", lower=0
    )
    mean: str = _setting(
        "",
        "Mean to subtract after --scale: three numbers or a file (.binaryproto, .npy); "
        "by default the weights' own.",
        value="R,G,B",
    )
    std: str = _setting(
        "", "Numbers to divide by last; by default the weights' own.", value="R,G,B"
    )

    def __post_init__(self) -> None:
        config_flags.check(self)

    def changed_settings(self) -> list[str]:
        """Return the names of the settings that differ from their defaults."""
        fields = dataclasses.fields(self)
        return [f.name for f in fields if getattr(self, f.name) != f.default]

    def is_bgr(self, default: bool) -> bool:
        """Return whether the weights expect blue, green, red; `default` for "auto"."""
        return default if self.channel_order == "auto" else self.channel_order == "bgr"

    def apply(self, spec: InputSpec, *, bgr: bool = False) -> InputSpec:
        """Return the spec with the parts that the user set by flags.

        `bgr` says whether the weights are known to expect blue, green, red.
        """
        size = self.image_size or spec.size_px
        resize = spec.resize if self.resize == "auto" else self.resize
        short_side = self.short_side or round(size * spec.short_side_px / spec.size_px)
        if resize == "pad" != spec.resize and not self.short_side:
            short_side = size
        scale = self.scale or spec.scale
        changes: dict[str, Any] = {
            "size_px": size,
            "short_side_px": short_side,
            "resize": resize,
            "scale": scale,
            "std": _three_numbers("std", self.std) if self.std else spec.std,
        }
        if spec.mean_image and size != spec.size_px:
            import numpy as np  # takes longer than all other imports of the settings

            changes["mean_image"] = None
            changes["mean"] = tuple(np.mean(spec.mean_image, axis=(0, 1)).tolist())
        if self.mean:
            mean = self._read_mean(size, short_side, scale, bgr=self.is_bgr(bgr))
            changes |= {"mean_image": None, **mean}
        named = self.changed_settings()
        if named:
            flags = f"by flags: {', '.join(named)}"
            is_stated = spec.is_assumed and not _OF_PIXELS.isdisjoint(named)
            changes["source"] = flags if is_stated else f"{spec.source}; {flags}"
        try:
            return dataclasses.replace(spec, **changes)
        except ValueError as error:
            raise errors.MismatchedCheckpoint(
                f"{', '.join(f'--{name}' for name in named)}: {error}"
            ) from error

    def _read_mean(
        self, size: int, short_side: int, scale: float, *, bgr: bool
    ) -> dict[str, Any]:
        """Return the mean in units of pixels / scale; files have it in 0..255."""
        import numpy as np

        from model.checkpoints import caffemodel

        path = Path(self.mean)
        if not path.exists() and path.suffix not in (".binaryproto", ".npy"):
            return {"mean": _three_numbers("mean", self.mean)}
        mean = caffemodel.read_mean(path) / np.float32(scale)
        if bgr:
            mean = mean[..., ::-1]
        if mean.ndim == 1:
            return {"mean": tuple(mean.tolist())}
        height, width = mean.shape[:2]
        if (height, width) not in ((size, size), (short_side, short_side)):
            raise errors.MismatchedCheckpoint(
                f"{path}: the mean image has the wrong size. Expected {short_side} x "
                f"{short_side} pixels, as before the crop, or {size} x {size}, found "
                f"{height} x {width}. Three numbers suit any size."
            )
        # Training crops elsewhere, too; the mean of the central window serves all.
        start = (height - size) // 2
        window = mean[start : start + size, start : start + size]
        digits = 3 + round(math.log10(scale))
        rounded = np.round(window.astype(np.float64), max(0, digits))
        return {"mean_image": as_tuples(rounded.tolist())}


AS_WEIGHTS = Overrides()


def preprocessing_warnings(spec: InputSpec, tried: str = "") -> list[str]:
    """Return a line of warning if the preprocessing is assumed or may be wrong.

    `tried` says what photos of known classes show against it; "" for nothing.
    """
    if not (tried or spec.is_assumed):
        return []
    advice = (
        "If it is wrong, predictions are poor. With --ckpt, the flags --scale, --mean, "
        "--std and --channel_order set it; evaluate.py --ckpt tries the five usual "
        "ones on photos of known classes"
    )
    verdict = "is a guess" if spec.is_assumed else "may be wrong"
    return [
        f"the preprocessing of pixels {verdict}: {spec.describe_pixels()}. "
        f"{tried or advice}"
    ]


def log_preprocessing(spec: InputSpec, tried: str = "") -> None:
    """Log the preprocessing and how it is known, or the line of the warning."""
    lines = preprocessing_warnings(spec, tried)
    for line in lines:
        command_line.warn(line)
    if not lines:
        command_line.log(f"preprocessing: {spec.describe_pixels()}")


def _three_numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        expected = "an existing file, or three" if flag == "mean" else "three"
        raise errors.MismatchedCheckpoint(
            f"--{flag}={text}: expected {expected} numbers for red, green and blue, "
            "such as 123.68,116.78,103.94."
        )
    return numbers
