"""Draw or download photos into a folder."""

import functools
import shlex
from collections.abc import Sequence
from pathlib import Path

from pipeline.download import flower_archive, paper_flowers, photo_downloads, url_list
from pipeline.download.download_settings import Config
from pipeline.images import record_image
from pipeline.sources import class_labels
from pipeline.system import command_line, file_system, process_pool
from pipeline.system.errors import DataError

_BLOCK_PHOTOS = 8


def draw_paper_flowers(target: Path, *, images_per_class: int, seed: int) -> int:
    """Draws what is missing of a data set of paper flowers; returns how many.

    Raises:
        DataError: the folder holds something else, or those of another seed.
    """
    wanted = {
        f"{kind}/{kind}_{number:04d}.jpg": (kind, number)
        for kind in paper_flowers.KINDS
        for number in range(images_per_class)
    }
    found = flower_archive.files_below(target)
    if foreign := sorted(found - wanted.keys()):
        raise DataError(
            f"{target}: holds {foreign[0]}, which is not of this data set; "
            "choose an empty folder"
        )
    if found:
        name = min(found)
        kind, number = wanted[name]
        expected = paper_flowers.encode(paper_flowers.draw(kind, seed, number))
        if (target / name).read_bytes() != expected:
            raise DataError(
                f"{target}: {name} is not what --seed={seed} draws; choose an empty "
                "folder, or the seed it was drawn with"
            )
    missing = sorted(wanted.keys() - found)
    for kind in paper_flowers.KINDS:
        (target / kind).mkdir(parents=True, exist_ok=True)
    blocks = [
        [(name, *wanted[name]) for name in missing[start : start + _BLOCK_PHOTOS]]
        for start in range(0, len(missing), _BLOCK_PHOTOS)
    ]
    with command_line.progress(len(missing), "photo", "draw") as progress:
        for block, _ in process_pool.map_blocks(
            functools.partial(_draw_block, target, seed),
            blocks,
            on_crash=_crashed,
            num_workers=min(command_line.available_cpus(), max(1, len(blocks))),
            initializer=record_image.use_one_thread,
        ):
            progress.update(len(block))
    return len(missing)


def _draw_block(target: Path, seed: int, block: Sequence[tuple[str, str, int]]) -> None:
    for name, kind, number in block:
        with file_system.replacing(target / name) as partial:
            partial.write_bytes(
                paper_flowers.encode(paper_flowers.draw(kind, seed, number))
            )


def _crashed(item: tuple[str, str, int]) -> None:
    raise DataError(f"{item[0]}: drawing it took the process down")


def download_list(config: Config) -> list[str]:
    """Fetches the photos of a list; returns what to tell of them, line by line.

    Raises:
        fetch.Unreachable: no server answers.
        DataError: the list is not as it should be, or nothing could be had.
    """
    photos = url_list.read(
        Path(config.urls),
        class_labels.read(Path(config.labels)) if config.labels else None,
        images=config.images,
        seed=config.seed,
    )
    refused = frozenset({url_list.FLICKR_PLACEHOLDER, *config.refused_digests})
    how = photo_downloads.How(
        workers=config.workers, refused=refused, min_bytes=config.min_bytes
    )
    target = Path(config.target)
    outcomes = url_list.download(photos, target, how)
    words = ["python", "-m", "pipeline.convert", str(target)]
    words.append(f"--csv={target / url_list.LISTING_NAME}")
    words += [f"--labels={config.labels}"] if config.labels else []
    return [
        *url_list.summary(photos, outcomes, target),
        f"to convert them: {shlex.join(words)}",
    ]
