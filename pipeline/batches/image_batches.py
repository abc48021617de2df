"""Read, decode and augment the photos of manifest rows as batches of tensors.

Records are read by their byte offsets, so a batch may mix photos of all record files.
An epoch of training is a permutation of the rows that depends on (seed, epoch) alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from pipeline.batches import augmentation_settings, crop_and_resize, random_augmentation
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest, stored_photo
from pipeline.records.manifest_row import Row
from pipeline.system import command_line
from pipeline.system.errors import DataError

# Records read by one call into Python: its cost is shared, and 4 MB are in flight.
_BLOCK_RECORDS = 64
# Integers that describe one example, before the numbers of its augmentation.
_NUM_COLUMNS = 8
# Encoded photos that training keeps in memory: some 4,000 of the usual 64 KB.
_MEMORY_BYTES = 256 << 20
Batch = Mapping[str, Any]
_Item = TypeVar("_Item")


class Images:
    """Photos of a data set as batches, in any order and view; reusable.

    The TensorFlow graph is built once: building it for every epoch took 0.15 s.

    Attributes:
        records: data set that the photos are from.
        rows: rows that the indices of an order refer to.
        sizes: int64 [num_rows, 2], height and width of the stored images, in pixels.
        dataset: tf.data.Dataset of batches. "image": uint8 [batch, size_px, size_px,
            3], RGB, 0..255. "label": int32 [batch], 0-based; where images are mixed,
            float32 [batch, num_classes], the share of each class. "row": int64 [batch],
            indices into `rows`.
    """

    def __init__(
        self,
        records: manifest.Manifest,
        rows: Sequence[Row],
        spec: InputSpec,
        *,
        batch_size: int,
        memory_bytes: int = 0,
        augmentation: augmentation_settings.Augmentation = augmentation_settings.NONE,
    ) -> None:
        """Build the graph for views that are drawn for `augmentation`.

        The last batch may have fewer than `batch_size` images. If all records together
        have at most `memory_bytes`, they are read now and stay in memory, still
        encoded; later passes are a tenth faster.
        """
        self.records = records
        self.rows = rows
        self.spec = spec
        self._batch_size = batch_size
        self._photos = stored_photo.StoredPhotos(records.directory)
        self._error: Exception | None = None
        self._augmentation = augmentation
        self._num_numbers = sum(augmentation.widths.values())
        self._num_classes = len(records.class_names)
        sizes = [(row.height, row.width) for row in rows]
        self.sizes = np.array(sizes, np.int64).reshape(-1, 2)
        self._labels = np.array([records.labels[r.class_name] for r in rows], np.int64)
        self._is_png = np.array([row.format == "png" for row in rows], np.bool_)
        self._stored: Any = None
        if rows and sum(row.length for row in rows) <= memory_bytes:
            self._stored = tf.constant(self._images(np.arange(len(rows))))
        self._plan: tuple[np.ndarray, crop_and_resize.Views]  # of the current pass
        self.dataset = self._build()

    def run(self, order: np.ndarray, views: crop_and_resize.Views) -> Iterator[Batch]:
        """Yield the batches of one pass; a bad record raises DataError or OSError.

        `order` has indices into `rows`, int [num_examples]; `views` a view of each row.
        """
        self._plan = (order, views)
        try:
            yield from self.dataset
        except tf.errors.OpError as error:
            if self._error is not None:  # clearer than TensorFlow's message
                raise self._error from None
            raise DataError(
                f"{self.records.directory}: a record does not decode: {error.message}"
            ) from error

    def __iter__(self) -> Iterator[Batch]:
        """Yield every photo once, in its central view, in the order of `rows`."""
        views = crop_and_resize.central_views(self.sizes, self.spec)
        return self.run(np.arange(len(self.rows)), views)

    def _block(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return block `number` of the pass: int64 [size, 8 + k], and encoded images.

        The integers are row, label, window (4), mirrored, is_png, and the bits of the k
        float64 numbers of the view. Beyond the end of the pass a block is empty.
        """
        order, views = self._plan
        rows = order[number * _BLOCK_RECORDS : (number + 1) * _BLOCK_RECORDS]
        columns = [rows, self._labels[rows], views.windows[rows], views.mirrored[rows]]
        columns.append(self._is_png[rows])
        if views.numbers is not None:
            columns.append(views.numbers[rows].view(np.int64))
        numbers = np.column_stack(columns)
        if self._stored is not None:
            return numbers, np.full(len(rows), b"", object)
        return numbers, self._images(rows)

    def _images(self, indices: np.ndarray) -> np.ndarray:
        """Return the encoded images of rows, as an array of bytes."""
        try:
            images = [
                self._photos.image(self.rows[index], self._labels[index])
                for index in indices.tolist()
            ]
        except (OSError, DataError) as error:
            self._error = self._error or error
            raise
        return np.array(images, dtype=object)

    def _resizing(self) -> dict[str, bool]:
        """Return the arguments of crop_and_resize.resize that fit all windows."""
        sides = crop_and_resize.window_sides(self.sizes, self.spec)
        square = self.spec.keeps_aspect
        if self._augmentation.crop_area:
            # Crops are at most as large as this.
            sides, square = crop_and_resize.padded_sizes(self.sizes, self.spec), False
        halving = bool((sides >= 2 * self.spec.size_px).any())
        return {"halving": halving, "square": square}

    def _build(self) -> Any:
        """Build blocks -> single examples -> batches; `_plan` decides one pass.

        No from_generator: it counts as stateful, for which deterministic ops give up
        all parallelism.
        """
        options = tf.data.Options()
        options.deterministic = True
        # The autotuner's thread sleeps ever longer, so that passes took twice the time.
        options.autotune.enabled = False
        options.threading.max_intra_op_parallelism = 1
        threads = command_line.available_cpus()
        batches = (
            tf.data.Dataset.range(1 << 40)
            .map(_as_graph(self._read), num_parallel_calls=1)
            .take_while(_as_graph(lambda numbers, _: tf.shape(numbers)[0] > 0))
            .unbatch()
            .map(_as_graph(self._load), num_parallel_calls=threads)
            .batch(self._batch_size)
        )
        if self._augmentation.mixes:
            batches = batches.map(_as_graph(self._mix), num_parallel_calls=threads)
        return batches.prefetch(2).with_options(options)

    def _read(self, number: Any) -> tuple[Any, Any]:
        """Return the tensors of `_block`."""
        numbers, encoded = tf.numpy_function(
            self._block, [number], [tf.int64, tf.string], stateful=False
        )
        numbers = tf.ensure_shape(numbers, [None, _NUM_COLUMNS + self._num_numbers])
        return numbers, tf.ensure_shape(encoded, [None])

    def _load(self, numbers: Any, encoded: Any) -> dict[str, Any]:
        """Decode one image to its window; `numbers` is a row of `_block`."""
        if self._stored is not None:
            encoded = tf.gather(self._stored, numbers[0])
        window = tf.cast(numbers[2:6], tf.int32)
        only_png = bool(self._is_png.any())
        mixed = only_png and not self._is_png.all()
        is_png = numbers[7] == 1 if mixed else only_png
        fill = self.spec.fill
        image = crop_and_resize.decode_window(encoded, is_png, window, fill)
        image = crop_and_resize.resize(image, self.spec.size_px, **self._resizing())
        image = crop_and_resize.mirror(image, numbers[6] == 1)
        drawn = tf.bitcast(numbers[_NUM_COLUMNS:], tf.float64)
        if self._augmentation.widths.keys() - {"mixing"}:
            image = random_augmentation.augment(self._augmentation, image, drawn)
        label = tf.cast(numbers[1], tf.int32)
        example = {"image": image, "label": label, "row": numbers[0]}
        return example | {"drawn": drawn} if self._augmentation.mixes else example

    def _mix(self, batch: Batch) -> Batch:
        """Mix images and labels of a batch."""
        unmixed = (batch["image"], batch["label"], batch["drawn"], self._num_classes)
        image, label = random_augmentation.mix(self._augmentation, *unmixed)
        return {"image": image, "label": label, "row": batch["row"]}


class Training:
    """Batches of the training split; an epoch has each photo once, in a new view."""

    def __init__(
        self,
        records: manifest.Manifest,
        spec: InputSpec,
        *,
        batch_size: int,
        seed: int,
        augmentation: augmentation_settings.Augmentation = augmentation_settings.NONE,
        share: Callable[[int], slice] = slice,
    ) -> None:
        """Prepare epochs that depend on (seed, epoch) alone.

        `share` is a function from the number of photos in a batch to the slice of them
        that this process gets; at least one photo of a full batch.
        """
        whole = range(batch_size)
        self.images = Images(
            records,
            records.included("train"),
            spec,
            batch_size=len(whole[share(batch_size)]),
            memory_bytes=_MEMORY_BYTES,
            augmentation=augmentation,
        )
        self._augmentation = augmentation
        self._seed = seed
        self._share = share
        self._batch_size = batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from 0, without its first `start` photos."""
        key = (self._seed, epoch)
        order = permutation(len(self.images.rows), key)
        views = random_augmentation.draw_views(
            self._augmentation, self.images.sizes, self.images.spec, order, key
        )
        order = order[start:]
        size = self._batch_size
        batches = [order[first : first + size] for first in range(0, len(order), size)]
        shares = [batch[self._share(len(batch))] for batch in batches]
        yield from self.images.run(np.concatenate([order[:0], *shares]), views)
        if batches and not len(shares[-1]):  # the last batch is too small to share
            yield {
                name: tf.zeros((0, *spec.shape[1:]), spec.dtype)
                for name, spec in self.images.dataset.element_spec.items()
            }


def permutation(num_rows: int, key: tuple[int, ...]) -> np.ndarray:
    """Return the order of an epoch, int64 [num_rows]; `key` decides it."""
    return crop_and_resize.seeded_generator((*key, 0)).permutation(num_rows)


def evenly_spread(items: Sequence[_Item], most: int) -> list[_Item]:
    """Return `most` items at about equal distances, or all if there are fewer."""
    count = min(most, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def sample(
    records: manifest.Manifest, rows: Sequence[Row], spec: InputSpec, most: int
) -> np.ndarray:
    """Return the photos of `evenly_spread` rows: uint8 [n, size_px, size_px, 3]."""
    batches = [*Images(records, evenly_spread(rows, most), spec, batch_size=most)]
    return batches[0]["image"].numpy() if batches else np.zeros(0, np.uint8)


# Converting functions to graphs by AutoGraph took 0.3 s; these need no conversion.
_as_graph = tf.autograph.experimental.do_not_convert
