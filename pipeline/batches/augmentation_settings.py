"""Define the settings of augmentation: the random changes of training photos."""

import dataclasses
import functools
import itertools
from typing import Any

from pipeline.system import config_flags

_setting = functools.partial(config_flags.setting, group="Augmentation", per_stage=True)
_share = functools.partial(_setting, 0.0, lower=0, upper=1)
_alpha = functools.partial(_setting, 0.0, lower=0, upper=100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Settings of augmentation; 0 and "" are off.

    Source: Szegedy et al. 2015, section 6 (windows); DeVries and Taylor 2017 (cutout);
    Zhang et al. 2018 (mixup); Yun et al. 2019 (cutmix).
    """

    mirror: bool = _setting(
        True,
        "Mirrors each training photo half of the time. Turn it off for text and signs.",
        basic=True,
    )
    crop_area: str = _setting(
        "",
        "Smallest and largest share of the photo's area in a random crop, such as "
        "0.08,1; by default a random window of the network's input size.",
        basic=True,
        value="MIN,MAX",
    )
    crop_aspect: str = _setting(
        "0.75,1.3333", "Smallest and largest width/height of crops.", value="MIN,MAX"
    )
    rotation: float = _setting(
        0.0, "Largest random rotation to either side, in degrees.", lower=0, upper=180
    )
    shift: float = _share("Largest random shift, as a share of the side.")
    shear: float = _setting(
        0.0, "Largest random shear to either side, in degrees.", lower=0, upper=90
    )
    zoom: float = _share("Scales each side by a random factor of 1 - X to 1 + X.")
    brightness: float = _share("Multiplies pixels by a random factor, 1 - X to 1 + X.")
    contrast: float = _share(
        "Scales the difference from the photo's mean grey, like --brightness."
    )
    saturation: float = _share(
        "Scales the difference from each pixel's grey, like --brightness."
    )
    cutout: float = _share(
        "Side of a grey square at a random place, as a share of the photo's side."
    )
    mixup: float = _alpha(
        "Mixes pairs of photos and their labels; alpha of the beta distribution of the "
        "shares, such as 0.2."
    )
    cutmix: float = _alpha(
        "Pastes a part of another photo; alpha of the beta distribution of its area, "
        "such as 1. With --mixup, each batch has one of the two."
    )

    def __post_init__(self) -> None:
        config_flags.check(self)
        _ = self.crop_aspects
        if self.crop_area:
            _ = self.crop_areas
        elif self.crop_aspect != Augmentation.crop_aspect:
            raise ValueError(
                f"--crop_aspect={self.crop_aspect}: expected --crop_area, whose crops "
                "it shapes"
            )

    @property
    def crop_areas(self) -> tuple[float, float]:
        """Smallest and largest share of the photo's area in a crop."""
        return _pair("crop_area", self.crop_area, 0, 1, "0.08,1")

    @property
    def crop_aspects(self) -> tuple[float, float]:
        """Smallest and largest ratio of a crop's width to its height."""
        return _pair("crop_aspect", self.crop_aspect, 0.01, 100, "0.75,1.3333")

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
        ends = itertools.accumulate(self.widths.values())
        return {
            name: numbers[end - width : end]
            for (name, width), end in zip(self.widths.items(), ends, strict=True)
        }

    def cutout_px(self, size_px: int) -> int:
        """Return the side of the grey square in an image of `size_px`, in pixels."""
        return max(1, round(self.cutout * size_px))


def _pair(
    name: str, text: str, least: float, most: float, example: str
) -> tuple[float, float]:
    """Return two numbers above 0 from a text with a comma, the smaller one first."""
    try:
        low, high = map(float, text.split(","))
        if not 0 < low <= high or low < least or high > most:
            raise ValueError
    except ValueError:
        bounds = f"{least:g} to {most:g}" if least else f"above 0, at most {most:g}"
        raise ValueError(
            f"--{name}={text}: expected the smallest and the largest value, {bounds}, "
            f"such as {example}"
        ) from None
    return low, high


NONE = Augmentation()
