"""Photos as people have them -> one TFRecord file per class, and a manifest.

    python -m pipeline.convert flowers/ --out=tfrecords
    python -m pipeline.convert bees/ --lists=train.txt,val.txt --labels=labels.txt
    python -m pipeline.convert photos/ --csv=photos.csv

Every file of the source is accounted for by a row of the manifest; the source is never
changed. Running again over the same source changes nothing; over a source that grew, it
keeps every known photo in its split and decodes only what is new.
"""

import dataclasses
import difflib
from collections.abc import Sequence

from absl import app, flags

from pipeline.convert import conversion
from pipeline.grouping import split_assignment
from pipeline.images import beam_runner
from pipeline.records import count_tables, manifest
from pipeline.system import command_line
from pipeline.system.errors import DataError


def define_flags() -> None:
    """Declares the command's flags; defaults are those of conversion.Config."""
    default = conversion.Config(source="")
    flags.DEFINE_string("out", default.out, "Folder for records and manifest.")
    flags.DEFINE_integer(
        "seed", default.seed, "Ranks the photos for the split.", lower_bound=0
    )
    flags.DEFINE_integer(
        "resize_min",
        default.resize_min,
        "Photos with a longer short side, in pixels, are shrunk to it: twice the 256 "
        "that networks resize to, so nothing they see is lost. 0: keep all pixels.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "shard_mb",
        default.shard_mb,
        "A class with more megabytes of records gets several files. 0: never.",
        lower_bound=0,
        upper_bound=1 << 20,
    )
    flags.DEFINE_string(
        "group_by",
        default.group_by,
        "Regular expression searched in each path, as in 'patient(\\d+)': photos with "
        "the same match, or the same groups of it, are never divided by the split.",
    )
    flags.DEFINE_integer(
        "max_pixels",
        default.max_pixels,
        "Photos of more pixels are refused, before they are decoded.",
        lower_bound=1,
    )
    flags.DEFINE_enum(
        "animated",
        default.animated,
        conversion.ANIMATED,
        "What becomes of animations and files of several pages.",
    )
    flags.DEFINE_enum(
        "conflicts",
        default.conflicts,
        conversion.CONFLICTS,
        "What becomes of a photo that is filed under several classes.",
    )
    flags.DEFINE_enum(
        "lacking",
        default.lacking,
        conversion.LACKING,
        "What becomes of a class that lists or CSV give no photo of in one split.",
    )
    flags.DEFINE_integer(
        "workers", default.workers, "Processes; 0: one per processor.", lower_bound=0
    )
    flags.DEFINE_enum(
        "runner",
        default.runner,
        ["local", *beam_runner.RUNNERS],
        "local: processes of this machine; else one of Apache Beam, whose own flags "
        "may follow, as --direct_num_workers=2.",
    )
    flags.DEFINE_string(
        "lists",
        default.lists,
        "List files, `path label` per line, with commas between them; their names tell "
        "the split, or train=a.txt,test=b.txt.",
    )
    flags.DEFINE_string(
        "csv", default.csv, "CSV file with columns path, label and perhaps split."
    )
    flags.DEFINE_string(
        "labels",
        default.labels,
        "File of class names, one per line, label 0 first, for --lists and --csv.",
    )


def _beam_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divides what is left after our flags: positional words, and flags of Beam.

    Beam passes over flags that it does not know, so nearly ours are refused here.

    Raises:
        app.UsageError: names the flag that was meant.
    """
    own = [word for word in argv if not word.startswith("--")]
    options = [word for word in argv if word.startswith("--")]
    ours = [field.name for field in dataclasses.fields(conversion.Config)]
    for option in options:
        name = option.removeprefix("--").partition("=")[0]
        if meant := difflib.get_close_matches(name, ours, n=1, cutoff=0.8):
            raise app.UsageError(f"--{name}: did you mean --{meant[0]}?")
    return own, options


def main(argv: Sequence[str]) -> None:
    """Converts the folder named on the command line."""
    argv, options = _beam_options(argv)
    if len(argv) != 2 or not argv[1]:
        raise app.UsageError(
            "expected one folder of photos: python -m pipeline.convert flowers/"
        )
    config = command_line.config_from_flags(
        conversion.Config, source=argv[1], beam_flags=tuple(options)
    )
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
    if flags.FLAGS["seed"].present and kept != config.seed:
        command_line.say(
            f"--seed={config.seed} is not used: known photos keep the split of seed "
            f"{kept}; python -m pipeline.split {config.out} --seed={config.seed} "
            "splits anew"
        )
    if summary.changed:
        command_line.say(f"wrote {len(summary.written)} record files to {config.out}")
    else:
        command_line.say(
            f"nothing changed: {config.out} is up to date with {config.source}"
        )


if __name__ == "__main__":
    define_flags()
    command_line.run(main, DataError)
