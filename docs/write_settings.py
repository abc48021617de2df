"""Write docs/settings.md from the settings of all commands.

python docs/write_settings.py
"""

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
    sections = [
        flag_help.markdown(
            command,
            config_flags.arguments_of(*kinds),
            config_flags.settings_of(*kinds),
        )
        for command, kinds in COMMANDS.items()
    ]
    return "\n".join([HEAD, *sections])


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(document(), encoding="utf-8")
