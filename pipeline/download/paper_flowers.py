"""Draw a data set of paper flowers from a seed, without a network."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pipeline.download import flower_archive, flower_drawing
from pipeline.images import opencv
from pipeline.system import command_line, file_system, process_pool
from pipeline.system.errors import DataError


def draw_missing(target: Path, *, images_per_class: int, seed: int) -> int:
    """Draw the photos of a data set that are missing, and return their number."""
    names = {
        f"{kind}/{kind}_{number:04d}.jpg"
        for kind in flower_drawing.KINDS
        for number in range(images_per_class)
    }
    files = flower_archive.files_below(target)
    if foreign := sorted(files - names):
        raise DataError(
            f"{target}: has other files, such as {foreign[0]}. Choose an empty folder"
        )
    if files:
        name = min(files)
        if (target / name).read_bytes() != photo(name, seed):
            raise DataError(
                f"{target}: {name} is not what --seed={seed} draws. Choose an empty "
                "folder, or the seed it was drawn with"
            )
    for kind in flower_drawing.KINDS:
        (target / kind).mkdir(parents=True, exist_ok=True)
    missing = sorted(names - files)
    with command_line.progress(len(missing), "photo", "draw") as progress:
        for _ in process_pool.map_blocks(
            functools.partial(_draw_block, target, seed),
            missing,
            on_crash=_raise_crash,
            initializer=opencv.use_one_thread,
            block_size=1,
        ):
            progress.update()
    return len(missing)


def photo(name: str, seed: int) -> bytes:
    """Return the photo with a name such as aster/aster_0012.jpg."""
    kind, number = Path(name).stem.split("_")
    drawn = flower_drawing.draw(kind, seed, int(number))
    return opencv.page_jpeg(drawn, quality=90)


def _draw_block(target: Path, seed: int, block: Sequence[str]) -> Sequence[str]:
    for name in block:
        with file_system.replacing(target / name) as partial:
            partial.write_bytes(photo(name, seed))
    return block


def _raise_crash(name: str) -> NoReturn:
    raise DataError(f"{name}: the process that draws this photo has crashed")
