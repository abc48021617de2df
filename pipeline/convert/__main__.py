"""Convert photos to records: TFRecord files, one or more per class, and a manifest.

    python -m pipeline.convert flowers/
    python -m pipeline.convert bees/ --lists=train.txt,val.txt --labels=labels.txt

The manifest has a row for every file of the source, which itself is never changed. Run
the command again after adding photos: it converts only the new ones, and every known
photo keeps its split.
"""

import pipeline.start  # noqa: F401 # isort: skip
from typing import Any

from pipeline.convert.convert_settings import Config
from pipeline.system import command_line, config_flags

_SHOWN_SKIPPED = 20  # files


def main(typed: dict[str, Any]) -> None:
    """Convert the folder named on the command line."""
    config = config_flags.build(Config, typed)
    # Only now, so that wrong flags are refused at once.
    from pipeline.convert import conversion, conversion_notes
    from pipeline.grouping import split_assignment
    from pipeline.records import manifest
    from pipeline.records.manifest_row import Code

    summary = conversion.convert(config)
    converted = summary.manifest
    for line in (*conversion_notes.counts(converted.tally), *summary.notes):
        command_line.say(line)
    for kind, count in converted.info.ignored.items():
        command_line.say(f"ignored: {count} {kind}")
    skipped = [r for r in converted.rows if not (r.is_included or r.is_gone)]
    for row in skipped[:_SHOWN_SKIPPED]:
        command_line.say(f"skipped {command_line.one_line(row.path)}: {row.reason}")
    if len(skipped) > _SHOWN_SKIPPED:
        where = converted.directory / manifest.ROWS_NAME
        command_line.say(f"... and {len(skipped) - _SHOWN_SKIPPED} more, in {where}")
    for line in summary.findings:
        command_line.say(line)
    for line in split_assignment.warn_of_small_classes(converted.counts()):
        command_line.say(f"warning: {line}")
    of_16_bits = {Code.SIXTEEN_BITS, Code.UNSUPPORTED_PIXELS}
    has_them = any(not of_16_bits.isdisjoint(row.codes) for row in converted.rows)
    if config.white_level and not has_them:
        command_line.say(
            f"--white_level={config.white_level} has no effect: no picture has 16 bits"
        )
    if "seed" in typed and converted.info.seed != config.seed:
        command_line.say(
            f"--seed={config.seed} was ignored because these records were split with "
            f"seed {converted.info.seed}. To make a new split, run: python -m "
            f"pipeline.split {config.out} --seed={config.seed}"
        )
    command_line.say(
        f"wrote {len(summary.written)} record files to {config.out}"
        if summary.changed
        else f"nothing changed: {config.out} is up to date with {config.source}"
    )


if __name__ == "__main__":
    command_line.run(main, Config, passes_on="beam_flags")
