"""Draw or download photos into a folder."""

import functools
import shlex
from collections.abc import Sequence
from pathlib import Path

from pipeline.download import (
    flower_archive,
    flower_canvas,
    paper_flowers,
    photo_downloads,
    url_list,
)
from pipeline.download.download_settings import Config
from pipeline.images import opencv
from pipeline.sources import class_labels
from pipeline.system import command_line, file_system, process_pool
from pipeline.system.errors import DataError

_BLOCK_PHOTOS = 8


def draw_paper_flowers(target: Path, *, images_per_class: int, seed: int) -> int:
    """Draw the photos of paper flowers that are missing, and return their number.

    Args:
        target: folder to fill.
        images_per_class: number of photos of each kind.
        seed: random seed of the data set.

    Raises:
        DataError: the folder has other files, or photos of another seed.
    """
    photos = {
        f"{kind}/{kind}_{number:04d}.jpg": (kind, number)
        for kind in paper_flowers.KINDS
        for number in range(images_per_class)
    }
    files = flower_archive.files_below(target)
    if foreign := sorted(files - photos.keys()):
        raise DataError(
            f"{target}: has {foreign[0]}, which is not part of this data set. Choose "
            "an empty folder"
        )
    if files:
        name = min(files)
        kind, number = photos[name]
        expected = flower_canvas.encode(paper_flowers.draw(kind, seed, number))
        if (target / name).read_bytes() != expected:
            raise DataError(
                f"{target}: {name} is not what --seed={seed} draws. Choose an empty "
                "folder, or the seed it was drawn with"
            )
    missing = sorted(photos.keys() - files)
    for kind in paper_flowers.KINDS:
        (target / kind).mkdir(parents=True, exist_ok=True)
    blocks = [
        [(name, *photos[name]) for name in missing[start : start + _BLOCK_PHOTOS]]
        for start in range(0, len(missing), _BLOCK_PHOTOS)
    ]
    with command_line.progress(len(missing), "photo", "draw") as progress:
        for block, _ in process_pool.map_blocks(
            functools.partial(_draw_block, target, seed),
            blocks,
            on_crash=_raise_crash,
            num_workers=min(command_line.available_cpus(), max(1, len(blocks))),
            initializer=opencv.use_one_thread,
        ):
            progress.update(len(block))
    return len(missing)


def _draw_block(target: Path, seed: int, block: Sequence[tuple[str, str, int]]) -> None:
    for name, kind, number in block:
        with file_system.replacing(target / name) as partial:
            partial.write_bytes(
                flower_canvas.encode(paper_flowers.draw(kind, seed, number))
            )


def _raise_crash(photo: tuple[str, str, int]) -> None:
    raise DataError(f"{photo[0]}: the process that draws this photo has crashed")


def download_list(config: Config) -> list[str]:
    """Download the photos of a list, and return lines that sum up the result.

    Raises:
        DataError: the list is invalid, or no photo could be downloaded.
    """
    photos = url_list.read(
        Path(config.urls),
        class_labels.read(Path(config.labels)) if config.labels else None,
        images=config.images,
        seed=config.seed,
    )
    refused = frozenset({url_list.FLICKR_PLACEHOLDER, *config.refused_digests})
    options = photo_downloads.DownloadOptions(
        workers=config.workers, refused=refused, min_bytes=config.min_bytes
    )
    target = Path(config.target)
    outcomes = url_list.download(photos, target, options)
    words = ["python", "-m", "pipeline.convert", str(target)]
    words.append(f"--csv={target / url_list.LISTING_NAME}")
    words += [f"--labels={config.labels}"] if config.labels else []
    return [
        *url_list.summary(photos, outcomes, target),
        f"to convert them: {shlex.join(words)}",
    ]
