"""Declare absl flags from dataclasses, for the commands that still use them."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from absl import app, flags

from pipeline.system.config_flags import suggestion

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

flags.disclaim_key_flags()
Config = TypeVar("Config", bound="DataclassInstance")


def define(
    kind: type["DataclassInstance"],
    texts: Mapping[str, str],
    choices: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Declares a flag for each field that has a text; defaults are those of the fields.

    Args:
        kind: a dataclass with fields of type bool, int, float and str. Its own checks
            say which numbers are allowed.
        texts: {field: what --help says}.
        choices: {field: what it may be}.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    for name, text in texts.items():
        default: Any = defaults[name]
        if choices and name in choices:
            flags.DEFINE_enum(name, default, choices[name], text)
        elif isinstance(default, bool):
            flags.DEFINE_bool(name, default, text)
        elif isinstance(default, int):
            flags.DEFINE_integer(name, default, text)
        elif isinstance(default, float):
            flags.DEFINE_float(name, default, text)
        else:
            flags.DEFINE_string(name, default, text)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuses what a field may not be; flags are checked by absl, recipes here.

    Raises:
        ValueError: it is none of the choices; says which one is meant.
    """
    if value not in choices:
        raise ValueError(f"--{name}={value}: expected {suggestion(value, choices)}")


def values(names: Collection[str]) -> dict[str, Any]:
    """{name: value} of some flags.

    Raises:
        ValueError: one is not a number.
    """
    found = {name: flags.FLAGS[name].value for name in names}
    for name, value in found.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{name}={value}: not a number")
    return found


def given(names: Collection[str]) -> set[str]:
    """Those that stand on the command line."""
    return {name for name in names if flags.FLAGS[name].present}


def read(kind: type[Config]) -> Config:
    """What the flags named as its fields say.

    Raises:
        app.UsageError: they do not go together.
    """
    try:
        return kind(**values([field.name for field in dataclasses.fields(kind)]))
    except ValueError as error:
        raise app.UsageError(str(error)) from error
