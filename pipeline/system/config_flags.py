"""Define each setting once, as a field of a dataclass.

Name, type, default, bounds, choices, help and heading stand in the field. Flags,
checks, recipes, help texts and docs/settings.md are made from it.
"""

import dataclasses
import difflib
import itertools
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from pipeline.system.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
_KEY, _ARGUMENT = "setting", "argument"  # keys of a field's metadata
_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOOLS = {"true": True, "false": False}
_HOLD_PATHS = ("FOLDER", "FOLDERS", "FILE", "FILES", "PATH", "NAME", "RUN")
_MAX_NAMES = 40  # in a suggestion
_LIMIT = 1 << 63  # whole numbers from here on are too large for libraries
# Names that people try -> settings that they may mean.
_SYNONYMS = {
    "lr": ("learning_rate",),
    "bs": ("batch_size",),
    **dict.fromkeys(("output", "output_dir"), ("out", "run_dir")),
    "out": ("run_dir", "explain"),
    "model": ("ckpt", "run_dir"),
    **dict.fromkeys(("weights", "checkpoint", "pretrained"), ("ckpt",)),
    "dataset": ("data",),
    "config": ("recipe",),
    "network": ("arch",),
    "classes": ("labels",),
    "flip": ("mirror",),
    "threshold": ("unknown_below", "min_accuracy"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Describe a setting: a flag of a command, a key of recipes, or both.

    A number is at least `lower`, at most `upper`, greater than `above`, less than
    `below`.
    """

    default: Any  # its type is the setting's
    help: str  # one plain sentence: what it changes, in which unit
    group: str  # heading in help and documentation
    basic: bool = False  # whether --help lists it; --helpfull lists all
    value: str = ""  # placeholder in the help, such as FOLDER
    choices: Sequence[str] = ()  # of a text; empty for any text
    lower: float = -math.inf
    upper: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    per_stage: bool = False  # whether each stage of a recipe may have its own value
    is_flag: bool = True  # False for a key that only recipes have
    several: bool = False  # whether train.py compares several values, with commas

    @property
    def bounds(self) -> str:
        """Allowed numbers in words, such as "0 or more, below 1"; "" for any."""
        if self.lower > -math.inf and self.upper < math.inf:
            return f"{self.lower:.10g} to {self.upper:.10g}"
        parts = {
            "above {:.10g}": self.above,
            "{:.10g} or more": self.lower,
            "below {:.10g}": self.below,
            "at most {:.10g}": self.upper,
        }
        return ", ".join(
            text.format(bound) for text, bound in parts.items() if math.isfinite(bound)
        )

    @property
    def type_name(self) -> str:
        """Type of the value in words."""
        return _TYPES[type(self.default)]

    def parse(self, name: str, text: str) -> Any:
        """Return the value of a text on the command line, or raise UsageError.

        Several values with commas between them, where there may be, are a tuple.
        """
        if self.several and "," in text:
            return tuple(self.parse(name, part.strip()) for part in text.split(","))
        kind = type(self.default)
        if kind is str and self.value in _HOLD_PATHS:
            return ",".join(map(with_home, text.split(",")))
        try:
            if kind in (int, float) and ("_" in text or not text.isascii()):
                raise ValueError  # Python reads 1_0 and the digits of all scripts
            return _BOOLS[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise UsageError(f"--{name}={text}: expected {self.type_name}") from None

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError if the setting called `name` cannot have this value."""
        if isinstance(value, tuple):
            raise ValueError(
                f"--{name}={','.join(map(str, value))}: expected one value; only "
                "train.py compares several"
            )
        kind, expected = type(self.default), self.bounds or self.type_name
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits:  # in a recipe or from Python
            value = repr(value)
            expected = ", ".join(filter(None, (self.type_name, self.bounds)))
        if fits and self.choices:
            fits, expected = value in self.choices, suggestion(value, self.choices)
        elif fits and kind in (int, float):
            inside = self.lower <= value <= self.upper
            is_large = abs(value) >= (_LIMIT if type(value) is int else math.inf)
            fits = inside and self.above < value < self.below and not is_large
            expected += ", below 2^63" * (inside and type(value) is int and is_large)
        if not fits:
            raise ValueError(f"--{name}={value}: expected {expected}")
        if value and self.value in ("FOLDER", "FILE", "PATH"):
            place = Path(value)
            check_folder(f"--{name}", place if self.value == "FOLDER" else place.parent)


def check_folder(name: str, folder: Path) -> None:
    """Raise ValueError if a path that should be a folder is a file, or below a file."""
    if file := next(filter(Path.is_file, (folder, *folder.parents)), None):
        raise ValueError(f"{name}: {file} is a file. Expected a folder")


def with_home(path: str | os.PathLike[str]) -> str:
    """Return a path with the home folder for ~, which shells leave in --out=~/a."""
    return os.path.expanduser(path)  # noqa: PTH111 Path would change gs://bucket


def setting(default: Any, help: str, **details: Any) -> Any:
    """Return a dataclass field that is a setting with these attributes of Setting."""
    metadata = {_KEY: Setting(default=default, help=help, **details)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Argument:
    """Describe a word that stands on the command line without a flag."""

    value: str  # placeholder in the help, such as FOLDER
    help: str
    optional: bool
    many: bool  # whether it may be repeated; the field is then a tuple


def argument(
    value: str, help: str, default: Any = dataclasses.MISSING, *, many: bool = False
) -> Any:
    """Return a dataclass field that is an argument; see Argument."""
    optional = default is not dataclasses.MISSING
    described = Argument(value=value, help=help, optional=optional, many=many)
    return dataclasses.field(default=default, metadata={_ARGUMENT: described})


def arguments_of(*kinds: "type[DataclassInstance]") -> dict[str, Argument]:
    """Return {name: argument} of dataclasses."""
    fields = itertools.chain.from_iterable(map(dataclasses.fields, kinds))
    return {f.name: f.metadata[_ARGUMENT] for f in fields if _ARGUMENT in f.metadata}


def settings_of(*kinds: "type[DataclassInstance]") -> dict[str, Setting]:
    """Return {name: setting} of dataclasses and of the dataclasses within them."""
    settings: dict[str, Setting] = {}
    for field in itertools.chain.from_iterable(map(dataclasses.fields, kinds)):
        if _KEY in field.metadata:
            settings[field.name] = field.metadata[_KEY]
        elif _is_group(field.default):
            settings |= settings_of(type(field.default))
    return settings


def _is_group(value: Any) -> "TypeGuard[DataclassInstance]":
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def check(config: "DataclassInstance") -> None:
    """Raise ValueError if a field's value lies outside its bounds or choices."""
    for field in dataclasses.fields(config):
        if _KEY in field.metadata:
            field.metadata[_KEY].check(field.name, getattr(config, field.name))


def build(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a dataclass from the values of its fields alone, or raise UsageError."""
    try:
        return kind(**_select(kind, values))
    except ValueError as error:
        raise UsageError(str(error)) from error


def from_python(
    values: Mapping[str, Any],
    *kinds: "type[DataclassInstance]",
    without: Collection[str] = (),
) -> dict[str, Any]:
    """Return {name: value} as `parse` does, of settings that a program passes.

    Values, also paths, lists and NumPy's numbers, are read as the texts of flags; None
    stands for the default. An unknown name, or one in `without`, raises UsageError.
    """
    known = {n: s for n, s in settings_of(*kinds).items() if n not in without}
    typed = {}
    for name, value in values.items():
        if name not in known:
            near = meant(name, known)
            raise UsageError(
                f"{name}: no such setting" + f". Did you mean {near}?" * bool(near)
            )
        if isinstance(value, list | tuple):
            value = ",".join(map(str, value))
        if value is not None:
            typed[name] = known[name].parse(name, str(value))
    return typed


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a copy with other values of some settings, or raise ValueError."""
    return dataclasses.replace(config, **_select(config, values))


def _select(
    config: "DataclassInstance | type[DataclassInstance]", values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return {field: value} of the fields that the values change, groups included."""
    changes = {}
    for field in dataclasses.fields(config):
        current = getattr(config, field.name, None)  # of a class: the default
        if field.name in values:
            changes[field.name] = values[field.name]
        elif _is_group(current):
            changes[field.name] = changed(current, values)
    return changes


def suggestion(name: str, known: Collection[str]) -> str:
    """Return the known names, and which of them is meant if one resembles `name`.

    If there are many, such as a network's layers, only the first and last are listed.
    """
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    names = list(filter(None, known))
    if len(names) > _MAX_NAMES:
        names[_MAX_NAMES // 2 : -_MAX_NAMES // 2] = ["..."]
    return f"one of {', '.join(names)}{meant}"


def parse(
    words: Sequence[str], settings: Mapping[str, Setting]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Divide a command line into flags and arguments, in whatever order they stand.

    A bool is set by --name, --noname or --name=false, any other setting by --name=value
    or --name value. The results are {name: value} of the known flags, the unknown flags
    unchanged, and the arguments.
    """
    values: dict[str, Any] = {}
    unknown, arguments, waiting = list[str](), list[str](), list(words)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            return values, unknown, arguments + waiting
        if not word.startswith("-") or word == "-":
            arguments.append(word)
            continue
        name, equals, text = word.lstrip("-").partition("=")
        switch = name.removeprefix("no") if name not in settings else name
        described = settings.get(switch)
        is_switch = described is not None and isinstance(described.default, bool)
        if is_switch and not equals:
            values[switch] = switch == name
        elif described is None or switch != name:
            unknown.append(word)
        elif equals:
            values[name] = described.parse(name, text)
        elif waiting and not _is_flag(waiting[0], settings):
            values[name] = described.parse(name, waiting.pop(0))
        else:
            raise UsageError(f"--{name}: no value. Expected --{name}=VALUE")
    return values, unknown, arguments


def _is_flag(word: str, settings: Mapping[str, Setting]) -> bool:
    name = word.removeprefix("--").partition("=")[0]
    names = {name, name.removeprefix("no")}
    return word.startswith("--") and not names.isdisjoint(settings)


def meant(word: str, settings: Mapping[str, Setting], cutoff: float = 0.6) -> str:
    """Return the setting whose name resembles an unknown flag; "" for none of them."""
    typed = word.lstrip("-").partition("=")[0].replace("-", "_").lower()
    known = [name for name in _SYNONYMS.get(typed, ()) if name in settings]
    close = difflib.get_close_matches(typed, settings, n=1, cutoff=cutoff)
    return next(iter(known + close), "")


def unknown_flag(word: str, settings: Mapping[str, Setting]) -> str:
    """Return the message for a flag that a command does not have."""
    name = meant(word, settings)
    hint = f"Did you mean --{name}?" if name else "--helpfull lists all flags."
    return f"{word}: no such flag. {hint}"


def assign(
    words: Sequence[str], arguments: Mapping[str, Argument], example: str
) -> dict[str, Any]:
    """Return {name of an argument: word, or words of one that may be repeated}.

    If there are too few words, optional arguments get none. Messages show `example`.
    """
    names = list(arguments)
    if len(words) < len(names):
        names = [name for name in names if not arguments[name].optional]
    if len(words) < len(names) or "" in words:
        missing = arguments[names[min(len(words), len(names) - 1)]].value
        raise UsageError(f"{missing} is missing. Expected, for example: {example}")
    if names and arguments[names[-1]].many:
        return {names[-1]: tuple(words)}
    if len(words) > len(names):
        raise UsageError(
            f"unexpected argument {words[len(names)]!r}. Flags begin with --, for "
            f"example: {example}"
        )
    return dict(zip(names, words, strict=True))
