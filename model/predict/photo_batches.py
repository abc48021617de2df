"""Read photo files as batches of pixels, as a network sees them.

While the network works on a batch, threads read the files of the next ones, processes
decode them (pipeline.images.isolated_decoder), and TensorFlow crops and resizes them.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from pipeline.batches import crop_and_resize
from pipeline.batches.input_spec import InputSpec
from pipeline.images import file_headers, isolated_decoder, photo_files, record_image
from pipeline.records.manifest_row import Code, ImageError
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
        """Make a batch from the pixels of each photo, or the problem with it."""
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
    decoders: isolated_decoder.Decoders | None = None,
) -> Iterator[PhotoBatch]:
    """Yield batches of photos in their order; memory does not grow with their number.

    `resize_min` and `white_level` are those of the conversion of the training photos.
    `decoders`, which were made with these settings, are used and not closed.
    """
    num_workers = command_line.available_cpus()
    network_input = _network_input(spec)
    blocks = process_pool.blocks(photos, batch_size)
    waiting = collections.deque[tuple[Sequence[str], list[_Pending]]]()
    running = decoders or isolated_decoder.Decoders(
        num_workers,
        timeout_s=_TIMEOUT_S,
        resize_min=resize_min,
        white_level=white_level,
    )
    with concurrent.futures.ThreadPoolExecutor(num_workers) as threads:

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
            if decoders is None:
                running.close()


class NetworkInput:
    """A function of a record's image that returns the input of a network.

    Several threads may call it at once.
    """

    def __init__(self, spec: InputSpec) -> None:
        """Build the graph."""
        self.spec = spec
        resizing = {"halving": True, "square": spec.keeps_aspect}

        def crop(encoded: Any, is_png: Any, window: Any) -> Any:
            pixels = crop_and_resize.decode_window(encoded, is_png, window, spec.fill)
            return crop_and_resize.resize(pixels, spec.size_px, **resizing)

        def crop_pixels(pixels: Any, window: Any) -> Any:
            view = crop_and_resize.cut(pixels[None], window)
            if spec.fill:
                view = crop_and_resize.surround(view, window, spec.fill)
            return crop_and_resize.resize(view[0], spec.size_px, **resizing)

        self._crop_pixels = tf.function(
            crop_pixels, autograph=False, reduce_retracing=True
        )
        self._crop = tf.function(crop, autograph=False).get_concrete_function(
            tf.TensorSpec([], tf.string),
            tf.TensorSpec([], tf.bool),
            tf.TensorSpec([4], tf.int32),
        )

    def __call__(self, stored: record_image.RecordImage) -> np.ndarray:
        """Return the resized central window: uint8 [size_px, size_px, 3], RGB.

        A photo that OpenCV decodes but TensorFlow does not raises ImageError.
        """
        sizes = np.array([(stored.height, stored.width)], np.int64)
        window = crop_and_resize.central_views(sizes, self.spec).windows[0]
        try:
            pixels = self._crop(
                tf.constant(stored.encoded),
                tf.constant(stored.format == "png"),
                tf.constant(window),
            )
        except tf.errors.OpError as error:
            message = f"{stored.format.upper()} that TensorFlow does not decode"
            raise ImageError(Code.UNDECODABLE, message) from error
        return np.asarray(pixels, np.uint8)

    def of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return the network's input for pixels, uint8 [height, width, 3], RGB."""
        sizes = np.array([pixels.shape[:2]], np.int64)
        window = crop_and_resize.central_views(sizes, self.spec).windows[0]
        return np.asarray(self._crop_pixels(tf.constant(pixels), tf.constant(window)))


_network_input = functools.lru_cache(maxsize=1)(NetworkInput)  # a graph takes time
