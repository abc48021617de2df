"""Search the photos of a source for near-duplicates, in many processes.

Only photos that the hashes propose are decoded again.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.grouping import near_duplicates
from pipeline.grouping.thumbnail_comparison import SIDE
from pipeline.images import decode_files, opencv
from pipeline.records.manifest_row import ImageError, Row
from pipeline.sources.photo_source import Source
from pipeline.system import process_pool
from pipeline.system.errors import DataError


def search(
    rows: Sequence[Row],
    source: Source,
    *,
    encoded: Callable[[int], bytes],
    num_workers: int,
) -> near_duplicates.NearDuplicates:
    """Search near-duplicates among the rows of all files of a source.

    This process decodes the proposed photos; its limit of pixels is that of its start.
    `encoded` is a function from the index of a row to a JPEG or PNG of it, upright. A
    photo that does not decode any more is a DataError.
    """

    def thumbnail(index: int) -> np.ndarray:
        try:
            return opencv.thumbnail(encoded(index), SIDE)
        except ImageError as error:
            raise DataError(
                f"{source.root}/{rows[index].path}: cannot be compared with others "
                f"({error}). Run again if it was changed a moment ago. For a high "
                f"--max_pixels, set {opencv.MAX_PIXELS_NAME} to the same"
            ) from error

    def digests(indices: Sequence[int]) -> list[bytes]:
        digests = process_pool.map_blocks(
            functools.partial(decode_files.digest_block, source.root),
            (source.photos[index] for index in indices),
            on_crash=decode_files.no_digest,
            initializer=decode_files.start_worker,
            num_workers=num_workers,
        )
        return [digest for _, digest in digests]

    return near_duplicates.find(rows, thumbnail, digests)
