"""Check the values of manifest.json, which somebody else may have written."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args

from pipeline.records.manifest_row import Split
from pipeline.system.errors import DataError

_Test = Callable[[Any], bool]
_SPLITS = set(get_args(Split))
_MOST = 2**53  # larger whole numbers are no longer exact in most programs


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value <= _MOST


def _is_text(value: Any) -> bool:
    # Surrogates from U+DC80 on stand for the bytes of a file name, others for nothing.
    return isinstance(value, str) and not re.search("[\ud800-\udc7f]", value)


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _are_names(values: Any) -> bool:
    is_list = isinstance(values, list) and all(map(_is_text, values))
    return is_list and len(set(values)) == len(values)


def _all(test: _Test, names: Collection[str] = ()) -> _Test:
    """Return a test of an object: whether it has these names and its values pass."""
    return lambda value: (
        isinstance(value, dict)
        and value.keys() >= {*names}
        and all(map(test, value.values()))
    )


# What is expected of each value, in words, and a test of it.
_VALUES: Mapping[str, tuple[str, _Test]] = {
    "class_names": ("a list of different names", _are_names),
    "seed": ("a whole number, 0 or more", lambda v: type(v) is int and v >= 0),
    "digest": ("a SHA-256", lambda v: _is_text(v) and v.isascii()),
    "shares": (
        "shares of validation and test, 0 to 1",
        _all(_is_share, ("validation", "test")),
    ),
    "settings": ("settings by name", lambda v: isinstance(v, dict)),
    "versions": ("versions by name, which are texts", _all(_is_text)),
    "ignored": ("whole numbers by name, 0 or more", _all(_is_count)),
}
_COUNT = "a whole number, 0 or more", _is_count
_SETTINGS = {
    **dict.fromkeys(("resize_min", "shard_mb", "duplicates"), _COUNT),
    "max_pixels": ("a whole number, 1 or more", lambda v: _is_count(v, 1)),
    **dict.fromkeys(
        ("animated", "conflicts", "group_by", "source"), ("a text", _is_text)
    ),
    "given_splits": ("a list of splits", lambda v: _are_names(v) and {*v} <= _SPLITS),
}


def check(head: Mapping[str, Any], where: str) -> None:
    """Check types and ranges of all values that a program reads.

    Raises:
        DataError: a value is missing, or not as it should be.
    """
    _check(head, _VALUES, where)
    settings = head["settings"]
    rules = {name: rule for name, rule in _SETTINGS.items() if name in settings}
    _check(settings, rules, f"{where}: settings")


def _check(
    values: Mapping[str, Any], rules: Mapping[str, tuple[str, _Test]], where: str
) -> None:
    for name, (expected, test) in rules.items():
        if not (name in values and test(values[name])):
            value = f"{values[name]!r:.80}" if name in values else "missing"
            raise DataError(
                f"{where}: {name} is {value}. Expected {expected}. Convert the photos "
                "again, into a new folder"
            )
