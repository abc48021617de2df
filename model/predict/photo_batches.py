"""Photo files -> batches of pixels as a network sees them, decoded ahead by others.

While the network works on a batch, threads read the files of the next ones, processes
decode them (pipeline/images/isolated_decoder.py) and TensorFlow cuts and resizes.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.batches import single_photo
from pipeline.batches.input_spec import InputSpec
from pipeline.images import isolated_decoder, photo_files
from pipeline.images.errors import ImageError
from pipeline.sources import source_settings
from pipeline.system import command_line

_TIMEOUT_S = 60.0
_BATCHES_AHEAD = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoBatch:
    """Some photos, and what came of reading them.

    Attributes:
        photos: their files.
        images: uint8 [num_readable, size_px, size_px, 3], RGB, 0..255.
        problems: for each file why it cannot be read; "" if it can.
    """

    photos: tuple[str, ...]
    images: np.ndarray
    problems: tuple[str, ...]


def read(
    photos: Iterable[str],
    spec: InputSpec,
    *,
    batch_size: int,
    resize_min: int = source_settings.RESIZE_MIN,
    num_workers: int = 0,
) -> Iterator[PhotoBatch]:
    """Reads photos in their order; memory does not grow with their number.

    Args:
        photos: files.
        spec: of the network's input.
        batch_size: files of each batch but the last.
        resize_min: longest short side that is not shrunk, in pixels; 0: no limit.
        num_workers: processes that decode; 0: one for each processor.
    """
    num_workers = num_workers or command_line.available_cpus()
    viewer = single_photo.Viewer(spec)
    waiting: collections.deque[
        tuple[str, concurrent.futures.Future[np.ndarray | str]]
    ] = collections.deque()
    remaining = iter(photos)
    with (
        isolated_decoder.Decoders(
            num_workers, timeout_s=_TIMEOUT_S, resize_min=resize_min
        ) as running,
        concurrent.futures.ThreadPoolExecutor(num_workers) as threads,
    ):

        def pixels(photo: str) -> np.ndarray | str:
            try:
                return viewer(running.decode(photo_files.read(photo)))
            except ImageError as error:
                return str(error)

        try:
            while True:
                wanted = _BATCHES_AHEAD * batch_size + batch_size - len(waiting)
                for photo in itertools.islice(remaining, wanted):
                    waiting.append((photo, threads.submit(pixels, photo)))
                if not waiting:
                    return
                some = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
                yield _batch(some, spec.size_px)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            running.close()


def _batch(
    some: list[tuple[str, "concurrent.futures.Future[np.ndarray | str]"]], size_px: int
) -> PhotoBatch:
    found = [future.result() for _, future in some]
    readable = [one for one in found if not isinstance(one, str)]
    images = np.zeros((len(readable), size_px, size_px, 3), np.uint8)
    for number, one in enumerate(readable):
        images[number] = one
    return PhotoBatch(
        photos=tuple(photo for photo, _ in some),
        images=images,
        problems=tuple(one if isinstance(one, str) else "" for one in found),
    )
