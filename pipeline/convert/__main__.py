"""Convert photos to records: TFRecord files, one or more per class, and a manifest.

    python -m pipeline.convert flowers/
    python -m pipeline.convert bees/ --lists=train.txt,val.txt --labels=labels.txt

The manifest has a row for every file of the source, which itself is never changed. Run
the command again after adding photos: it converts only the new ones, and every known
photo keeps its split.
"""

from typing import Any

from pipeline.convert.convert_settings import Config
from pipeline.system import command_line, config_flags


def main(typed: dict[str, Any]) -> None:
    """Convert the folder named on the command line."""
    config = config_flags.build(Config, typed)
    # Only now, so that wrong flags are refused at once.
    from pipeline.convert import conversion
    from pipeline.grouping import split_assignment
    from pipeline.records import count_tables, manifest

    summary = conversion.convert(config)
    command_line.say(count_tables.conversion(summary.tally))
    for note in summary.notes:
        command_line.say(note)
    for kind, count in summary.info.ignored.items():
        command_line.say(f"ignored: {count} {kind}")
    for path, reason in summary.skipped:
        command_line.say(f"skipped {command_line.one_line(path)}: {reason}")
    if (more := summary.tally.total()["skipped"] - len(summary.skipped)) > 0:
        where = summary.directory / manifest.ROWS_NAME
        command_line.say(f"... and {more} more, in {where}")
    for line in summary.findings:
        command_line.say(line)
    for line in split_assignment.warnings(summary.tally.splits()):
        command_line.say(f"warning: {line}")
    kept = summary.info.seed
    if "seed" in typed and kept != config.seed:
        command_line.say(
            f"--seed={config.seed} was ignored because these records were split with "
            f"seed {kept}. To make a new split, run: python -m pipeline.split "
            f"{config.out} --seed={config.seed}"
        )
    if summary.changed:
        command_line.say(f"wrote {len(summary.written)} record files to {config.out}")
    else:
        command_line.say(
            f"nothing changed: {config.out} is up to date with {config.source}"
        )


if __name__ == "__main__":
    command_line.run_command(main, Config, passes_on="beam_flags")
