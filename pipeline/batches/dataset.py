"""Manifest rows -> batches of images and labels.

An epoch is a permutation of rows, a function of (seed, epoch). The rows are read by
their byte offsets, so every batch is mixed although each file holds one class.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.batches import augment_images, preprocess, random_augmentation
from pipeline.records import example_format, manifest, tfrecord
from pipeline.system import command_line
from pipeline.system.errors import DataError

# Records read by one call into Python: its cost is shared, and 4 MB are in flight.
_BLOCK_RECORDS = 64
# Encoded photos that training keeps in memory: some 4,000 of the usual 64 KB.
_MEMORY_BYTES = 256 << 20
Batch = Mapping[str, Any]


def element_spec(size_px: int, mixed_classes: int | None = None) -> dict[str, Any]:
    """Shapes and types of a batch.

    image: uint8 [batch, size_px, size_px, 3], RGB, 0..255. label: int32 [batch],
    0-based; where images are mixed, float32 [batch, mixed_classes], the share of each
    class. row: int64 [batch], index into the rows the batches were made from.
    """
    label = tf.TensorSpec([None], tf.int32)
    if mixed_classes is not None:
        label = tf.TensorSpec([None, mixed_classes], tf.float32)
    return {
        "image": tf.TensorSpec([None, size_px, size_px, 3], tf.uint8),
        "label": label,
        "row": tf.TensorSpec([None], tf.int64),
    }


class Images:
    """Photos of a data set as batches, in any order and view; reusable.

    The TensorFlow graph is built once: doing it for every epoch took 0.15 s.

    Attributes:
        rows: that an order counts in.
        sizes: int64 [num_rows, 2]: height, width of the stored images, in pixels.
        spec: of the network.
        batch_size: of all batches but the last.
        dataset: the tf.data.Dataset behind it; its elements are as `element_spec` says.
    """

    def __init__(
        self,
        found: manifest.Manifest,
        rows: Sequence[manifest.Row],
        spec: preprocess.InputSpec,
        *,
        batch_size: int,
        memory_bytes: int = 0,
        augmentation: random_augmentation.Augmentation = random_augmentation.NONE,
    ) -> None:
        """Builds the graph.

        Args:
            found: where the rows come from.
            rows: to choose from.
            spec: of the network.
            batch_size: images per batch; the last may be smaller.
            memory_bytes: if all records together are no larger, they are read now and
                stay in memory, still encoded; later passes are a tenth faster.
            augmentation: what the views of `run` are drawn for.
        """
        self.rows = rows
        self.spec = spec
        self.batch_size = batch_size
        self._augmentation = augmentation
        self._num_numbers = sum(augmentation.widths.values())
        self._num_classes = len(found.class_names)
        sizes = [(row.height, row.width) for row in rows]
        self.sizes = np.array(sizes, np.int64).reshape(-1, 2)
        self._labels = np.array([found.labels[r.class_name] for r in rows], np.int64)
        self._is_png = np.array([row.format == "png" for row in rows], np.bool_)
        self._reader = _Reader(found, rows)
        self._stored: Any = None
        if rows and sum(row.length for row in rows) <= memory_bytes:
            self._stored = tf.constant(self._reader.read(np.arange(len(rows))))
        self._plan = (np.zeros(0, np.int64), preprocess.central_views(self.sizes, spec))
        self.dataset = self._build()

    def run(self, order: np.ndarray, views: preprocess.Views) -> Iterator[Batch]:
        """Yields batches as `element_spec` says.

        Args:
            order: int [num_examples], indices into `rows`.
            views: one per row of `rows`.

        Raises:
            DataError: a record is missing, damaged or not the one the manifest
                means; or the number of examples is not that asked for.
            ValueError: the views are not of this augmentation.
        """
        num_numbers = 0 if views.numbers is None else views.numbers.shape[1]
        if num_numbers != self._num_numbers:
            raise ValueError(
                f"views have {num_numbers} numbers an image, expected "
                f"{self._num_numbers}"
            )
        self._plan = (order, views)
        directory = self._reader.directory
        seen = 0
        try:
            for batch in self.dataset:
                seen += len(batch["row"])
                yield batch
        except tf.errors.OpError as error:
            if self._reader.error is not None:
                raise self._reader.error from None
            raise DataError(
                f"{directory}: a record does not decode: {error.message}"
            ) from error
        if seen != len(order):
            raise DataError(
                f"{directory}: {seen} examples came out, expected {len(order)}"
            )

    def _block(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Block `number` of the pass: int64 [size, 8 + k], and the encoded images.

        The numbers are row, label, window (4), mirrored, is_png, and the bits of the k
        float64 numbers of the view. Beyond the end of the pass a block is empty.
        """
        order, views = self._plan
        rows = order[number * _BLOCK_RECORDS : (number + 1) * _BLOCK_RECORDS]
        columns = [
            rows[:, None],
            self._labels[rows, None],
            views.windows[rows],
            views.mirrored[rows, None],
            self._is_png[rows, None],
        ]
        if views.numbers is not None:
            columns.append(views.numbers[rows].view(np.int64))
        numbers = np.concatenate(columns, axis=1, dtype=np.int64)
        if self._stored is not None:
            return numbers, np.full(len(rows), b"", object)
        return numbers, self._reader.read(rows)

    def _resizing(self) -> tuple[bool, bool]:
        """Whether any window must be halved, and whether all windows are square."""
        sides = preprocess.window_sides(self.sizes, self.spec)
        square = self.spec.resize == "crop"
        if self._augmentation.crop_area:
            sides, square = self.sizes, False  # none is larger
        return bool((sides >= 2 * self.spec.size_px).any()), square

    def _build(self) -> Any:
        """Blocks -> single examples -> batches; a pass is what `_plan` says.

        No from_generator: it counts as stateful, for which deterministic ops give up
        all parallelism, and it sets glibc to hand freed memory back.
        """
        _keep_freed_memory()
        size_px = self.spec.size_px
        mixed = self._is_png.any() and not self._is_png.all()
        only_png = bool(self._is_png.any())
        halve, square = self._resizing()
        augmentation, width = self._augmentation, 8 + self._num_numbers

        @tf.autograph.experimental.do_not_convert  # converting took 0.3 s
        def read(number: Any) -> tuple[Any, Any]:
            numbers, encoded = tf.numpy_function(
                self._block, [number], [tf.int64, tf.string], stateful=False
            )
            numbers = tf.ensure_shape(numbers, [None, width])
            return numbers, tf.ensure_shape(encoded, [None])

        @tf.autograph.experimental.do_not_convert
        def more(numbers: Any, _: Any) -> Any:
            return tf.shape(numbers)[0] > 0

        @tf.autograph.experimental.do_not_convert
        def load(numbers: Any, encoded: Any) -> Batch:
            if self._stored is not None:
                encoded = tf.gather(self._stored, numbers[0])
            window = tf.cast(numbers[2:6], tf.int32)
            is_png = numbers[7] == 1 if mixed else only_png
            image = preprocess.decode_window(encoded, is_png, window)
            image = preprocess.resize(image, size_px, halve=halve, square=square)
            image = preprocess.mirror(image, numbers[6] == 1)
            label = tf.cast(numbers[1], tf.int32)
            example = {"image": image, "label": label, "row": numbers[0]}
            if width > 8:
                drawn = tf.bitcast(numbers[8:], tf.float64)
                if augmentation.alters:
                    example["image"] = augment_images.change(augmentation, image, drawn)
                if augmentation.mixes:
                    example["drawn"] = drawn
            return example

        @tf.autograph.experimental.do_not_convert
        def mix(batch: Batch) -> Batch:
            image, label = augment_images.mix(
                augmentation,
                batch["image"],
                batch["label"],
                batch["drawn"],
                self._num_classes,
            )
            return {"image": image, "label": label, "row": batch["row"]}

        options = tf.data.Options()
        options.deterministic = True
        # The autotuner's thread sleeps longer and longer and holds up the end of every
        # pass: 1,127 photos took 0.64 or 1.28 s where 0.45 s were needed.
        options.autotune.enabled = False
        options.threading.max_intra_op_parallelism = 1
        batches = (
            tf.data.Dataset.range(1 << 40)
            .map(read, num_parallel_calls=1)
            .take_while(more)
            .unbatch()
            .map(load, num_parallel_calls=command_line.available_cpus())
            .batch(self.batch_size)
        )
        if augmentation.mixes:
            batches = batches.map(mix, num_parallel_calls=command_line.available_cpus())
        return batches.prefetch(2).with_options(options)


class _Reader:
    """Reads records by row; keeps the first error, which TensorFlow would blur."""

    def __init__(self, found: manifest.Manifest, rows: Sequence[manifest.Row]) -> None:
        self.directory = found.directory
        self.error: Exception | None = None
        self._rows = rows
        self._labels = found.labels
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns the encoded images of some rows, as an array of bytes."""
        try:
            images = [self._read_one(self._rows[index]) for index in indices]
        except (OSError, DataError) as error:
            self.error = self.error or error
            raise
        return np.array(images, dtype=object)

    def _read_one(self, row: manifest.Row) -> bytes:
        path = self.directory / row.file
        where = f"{path} ({row.path})"
        payload = tfrecord.read_at(self._open(path), row.offset, row.length, where)
        try:
            values = example_format.parse(payload)
        except DataError as error:
            raise DataError(f"{where} at {row.offset}: {error}") from error
        expected = (self._labels[row.class_name], row.sha256.encode())
        if (values["image/class/label"], values["image/sha256"]) != expected:
            raise DataError(
                f"{where} at {row.offset}: label or SHA-256 differ from the manifest; "
                "convert again"
            )
        encoded = values["image/encoded"]
        if not isinstance(encoded, bytes):
            raise TypeError("image/encoded is declared as bytes")
        return encoded

    def _open(self, path: Path) -> int:
        with self._lock:
            if path not in self._descriptors:
                self._descriptors[path] = os.open(path, os.O_RDONLY)
            return self._descriptors[path]


def read_encoded(found: manifest.Manifest, rows: Sequence[manifest.Row]) -> list[bytes]:
    """The stored images of some rows, as JPEG or PNG files.

    Raises:
        DataError: a record is missing, damaged or not the one the manifest
            means.
    """
    return list(_Reader(found, rows).read(np.arange(len(rows))))


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory: handing it back and forth cost 15 % here."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    trim_threshold, mmap_threshold = -1, -3  # numbers from malloc.h
    mallopt(trim_threshold, 1 << 30)
    mallopt(mmap_threshold, 32 << 20)


class Training:
    """The training split; every epoch has each photo once, in a new order and view."""

    def __init__(
        self,
        found: manifest.Manifest,
        spec: preprocess.InputSpec,
        *,
        batch_size: int,
        seed: int,
        augmentation: random_augmentation.Augmentation = random_augmentation.NONE,
        share: Callable[[int], slice] = slice,
    ) -> None:
        """Prepares epochs that (seed, epoch) decides in full.

        Args:
            found: the data set.
            spec: of the network.
            batch_size: photos per batch.
            seed: of order and views.
            augmentation: of the photos.
            share: number of photos in a batch -> those of them that are wanted here; of
                a full batch at least one.
        """
        whole = range(batch_size)
        self.images = Images(
            found,
            found.included("train"),
            spec,
            batch_size=len(whole[share(batch_size)]),
            memory_bytes=_MEMORY_BYTES,
            augmentation=augmentation,
        )
        self._augmentation = augmentation
        self._num_classes = len(found.class_names)
        self._seed = seed
        self._share = share
        self._batch_size = batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch.

        Args:
            epoch: from 0.
            start: examples to leave out at the beginning: where a run was stopped.
        """
        key = (self._seed, epoch)
        order = permutation(len(self.images.rows), key)
        views = random_augmentation.views(
            self._augmentation, self.images.sizes, self.images.spec, order, key
        )
        order = order[start:]
        size = self._batch_size
        batches = [order[first : first + size] for first in range(0, len(order), size)]
        shares = [batch[self._share(len(batch))] for batch in batches]
        yield from self.images.run(np.concatenate([order[:0], *shares]), views)
        if batches and not len(shares[-1]):
            yield self._nothing()

    def _nothing(self) -> Batch:
        """A batch of no photos: the last one may be too small to have a share of it."""
        classes = self._num_classes if self._augmentation.mixes else None
        specs = element_spec(self.images.spec.size_px, classes)
        return {
            name: tf.zeros((0, *spec.shape[1:]), spec.dtype)
            for name, spec in specs.items()
        }


def permutation(num_rows: int, key: tuple[int, ...]) -> np.ndarray:
    """int64 [num_rows]: the order of an epoch; `key` decides it."""
    return preprocess.generator((*key, 0)).permutation(num_rows)


class Evaluation:
    """A split for judging: every photo once, central window, in manifest order."""

    def __init__(
        self,
        found: manifest.Manifest,
        split: str,
        spec: preprocess.InputSpec,
        *,
        batch_size: int,
    ) -> None:
        """Prepares passes over a split, or over all photos if `split` is ""."""
        rows = found.included(split) if split else found.included()
        self.images = Images(found, rows, spec, batch_size=batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches; the last may be smaller."""
        views = preprocess.central_views(self.images.sizes, self.images.spec)
        return self.seen_by(views)

    def seen_by(self, views: preprocess.Views) -> Iterator[Batch]:
        """Yields the batches of the same photos in other windows."""
        return self.images.run(np.arange(len(self.images.rows)), views)
