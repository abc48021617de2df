"""Check the values of manifest.json, which somebody else may have written."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, get_args

from pipeline.records.manifest_row import Split
from pipeline.system.errors import DataError

CONVERT_AGAIN = (  # deletes nothing
    "Convert the photos again, into a new folder: python -m pipeline.convert "
    "PHOTOS_FOLDER --out=NEW_FOLDER"
)
_Test = Callable[[Any], bool]
_SPLITS = set(get_args(Split))
_MOST = 2**53  # larger whole numbers are no longer exact in most programs


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _is_text(value: Any) -> bool:
    # Surrogates from U+DC80 on stand for the bytes of a file name, others for nothing.
    return isinstance(value, str) and not re.search("[\ud800-\udc7f]", value)


def _are_names(values: Any) -> bool:
    is_list = isinstance(values, list) and all(map(_is_text, values))
    return is_list and len(set(values)) == len(values)


def _are(test: _Test, values: Any) -> bool:
    """Return whether this is an object whose values pass a test."""
    return isinstance(values, dict) and all(map(test, values.values()))


def _are_shares(values: Any) -> bool:
    are_shares = _are(lambda v: type(v) in (int, float) and 0 <= v <= 1, values)
    names = {"validation", "test"}
    return are_shares and values.keys() == names and sum(values.values()) < 1


_COUNT = "a whole number, 0 or more", _is_count
_TEXT = "a text", _is_text
# What is expected of each value, in words, and a test of it.
_RULES: Mapping[str, tuple[str, _Test]] = {
    "class_names": ("a list of different names", _are_names),
    "seed": ("a whole number, 0 or more", lambda v: type(v) is int and v >= 0),
    "digest": ("a SHA-256", lambda v: _is_text(v) and v.isascii()),
    "shares": ("shares of validation and test, below 1 together", _are_shares),
    "settings": ("settings by name", lambda v: isinstance(v, dict)),
    "versions": ("texts by name", functools.partial(_are, _is_text)),
    "ignored": ("whole numbers by name", functools.partial(_are, _is_count)),
}
_SETTINGS: Mapping[str, tuple[str, _Test]] = {
    **dict.fromkeys(("resize_min", "shard_mb", "duplicates"), _COUNT),
    **dict.fromkeys(("animated", "conflicts", "group_by", "source"), _TEXT),
    "max_pixels": ("a whole number, 1 or more", lambda v: _is_count(v) and v > 0),
    "given_splits": ("a list of splits", lambda v: _are_names(v) and {*v} <= _SPLITS),
}


def check(head: Mapping[str, Any], where: str) -> None:
    """Raise DataError if a value that programs read is missing or out of its range."""
    for name, (expected, test) in _RULES.items():
        if not (name in head and test(head[name])):
            value = f"{head[name]!r:.80}" if name in head else "missing"
            _refuse(f"{where}: {name} is {value}", expected)
    for name, value in head["settings"].items():
        expected, test = _SETTINGS.get(name, ("", lambda _: True))
        if not test(value):
            _refuse(f"{where}: settings: {name} is {value!r:.80}", expected)


def _refuse(problem: str, expected: str) -> NoReturn:
    raise DataError(f"{problem}. Expected {expected}. {CONVERT_AGAIN}")
