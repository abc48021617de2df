"""Write the help of a command from its settings."""

import re
import textwrap
from collections.abc import Iterator, Mapping

from pipeline.system.config_flags import Argument, Setting

_WIDTH = 100  # characters of a line
_INDENT = 26  # characters before the text of a flag
_UNBROKEN = "\u00a0"  # a space at which no line ends
_VALUES = {int: "N", float: "X", str: "TEXT"}

Arguments = Mapping[str, Argument]
Settings = Mapping[str, Setting]


def screen(doc: str, arguments: Arguments, settings: Settings, *, full: bool) -> str:
    """Return what --help or, if `full`, --helpfull prints under a docstring."""
    flags = {name: flag for name, flag in settings.items() if flag.is_flag}
    shown = {name: flag for name, flag in flags.items() if full or flag.basic}
    lines = doc.strip().splitlines()
    lines.insert(2, _usage(lines[2], arguments, has_flags=bool(flags)))
    if arguments:
        lines += ["", "Arguments"]
    for argument in arguments.values():
        lines += _entry(argument.value, argument.help)
    for group, members in by_group(shown):
        lines += ["", group]
        for name, flag in members.items():
            lines += _entry(_name(name, flag), _sentence(flag))
    hidden = len(flags) - len(shown)
    if hidden:
        lines += ["", f"--helpfull lists {hidden} more flags."]
    elif flags:
        lines += ["", "This is the complete list of flags."]
    return "\n".join(lines)


def by_group(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """Yield the headings of settings, each with {name: setting}."""
    for group in dict.fromkeys(setting.group for setting in settings.values()):
        yield group, {name: s for name, s in settings.items() if s.group == group}


def _usage(example: str, arguments: Arguments, *, has_flags: bool) -> str:
    """Return what a command line consists of, for the program of an example."""
    program = re.match(r"python (-m )?\S+", example.strip())
    words = [program[0] if program else ""]
    for argument in arguments.values():
        word = argument.value + "..." * argument.many
        words.append(f"[{word}]" if argument.optional else word)
    words += ["[--flag=value ...]"] * has_flags
    return f"usage: {' '.join(words)}, for example"


def _entry(name: str, text: str) -> Iterator[str]:
    lines = textwrap.wrap(text, _WIDTH - _INDENT, break_on_hyphens=False)
    wrapped = [line.replace(_UNBROKEN, " ") for line in lines]
    if len(name) > _INDENT - 4:
        yield f"  {name}"
    else:
        yield f"  {name:{_INDENT - 2}}{wrapped.pop(0)}"
    yield from (" " * _INDENT + line for line in wrapped)


def _name(name: str, flag: Setting) -> str:
    if isinstance(flag.default, bool):
        return f"--[no]{name}" if flag.default else f"--{name}"
    value = flag.value or ("CHOICE" if flag.choices else _VALUES[type(flag.default)])
    return f"--{name}={value}"


def _sentence(flag: Setting) -> str:
    """Return the help with choices and default."""
    remarks = [", ".join(filter(None, flag.choices))] if flag.choices else []
    if default := default_text(flag):
        remarks.append(f"default{_UNBROKEN}{default}")
    return f"{flag.help} ({'; '.join(remarks)})" if remarks else flag.help


def default_text(setting: Setting) -> str:
    """Return the default value in words; "" for off and for an empty text."""
    if isinstance(setting.default, bool):
        return "on" if setting.default else ""
    if isinstance(setting.default, float):
        return f"{setting.default:g}"
    return str(setting.default)
