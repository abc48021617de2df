"""Photos or records -> what is wrong with them, before anything is trained on them.

    python -m pipeline.check flowers/
    python -m pipeline.check tfrecords/

Every file is decoded in full. Beside the summary come check.json, and check.html: one
page, with thumbnails, of what to look at. The exit code is 2 when something would
corrupt training or evaluation; --strict makes it 2 for any finding.
"""

from collections.abc import Sequence
from typing import Any

from absl import app, flags

from pipeline.check import checking
from pipeline.system import command_line
from pipeline.system.errors import DataError


def define_flags() -> None:
    """Declares the command's flags; defaults are those of checking.Config."""
    default = checking.Config(source="")
    flags.DEFINE_string(
        "out", default.out, "Folder for checking.check.json and checking.check.html."
    )
    flags.DEFINE_bool("strict", default.strict, "Exit code 2 for any finding.")
    flags.DEFINE_integer(
        "max_pixels",
        default.max_pixels,
        "Photos of more pixels are refused, before they are decoded.",
        lower_bound=1,
    )
    flags.DEFINE_string(
        "group_by",
        default.group_by,
        "Regular expression; photos in whose paths it finds the same belong together.",
    )
    flags.DEFINE_string(
        "lists", default.lists, "List files, `path label` per line, with commas."
    )
    flags.DEFINE_string(
        "csv", default.csv, "CSV file with columns path, label and perhaps split."
    )
    flags.DEFINE_string(
        "labels", default.labels, "File of class names, one per line, label 0 first."
    )
    flags.DEFINE_integer(
        "workers", default.workers, "Processes; 0: one per processor.", lower_bound=0
    )


def main(argv: Sequence[str]) -> None:
    """Checks what is named on the command line."""
    if len(argv) != 2 or not argv[1]:
        raise app.UsageError(
            "expected one folder, of photos or of records: python -m pipeline.check "
            "flowers/"
        )
    config: Any = command_line.config_from_flags(checking.Config, source=argv[1])
    report = checking.check(config)
    command_line.say(checking.summary(report))
    command_line.say(
        f"written: {config.out}/checking.check.json, {config.out}/checking.check.html"
    )
    if report.is_bad(strict=config.strict):
        worst = report.findings[0]
        raise DataError(
            f"{config.source}: {worst.kind}: {worst.meaning}; "
            f"{config.out}/checking.check.html shows it"
        )


if __name__ == "__main__":
    define_flags()
    command_line.run(main, DataError)
