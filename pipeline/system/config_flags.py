"""Define each setting once, as a field of a dataclass.

Name, type, default, bounds, choices, help and heading stand in the field. Flags,
checks, recipes, help texts and docs/settings.md are made from it.
"""

import dataclasses
import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from absl import app, flags

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

flags.disclaim_key_flags()  # --help shows them as flags of the command
Settings = TypeVar("Settings", bound="DataclassInstance")
_KEY = "setting"  # of a field's metadata


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Describe a setting beyond its name, type and default.

    Attributes:
        help: one plain sentence: what the setting changes, in which unit, and what its
            default is good for.
        group: heading under which help and documentation list the setting.
        basic: whether --help lists the setting; --helpfull lists all.
        choices: values that a text may have; empty for any text.
        lower: smallest allowed number.
        upper: largest allowed number.
        above: number that the value exceeds.
        below: number that the value stays under.
    """

    help: str
    group: str
    basic: bool = False
    choices: Sequence[str] = ()
    lower: float = -math.inf
    upper: float = math.inf
    above: float = -math.inf
    below: float = math.inf

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

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError if the setting called `name` cannot have this value."""
        if self.choices and value not in self.choices:
            raise ValueError(
                f"--{name}={value}: expected {suggestion(value, self.choices)}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        inside = self.lower <= value <= self.upper and self.above < value < self.below
        if not inside or not math.isfinite(value):
            raise ValueError(f"--{name}={value}: expected {self.bounds or 'a number'}")


def setting(default: Any, help: str, **details: Any) -> Any:
    """Return a dataclass field that is a setting.

    Args:
        default: value of the setting where nothing else is said.
        help: attribute of the same name of Setting.
        details: other attributes of Setting.
    """
    metadata = {_KEY: Setting(help=help, **details)}
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(kind: "type[DataclassInstance]") -> dict[str, Setting]:
    """Return {name: setting} of a dataclass, in the order of its fields."""
    return {
        field.name: field.metadata[_KEY]
        for field in dataclasses.fields(kind)
        if _KEY in field.metadata
    }


def check(config: "DataclassInstance") -> None:
    """Raise ValueError if a field's value lies outside its bounds or choices."""
    for name, described in settings_of(type(config)).items():
        described.check(name, getattr(config, name))


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


def suggestion(name: str, known: Collection[str]) -> str:
    """The known name that is meant, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"{close[0]}?" if close else f"one of {', '.join(known)}"


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


def read(kind: type[Settings]) -> Settings:
    """What the flags named as its fields say.

    Raises:
        app.UsageError: they do not go together.
    """
    try:
        return kind(**values([field.name for field in dataclasses.fields(kind)]))
    except ValueError as error:
        raise app.UsageError(str(error)) from error
