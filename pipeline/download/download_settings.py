"""Define the settings of pipeline.download."""

import dataclasses
import functools
import re
from pathlib import Path

from pipeline.system import config_flags

# "This photo is no longer available", as Flickr sends it.
_FLICKR_PLACEHOLDER = "6a92790b1c2a301c6e7ddef645dca1f53ea97ac2"
DATA_SETS = ("paper-flowers", "flowers")
_drawn = functools.partial(config_flags.setting, group="Drawn flowers", basic=True)
_listed = functools.partial(config_flags.setting, group="List of photos", basic=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a download."""

    name: str = config_flags.argument(
        "NAME",
        f"Data set to fetch: {' or '.join(DATA_SETS)}; not used with --urls.",
        default="",
    )
    target: str = config_flags.argument("FOLDER", "Folder to fill with photos.")
    images_per_class: int = _drawn(
        120, "Photos to draw of each kind of paper flower.", lower=1
    )
    seed: int = _drawn(
        0,
        "Random seed of the paper flowers, and of the photos that --images picks.",
        lower=0,
    )
    urls: str = _listed(
        "",
        "CSV list; columns image_url or url, label and, optionally, _split or split.",
        value="FILE",
    )
    columns: str = _listed(
        "",
        "Titles of the columns of --urls, as in url:link,label:breed.",
        value="COLUMNS",
    )
    labels: str = _listed(
        "", "Class names, one per line, if labels are numbers from 0.", value="FILE"
    )
    images: int = _listed(
        0, "Photos to pick from the list at random; 0 downloads all.", lower=0
    )
    workers: int = _listed(
        16, "Photos of the list to download at the same time.", lower=1, upper=256
    )
    refuse_sha1: str = _listed(
        "",
        'Comma-separated SHA-1 digests of "photo not available" pictures to refuse, '
        "besides Flickr's.",
        value="DIGESTS",
    )
    min_bytes: int = _listed(
        500,
        "Size in bytes below which a file of the list is refused as a placeholder.",
        lower=1,
    )

    def __post_init__(self) -> None:
        config_flags.check(self)
        config_flags.check_folder("FOLDER", Path(self.target))
        if bool(self.urls) == bool(self.name):
            raise ValueError(
                "expected a data set and a folder, such as paper-flowers flowers/, or "
                "--urls and a folder"
            )
        if self.name and self.name not in DATA_SETS:
            expected = config_flags.suggestion(self.name, DATA_SETS)
            raise ValueError(f"data set {self.name!r} is unknown: expected {expected}")
        for digest in self.refused_digests:
            if not re.fullmatch("[0-9a-f]{40}", digest):
                raise ValueError(f"--refuse_sha1={digest}: expected 40 hex digits")

    @property
    def refused_digests(self) -> list[str]:
        """SHA-1 digests of placeholders: Flickr's, and those of --refuse_sha1."""
        listed = self.refuse_sha1.lower().replace(" ", "").split(",")
        return [_FLICKR_PLACEHOLDER, *filter(None, listed)]
