"""Run the command graft, whose first word names what to do, as in graft train."""

import difflib
import runpy
import sys
from pathlib import Path
from typing import Any

from pipeline.system import program_name
from pipeline.system.errors import UsageError

# {name: (module in the checkout, what the command does)}.
COMMANDS = {
    "convert": ("pipeline.convert", "turn a folder of photos into records"),
    "check": ("pipeline.check", "find damaged photos, copies and small classes"),
    "split": ("pipeline.split", "divide records again, for instance into folds"),
    "train": ("train", "train a classifier on records"),
    "evaluate": ("evaluate", "measure a run on photos that it has never seen"),
    "predict": ("model.predict", "classify photos and videos"),
    "serve": ("model.serve", "classify photos on a page in the browser"),
    "export": ("model.export", "write a run as SavedModel, ONNX, LiteRT or Keras"),
    "inspect": ("model.inspect", "show what a weight file holds"),
    "download": ("pipeline.download", "get example photos, or photos from a list"),
}
FIRST_STEPS = """\
Graft turns photos into a classifier. Put them into one folder for each class, such as
flowers/daisy and flowers/roses; or try: graft download paper-flowers flowers/

    graft convert flowers/      photos -> records in tfrecords/
    graft train                 records -> a classifier in runs/
    graft evaluate              its accuracy on photos that it has not seen; a report
    graft predict photo.jpg     the class of another photo

graft --help lists all commands, graft train --help the flags of one."""


def main() -> None:
    """Run the command that the first word names, or print help."""
    if sys.argv[1:2] == ["help"] and sys.argv[2:]:
        sys.argv[1:] = [sys.argv[2], "--help"]
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        program_name.is_graft = True
        del sys.argv[1]
        module = _installed_name(COMMANDS[name][0])
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    from pipeline.system import command_line

    def answer(_: dict[str, Any]) -> None:
        command_line.say(_answer(name))

    del sys.argv[1:]
    command_line.run(answer)


def _answer(name: str) -> str:
    """Return what to print for a first word that is not a command."""
    if name in ("--version", "-V", "version"):
        return f"graft {program_name.VERSION}"
    if name in ("--help", "-h", "help"):
        lines = (f"    graft {name:12}{about}" for name, (_, about) in COMMANDS.items())
        return "\n".join(["Commands:", *lines])
    if name:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean graft {close[0]}?" if close else "See graft --help."
        raise UsageError(f"{name!r:.60}: no such command. {hint}")
    return FIRST_STEPS


def _installed_name(module: str) -> str:
    """Return a module's name here; an installation has all modules in graft/."""
    if not Path(__file__).with_name("pipeline").is_dir():
        return module
    return f"graft.{module}" if "." in module else f"graft.commands.{module}"


if __name__ == "__main__":
    main()
