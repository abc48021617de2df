"""A data set's name, or a list of addresses -> photos, ready for conversion.

    python -m pipeline.download paper-flowers flowers/   drawn here, in seconds, offline
    python -m pipeline.download flowers flowers/         3,670 photos, 229 MB
    python -m pipeline.download --urls=list.csv photos/  what can still be had of a list

All can be stopped at any time and started again: what is there is kept.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from pipeline.download import downloading, flower_archive
from pipeline.system import command_line
from pipeline.system.errors import DataError


def define_flags() -> None:
    """Declares the command's flags; defaults are those of downloading.Config."""
    default = downloading.Config(name=downloading.DATA_SETS[0], target="")
    flags.DEFINE_integer(
        "images_per_class",
        default.images_per_class,
        "Photos of each kind of paper flower.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "seed",
        default.seed,
        "Of the paper flowers, or of the subset of a list.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "urls",
        default.urls,
        "CSV list with columns image_url or url, label, and perhaps _split or split.",
    )
    flags.DEFINE_string(
        "labels",
        default.labels,
        "File of class names, one per line, label 0 first, if labels are numbers.",
    )
    flags.DEFINE_integer(
        "images", default.images, "Photos of the list; 0: all.", lower_bound=0
    )
    flags.DEFINE_integer(
        "workers",
        default.workers,
        "Photos of the list under way at once.",
        lower_bound=1,
        upper_bound=256,
    )
    flags.DEFINE_string(
        "refuse_sha1",
        default.refuse_sha1,
        "SHA-1 of files that are no photos, with commas between them, beside Flickr's "
        "placeholder.",
    )
    flags.DEFINE_integer(
        "min_bytes",
        default.min_bytes,
        "Smaller files of the list are refused: no photo, but many a placeholder.",
        lower_bound=1,
    )


def main(argv: Sequence[str]) -> None:
    """Fetches the data set or the list named on the command line."""
    if flags.FLAGS["urls"].value and len(argv) == 2:
        config = command_line.config_from_flags(
            downloading.Config, name="", target=argv[1]
        )
        command_line.say("\n".join(downloading.download_list(config)))
        return
    if len(argv) != 3:
        raise app.UsageError(
            "expected a data set and a folder: python -m pipeline.download "
            f"{downloading.DATA_SETS[0]} flowers/ (there are "
            f"{', '.join(downloading.DATA_SETS)}), or a list and a "
            "folder: python -m pipeline.download --urls=list.csv photos/"
        )
    config = command_line.config_from_flags(
        downloading.Config, name=argv[1], target=argv[2]
    )
    target = Path(config.target)
    if config.name == "paper-flowers":
        new = downloading.draw_paper_flowers(
            target, images_per_class=config.images_per_class, seed=config.seed
        )
    else:
        new = flower_archive.download_archive(flower_archive.FLOWERS, target)
    counts = flower_archive.count_classes(target)
    total = sum(counts.values())
    command_line.say(f"{target}: {total} photos in {len(counts)} classes, {new} new")


if __name__ == "__main__":
    define_flags()
    command_line.run(main, DataError)
