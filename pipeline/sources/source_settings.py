"""Define the settings of a source of photos and of decoding, for convert and check."""

import functools
import re
from typing import Any

from pipeline.sources import caffe_lists
from pipeline.system import config_flags

_SOURCE = functools.partial(config_flags.setting, group="Labels and splits", basic=True)
_DECODING = functools.partial(config_flags.setting, group="Decoding", basic=True)


def lists() -> Any:
    """Return the field of the setting `lists`."""
    return _SOURCE(
        "",
        "Caffe list files with lines `path label`, separated by commas; their names "
        "give the split, as in train.txt,val.txt or train=a.txt,test=b.txt.",
        value="FILES",
    )


def csv() -> Any:
    """Return the field of the setting `csv`."""
    return _SOURCE(
        "",
        "CSV file that lists the photos, with the columns path, label and, if you "
        "like, split.",
        value="FILE",
    )


def labels() -> Any:
    """Return the field of the setting `labels`."""
    return _SOURCE(
        "",
        "File of class names, one a line, label 0 first, for --lists or --csv with "
        "numbers as labels.",
        value="FILE",
    )


def group_by() -> Any:
    """Return the field of the setting `group_by`."""
    return _SOURCE(
        "",
        r"Regular expression for paths, such as 'patient(\d+)': photos with the same "
        "match stay together in one split.",
        value="REGEX",
    )


def max_pixels(default: int) -> Any:
    """Return the field of the setting `max_pixels`."""
    return _DECODING(
        default,
        "Photos with more pixels are skipped without decoding them; the default is the "
        "limit of Pillow.",
        lower=1,
    )


def workers() -> Any:
    """Return the field of the setting `workers`."""
    return _DECODING(
        0, "Processes that decode photos; 0 starts one per processor.", lower=0
    )


def check(*, lists: str, csv: str, labels: str, group_by: str) -> None:
    """Refuse settings of a source that contradict each other.

    Raises:
        ValueError: Two sources are given, or a value cannot be understood.
    """
    if lists and csv:
        raise ValueError("--lists and --csv: expected only one of them")
    if labels and not (lists or csv):
        raise ValueError("--labels: expected --lists or --csv, whose labels it names")
    caffe_lists.parse(lists)
    try:
        re.compile(group_by)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"--group_by={group_by}: not a regular expression ({error})"
        ) from error
