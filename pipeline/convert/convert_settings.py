"""Define the settings of pipeline.convert."""

import dataclasses
import functools

from pipeline.images import file_headers
from pipeline.sources import source_settings
from pipeline.system import config_flags
from pipeline.system.remote import beam_jobs

_output = functools.partial(config_flags.setting, group="Output", basic=True)
_rules = functools.partial(config_flags.setting, group="Labels and splits", basic=True)
_decoding = functools.partial(config_flags.setting, group="Decoding", basic=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a conversion."""

    source: str = config_flags.argument(
        "FOLDER",
        "Folder of class folders, split folders or old TFRecord files; or the folder "
        "that paths in --lists and --csv start from.",
    )
    out: str = _output(
        "tfrecords", "Folder for the records and the manifest.", value="FOLDER"
    )
    seed: int = _rules(0, "Seed of the random split.", lower=0)
    resize_min: int = _output(
        file_headers.RESIZE_MIN,
        "Short side in pixels to which larger photos are shrunk; the default is twice "
        "what networks resize to, so networks lose nothing. 0 keeps all pixels.",
        lower=0,
    )
    shard_mb: int = _output(
        128,
        "Megabytes of records after which a class gets another file; 0 writes one file "
        "per class.",
        lower=0,
        upper=1 << 20,
    )
    max_pixels: int = source_settings.max_pixels(file_headers.MAX_PIXELS)
    white_level: int = source_settings.white_level()
    animated: str = _decoding(
        "first",
        "What to do with animations and files of several pages: first converts their "
        "first frame, refuse skips them.",
        choices=("first", "refuse"),
    )
    conflicts: str = _rules(
        "leave_out",
        "What to do with a photo in several classes: leave_out skips it, keep converts "
        "it for each.",
        choices=("leave_out", "keep"),
    )
    corrections: str = _rules(
        "",
        "Comma-separated CSV files of corrected labels, as reports and pages of "
        "pipeline.check save them: columns path and label (a class, or skip). A run's "
        "similar.csv skips photos that look like copies of training photos.",
        value="FILES",
    )
    missing_classes: str = _rules(
        "refuse",
        "What to do if a class has no photo in one of the splits that --lists or --csv "
        "give: refuse stops, keep converts anyway.",
        choices=("refuse", "keep"),
    )
    workers: int = source_settings.workers()
    labelling: source_settings.Settings = source_settings.DEFAULTS
    runner: str = beam_jobs.runner(group="Decoding", basic=True)
    beam_flags: tuple[str, ...] = ()  # as they stand on the command line

    def __post_init__(self) -> None:
        config_flags.check(self)
        beam_jobs.check_flags(self)
