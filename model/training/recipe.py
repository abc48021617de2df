"""Recipes: an experiment as a TOML file with the names of train.py's flags.

    ckpt = "vgg16_conv"
    learning_rate = 1e-3
    rates = {"logits/*" = 10, "*/bias" = [2, 0]}

    [[stages]]
    stage = "head"
    epochs = 10

    [[stages]]
    train_from = "block5_conv1"
    learning_rate = 1e-5

A setting outside the stages holds in all of them. Lists may stand where a flag has
commas, and a table where it has pattern=value.
"""

import dataclasses
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.system import config_flags
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe says.

    Attributes:
        values: {setting: value}.
        stages: the same for each stage.
    """

    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stages: tuple[Mapping[str, Any], ...] = ()


def read(
    path: Path, defaults: Mapping[str, Any], *, of_stages: Collection[str]
) -> Recipe:
    """Reads a recipe.

    Args:
        path: of the file.
        defaults: {setting: default}; a value is of the default's type.
        of_stages: settings that a stage may have of its own.

    Raises:
        DataError: it is missing or no TOML, a setting is unknown or of another
            type.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such recipe") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no TOML: {error}") from error
    if isinstance(found.get("stage"), dict | list):
        raise DataError(f"{path}: stage: expected [[stages]]")
    stages = found.pop("stages", [])
    if not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
        raise DataError(f"{path}: stages: expected tables, [[stages]]")
    parts = []
    for number, stage in enumerate(stages, start=1):
        where = f"{path}: stage {number}"
        for key in stage:
            if key in defaults and key not in of_stages:
                raise DataError(
                    f"{where}: {key} is for the whole training; put it above the stages"
                )
        allowed = {key: value for key, value in defaults.items() if key in of_stages}
        parts.append(_checked(stage, allowed, where))
    return Recipe(values=_checked(found, defaults, str(path)), stages=tuple(parts))


def _checked(
    found: Mapping[str, Any], defaults: Mapping[str, Any], where: str
) -> dict[str, Any]:
    values = {}
    for key, value in found.items():
        if key not in defaults:
            raise DataError(
                f"{where}: {key}: no such setting; expected "
                f"{config_flags.suggestion(key, sorted(defaults))}"
            )
        try:
            values[key] = _converted(value, defaults[key])
        except (TypeError, OverflowError):
            raise DataError(
                f"{where}: {key} = {value!r:.100}: expected "
                f"{_KINDS[type(defaults[key])]}"
            ) from None
    return values


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: 'text in quotes, as "conv5"; or a list',
}


def _converted(value: Any, default: Any) -> Any:
    """A TOML value as the setting's type.

    Raises:
        TypeError: it is of another.
    """
    if isinstance(default, str):
        return _as_text(value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise TypeError
    return value


def _as_text(value: Any) -> str:
    """Text as a flag has it, of a list with commas, of a table pattern=a:b."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(map(_item, value))
    if isinstance(value, dict):
        parts = {p: n if isinstance(n, list) else [n] for p, n in value.items()}
        return ",".join(f"{p}={':'.join(map(_item, n))}" for p, n in parts.items())
    raise TypeError


def _item(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    return str(value)
