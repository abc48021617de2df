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
    lines = [*conversion_notes.counts(converted.tally), *summary.notes]
    lines += [f"ignored: {n} {kind}" for kind, n in converted.info.ignored.items()]
    skipped = [r for r in converted.rows if not (r.is_included or r.is_gone)]
    for row in skipped[:_SHOWN_SKIPPED]:
        lines.append(f"skipped {command_line.one_line(row.path)}: {row.reason}")
    if (count := len(skipped) - _SHOWN_SKIPPED) > 0:
        where = converted.directory / manifest.ROWS_NAME
        lines.append(f"... and {count} more, in {where}")
    lines += summary.findings
    lines += split_assignment.warn_of_small_classes(converted.counts())
    of_16_bits = {Code.SIXTEEN_BITS, Code.UNSUPPORTED_PIXELS}
    has_them = any(not of_16_bits.isdisjoint(row.codes) for row in converted.rows)
    if (white := config.white_level) and not has_them:
        lines.append(f"--white_level={white} has no effect: no picture has 16 bits")
    if "seed" in typed and converted.info.seed != config.seed:
        lines.append(
            f"--seed={config.seed} was ignored because these records were split with "
            f"seed {converted.info.seed}. To make a new split, run: python -m "
            f"pipeline.split {config.out} --seed={config.seed}"
        )
    count = len(summary.written)
    command_line.say(
        *lines,
        f"wrote {count} record file{'s' * (count != 1)} to {config.out}"
        if summary.changed
        else f"nothing changed: {config.out} is up to date with {config.source}",
    )


if __name__ == "__main__":
    command_line.run(main, Config, passes_on="beam_flags", in_buckets=("source", "out"))
