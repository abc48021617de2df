"""Write docs/settings.md from the settings of all commands.

python docs/write_settings.py
"""

import itertools
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from model import inspect  # noqa: E402
from model.evaluation import evaluation_settings  # noqa: E402
from model.export import export_settings  # noqa: E402
from model.predict import predict_settings  # noqa: E402
from model.serve import serve_settings  # noqa: E402
from model.training import settings  # noqa: E402
from pipeline import split  # noqa: E402
from pipeline.check import check_settings  # noqa: E402
from pipeline.convert import convert_settings  # noqa: E402
from pipeline.download import download_settings  # noqa: E402
from pipeline.system import config_flags, flag_help  # noqa: E402

COMMANDS: dict[str, list[type]] = {
    "python -m pipeline.download": [download_settings.Config],
    "python -m pipeline.convert": [convert_settings.Config],
    "python -m pipeline.split": [split.Config],
    "python -m pipeline.check": [check_settings.Config],
    "python train.py": [settings.Action, settings.Config],
    "python evaluate.py": [evaluation_settings.Config],
    "python -m model.predict": [predict_settings.Config],
    "python -m model.serve": [serve_settings.Config],
    "python -m model.export": [export_settings.Config],
    "python -m model.inspect": [inspect.Config],
}
HEAD = """# Settings

All flags of all commands, as `--helpfull` lists them. This file is written by
`python docs/write_settings.py`. In a recipe for `train.py`, settings have the names of
the flags without dashes.
"""


def document() -> str:
    """Return the content of docs/settings.md."""
    return "\n".join([HEAD, *map(section, COMMANDS.keys(), COMMANDS.values())])


def section(command: str, kinds: list[type]) -> str:
    """Return a command's settings as a section of Markdown with a table a group."""
    arguments = config_flags.arguments_of(*kinds)
    settings = config_flags.settings_of(*kinds)
    lines = [f"## `{command}`", ""]
    lines += [f"`{argument.value}`: {argument.help}" for argument in arguments.values()]
    lines += [""] * bool(arguments)
    for group, members in flag_help.by_group(settings):
        lines += [f"### {group}", "", "| setting | default | what it changes |"]
        lines += ["|---|---|---|", *itertools.starmap(_row, members.items()), ""]
    return "\n".join(lines)


def _row(name: str, setting: config_flags.Setting) -> str:
    flag = f"`--{name}`" if setting.is_flag else f"`{name}` (only in recipes)"
    remarks = [setting.help]
    if setting.choices:
        remarks.append(f"Choices: {', '.join(filter(None, setting.choices))}.")
    if setting.bounds:
        remarks.append(f"Range: {setting.bounds}.")
    default = f"`{value}`" if (value := flag_help.default_text(setting)) else ""
    text = re.sub(r"[*<|]", r"\\\g<0>", " ".join(remarks))
    return f"| {flag} | {default} | {text} |"


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(document(), encoding="utf-8")
