"""Define the settings of pipeline.check."""

import dataclasses
import functools

from pipeline.images import file_headers
from pipeline.sources import source_settings
from pipeline.system import config_flags

_output = functools.partial(config_flags.setting, group="Output", basic=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a check."""

    source: str = config_flags.argument(
        "FOLDER", "Folder of photos, as for pipeline.convert, or of converted records."
    )
    out: str = _output("check", "Folder for check.json and check.html.", value="FOLDER")
    strict: bool = _output(
        False,
        "Ends with exit code 2 for any finding, not only for those that would corrupt "
        "training or evaluation.",
    )
    max_pixels: int = source_settings.max_pixels(file_headers.MAX_PIXELS)
    white_level: int = source_settings.white_level()
    labelling: source_settings.Settings = source_settings.DEFAULTS
    workers: int = source_settings.workers()

    def __post_init__(self) -> None:
        config_flags.check(self)
