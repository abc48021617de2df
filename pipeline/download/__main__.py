"""Fill a folder with photos: from a named data set, or from a list of web addresses.

    python -m pipeline.download paper-flowers flowers/
    python -m pipeline.download --urls=list.csv photos/

paper-flowers is drawn on this computer in seconds, without the internet. flowers has
3,670 photos in 229 MB. Stop the command whenever you like and run it again: it keeps
what is there.
"""

import pipeline.start  # noqa: F401 # isort: skip
from pathlib import Path
from typing import Any

from pipeline.download.download_settings import Config
from pipeline.system import command_line, config_flags


def main(typed: dict[str, Any]) -> None:
    """Fetch the data set or the list named on the command line."""
    config = config_flags.build(Config, typed)
    # Only now, so that wrong flags are refused at once.
    from pipeline.download import flower_archive, paper_flowers, url_list

    if config.urls:
        command_line.say("\n".join(url_list.download(config)))
        return
    target = Path(config.target)
    if config.name == "paper-flowers":
        new = paper_flowers.draw_missing(
            target, images_per_class=config.images_per_class, seed=config.seed
        )
    else:
        new = flower_archive.download_archive(flower_archive.FLOWERS, target)
    counts = flower_archive.count_classes(target)
    total = sum(counts.values())
    command_line.say(f"{target}: {total} photos in {len(counts)} classes, {new} new")


if __name__ == "__main__":
    command_line.run(main, Config)
