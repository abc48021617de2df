"""Search all photos of a source for near-duplicates, in many processes.

Only what the hashes propose is decoded again.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.grouping import near_duplicates
from pipeline.images import decode_files, decode_source, local_runner, opencv
from pipeline.images.errors import ImageError
from pipeline.records import file_table
from pipeline.sources import find_source
from pipeline.system import command_line, process_pool
from pipeline.system.errors import DataError


def similar(
    found: file_table.Table,
    source: find_source.Source,
    *,
    encoded: Callable[[int], bytes],
    num_workers: int,
) -> near_duplicates.Similar:
    """Searches near-duplicates; only what the hashes propose is decoded again.

    This process does that, whose limit of pixels is that of its start.

    Args:
        found: all files.
        source: likewise.
        encoded: number of a file -> a JPEG or PNG of it, upright.
        num_workers: processes; 0: one for each processor.

    Raises:
        DataError: one does not decode any more; names it.
    """

    def thumbnail(number: int) -> np.ndarray:
        try:
            return opencv.thumbnail(encoded(number), near_duplicates.SIDE)
        except ImageError as error:
            raise DataError(
                f"{source.root}/{source.paths[number]}: cannot be compared with others "
                f"({error}); run again if it was changed a moment ago, and for a high "
                f"--max_pixels set {opencv.MAX_PIXELS_NAME} to the same"
            ) from error

    def digests(numbers: Sequence[int]) -> list[bytes]:
        done = process_pool.map_blocks(
            functools.partial(decode_files.digest_block, source.root),
            decode_source.blocks(
                map(source.span, numbers), local_runner.Local.block_files
            ),
            on_crash=decode_files.no_digest,
            num_workers=min(num_workers or command_line.available_cpus(), len(numbers)),
            initializer=decode_files.start_worker,
        )
        return list(itertools.chain(*(one for _, found in done for one in found)))

    return near_duplicates.find(found, thumbnail, digests)
