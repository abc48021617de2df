"""Define the settings of a source of photos and of decoding, for convert and check."""

import dataclasses
import functools
import re

from pipeline.sources import folder_layout
from pipeline.sources.lists import listed_photos, photo_csv
from pipeline.system import config_flags

_setting = functools.partial(config_flags.setting, basic=True)
_source = functools.partial(_setting, "", group="Labels and splits")
_decoding = functools.partial(_setting, group="Decoding")

# Each of these functions makes the field of one setting.
max_pixels = functools.partial(
    _decoding,
    help="Photos with more pixels are skipped without decoding; the default is the "
    "limit of Pillow.",
    lower=1,
    upper=1_000_000_000_000,  # OpenCV ends the process at 2^64
)
white_level = functools.partial(
    _decoding,
    0,
    "Value that is white in 16-bit pictures, such as 4095 in 12-bit X-rays; larger "
    "values are white, too. 0 means 65535, and skips pictures that use at most 14 of "
    "their 16 bits, because their white is unknown.",
    lower=0,
    upper=65_535,
)
workers = functools.partial(
    _decoding, 0, "Processes that decode photos; 0 starts one per processor.", lower=0
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that say which class and split the photos of a folder have."""

    lists: str = _source(
        "Comma-separated Caffe list files (one `path label` per line); their names "
        "give the split, as in train.txt,val.txt or train=a.txt,test=b.txt.",
        value="FILES",
    )
    csv: str = _source(
        "CSV list of photos, with columns path, label and, optionally, split.",
        value="FILE",
    )
    columns: str = _source(
        "Titles of the columns of --csv, as in path:filename,label:breed; also split:, "
        "and group: for photos that must share a split.",
        value="COLUMNS",
    )
    labels: str = _source(
        "File that names numbered labels: one per line, 0 first; or JSON or CSV.",
        value="FILE",
    )
    group_by: str = _source(
        r"Regular expression for paths, such as 'patient(\d+)': photos with the same "
        "match stay together in one split.",
        value="REGEX",
    )
    layout: str = _source(
        "Meaning of folders where it is not clear: levels, as in folder/class or "
        "split/class, and names, as in train=a,test=b,none=c.",
        value="LAYOUT",
    )

    def __post_init__(self) -> None:
        config_flags.check(self)
        if self.lists and self.csv:
            raise ValueError("--lists and --csv: expected only one of them")
        is_listed = self.lists or self.csv
        if self.labels and not is_listed:
            raise ValueError("--labels: expected --lists or --csv with it")
        if self.layout and is_listed:
            raise ValueError("--layout: expected class folders, found --lists or --csv")
        if self.columns and not self.csv:
            raise ValueError("--columns: expected --csv, whose columns it names")
        if "group" in photo_csv.parse_columns(self.columns) and self.group_by:
            raise ValueError("--group_by and --columns=group: expected one of them")
        listed_photos.parse_lists(self.lists)
        folder_layout.parse(self.layout)
        try:
            re.compile(self.group_by)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(
                f"--group_by={self.group_by}: not a regular expression ({error})"
            ) from error


DEFAULTS = Settings()
