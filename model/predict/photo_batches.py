"""Read photo files as batches of pixels, as a network sees them.

While the network works on a batch, threads read the files of the next ones, processes
decode them (pipeline.images.isolated_decoder), and TensorFlow crops and resizes them.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np

from pipeline.batches import single_photo
from pipeline.batches.input_spec import InputSpec
from pipeline.images import file_headers, isolated_decoder, photo_files
from pipeline.records.manifest_row import ImageError
from pipeline.system import command_line, process_pool

_TIMEOUT_S = 60.0
_BATCHES_AHEAD = 2

_Result = np.ndarray | ImageError  # of a photo: its pixels, or why there are none
_Pending = concurrent.futures.Future[_Result]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoBatch:
    """Photo files of a batch, and the problems with those that cannot be read."""

    photos: tuple[str, ...]
    images: np.ndarray  # uint8 [num_readable, size_px, size_px, 3], RGB, 0..255
    problems: tuple[ImageError | None, ...]  # of each file; None for a readable one

    @classmethod
    def of(
        cls, photos: Iterable[str], results: Sequence[_Result], spec: InputSpec
    ) -> Self:
        """Return a batch of photos from the pixels of each, or the problem with it."""
        views = [r for r in results if not isinstance(r, ImageError)]
        shape = (-1, spec.size_px, spec.size_px, 3)
        return cls(
            photos=tuple(photos),
            images=np.array(views, np.uint8).reshape(shape),
            problems=tuple(r if isinstance(r, ImageError) else None for r in results),
        )


def read(
    photos: Iterable[str],
    spec: InputSpec,
    *,
    batch_size: int,
    resize_min: int = file_headers.RESIZE_MIN,
    white_level: int = 0,
) -> Iterator[PhotoBatch]:
    """Yield batches of photos in their order; memory does not grow with their number.

    `resize_min` and `white_level` are those of the conversion whose pixels are wanted.
    """
    num_workers = command_line.available_cpus()
    network_input = single_photo.NetworkInput(spec)
    blocks = process_pool.blocks(photos, batch_size)
    waiting = collections.deque[tuple[Sequence[str], list[_Pending]]]()
    with (
        isolated_decoder.Decoders(
            num_workers,
            timeout_s=_TIMEOUT_S,
            resize_min=resize_min,
            white_level=white_level,
        ) as running,
        concurrent.futures.ThreadPoolExecutor(num_workers) as threads,
    ):

        def pixels(photo: str) -> _Result:
            try:
                return network_input(running.decode(photo_files.read(photo)))
            except ImageError as error:
                return error

        try:
            while True:
                num_free = _BATCHES_AHEAD + 1 - len(waiting)
                for block in itertools.islice(blocks, num_free):
                    waiting.append((block, [threads.submit(pixels, p) for p in block]))
                if not waiting:
                    return
                names, pending = waiting.popleft()
                yield PhotoBatch.of(names, [task.result() for task in pending], spec)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            running.close()
