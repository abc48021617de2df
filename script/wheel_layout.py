"""Put the whole tree into one package of the wheel, so that no name clashes.

A user may have modules called model or train. So the folders and files of the checkout
move into graft/, and their imports of each other are rewritten: "from pipeline import
split" becomes "from graft.pipeline import split".
"""

import re
import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("pipeline", "model", "graft", "recipes")
COMMANDS = ("train.py", "evaluate.py")
_IMPORT = re.compile(rb"^( *)(from|import) (pipeline|model)(?=[. ])", re.MULTILINE)
_IMPORT_COMMAND = re.compile(rb"^( *)import (train|evaluate) as", re.MULTILINE)


class WheelLayout(BuildHookInterface):
    """Build the package graft in a temporary folder, and add that to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fill the temporary folder, except for an editable installation."""
        if version == "editable":
            return
        root, package = Path(self.root), Path(self.directory, "tree", "graft")
        shutil.rmtree(package, ignore_errors=True)
        for folder in FOLDERS:
            target = package if folder == "graft" else package / folder
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / folder, target, ignore=ignored, dirs_exist_ok=True)
        commands = package / "commands"
        commands.mkdir()
        (commands / "__init__.py").write_text(
            '"""Programs of the checkout\'s top."""\n'
        )
        for name in COMMANDS:
            shutil.copy(root / name, commands)
        for module in package.rglob("*.py"):
            text = _IMPORT.sub(rb"\1\2 graft.\3", module.read_bytes())
            text = _IMPORT_COMMAND.sub(rb"\1import graft.commands.\2 as", text)
            module.write_bytes(text)
        build_data["force_include"][str(package)] = "graft"

    def finalize(self, version: str, build_data: dict[str, Any], wheel: str) -> None:
        """Remove the temporary folder."""
        shutil.rmtree(Path(self.directory, "tree"), ignore_errors=True)
