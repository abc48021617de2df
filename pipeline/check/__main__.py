"""Check photos or records for what would spoil training or evaluation.

    python -m pipeline.check flowers/
    python -m pipeline.check tfrecords/

Decodes every file in full. Prints a summary and writes check.json and check.html, a
page with thumbnails of what to look at. The exit code is 2 if a finding would corrupt
training or evaluation.
"""

import pipeline.start  # noqa: F401 # isort: skip
from typing import Any

from pipeline.check.check_settings import Config
from pipeline.system import command_line, config_flags
from pipeline.system.errors import DataError


def main(typed: dict[str, Any]) -> None:
    """Check the folder named on the command line."""
    config = config_flags.build(Config, typed)
    # Only now, so that wrong flags are refused at once.
    from pipeline.check import checking

    report = checking.check(config)
    command_line.say(checking.summary(report))
    command_line.say(f"written: {config.out}/check.json, {config.out}/check.html")
    if report.is_bad(strict=config.strict):
        worst = report.findings[0]
        raise DataError(
            f"{config.source}: {worst.kind}: {worst.meaning}; {config.out}/check.html "
            "shows it"
        )


if __name__ == "__main__":
    command_line.run(main, Config)
