"""Feed a training: with the photos themselves, or with cached features of them."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.loop import distributed, training_loop
from model.loop.inputs import feature_cache, near_copies
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest
from pipeline.records.manifest_row import Row


class Photos:
    """Batches of photos, in new random windows in every epoch."""

    def __init__(
        self,
        records: manifest.Manifest,
        spec: InputSpec,
        *,
        batch_size: int,
        process_group: distributed.ProcessGroup = distributed.SINGLE_PROCESS,
        **options: Any,
    ) -> None:
        """Prepare both splits; `options` are those of image_batches.Training."""
        self.batch_size = batch_size
        self._photos = records.included("train")
        self._training = image_batches.Training(
            records, spec, batch_size=batch_size, share=process_group.share, **options
        )
        self._images = functools.partial(
            image_batches.Images, records, spec=spec, batch_size=batch_size
        )
        self._validation = self._images(records.included("validation"))

    def training(self, epoch: int, start: int = 0) -> Iterator[training_loop.Batch]:
        """Yield each photo once, without the first `start` batches."""
        return map(_pair, self._training.epoch(epoch, start * self.batch_size))

    def validation(self) -> Iterator[training_loop.Batch]:
        """Yield each photo once, in its central window."""
        return map(_pair, self._validation)

    def central_training(self, most: int) -> Iterator[training_loop.Batch]:
        """Yield at most `most` training photos, evenly spread, in central windows."""
        numbers = near_copies.spread(np.arange(len(self._photos)), most)
        return map(_pair, self._images([self._photos[n] for n in numbers]))

    def first_batch(self, _: InputSpec) -> training_loop.Batch:
        """Return the first training batch."""
        return next(self.training(0))


def _pair(batch: image_batches.Batch) -> training_loop.Batch:
    return batch["image"], batch["label"]


class CachedFeatures:
    """Batches of features that the frozen trunk computed, for the tail to train on."""

    def __init__(
        self,
        records: manifest.Manifest,
        features: feature_cache.Features,
        *,
        num_views: int,
        batch_size: int,
        seed: int,
        process_group: distributed.ProcessGroup = distributed.SINGLE_PROCESS,
    ) -> None:
        """Prepare both splits; `seed` decides the order, and each photo's view.

        Training takes turns between `num_views` views, validation uses the central one.
        """
        rows = records.included()
        labels = [records.labels[row.class_name] for row in rows]
        self._labels = np.array(labels, np.int32)
        self._train = _indices(rows, "train")
        self._validation = _indices(rows, "validation")
        self._records, self._features = records, features
        self._num_views, self._seed = num_views, seed
        self.batch_size, self._process_group = batch_size, process_group

    def training(self, epoch: int, start: int = 0) -> Iterator[training_loop.Batch]:
        """Yield each photo once, in one of its views, without `start` batches."""
        self._features.load()
        order, views = (part[start * self.batch_size :] for part in self._order(epoch))
        return self._batches(order, views, self.batch_size, self._process_group)

    @property
    def num_training(self) -> int:
        """Number of training photos."""
        return len(self._train)

    def all_views(self, size: int) -> Iterator[training_loop.Batch]:
        """Yield each training photo in each of its views, in batches of up to `size`.

        They are the same in all processes.
        """
        rows = np.tile(self._train, self._num_views)
        views = np.repeat(np.arange(self._num_views), len(self._train))
        return self._batches(rows, views, size)

    def central_views(self, size: int) -> Iterator[training_loop.Batch]:
        """Yield each photo of all splits in its central view, in batches of `size`."""
        return self._central(np.arange(len(self._labels)), size)

    def validation(self) -> Iterator[training_loop.Batch]:
        """Yield each photo once, in its central view."""
        return self._central(self._validation)

    def central_training(self, most: int) -> Iterator[training_loop.Batch]:
        """Yield at most `most` training photos, evenly spread, in central windows."""
        return self._central(near_copies.spread(self._train, most))

    def _central(
        self, rows: np.ndarray, size: int = feature_cache.BATCH_SIZE
    ) -> Iterator[training_loop.Batch]:
        return self._batches(rows, np.zeros_like(rows), size)

    def first_batch(self, spec: InputSpec) -> training_loop.Batch:
        """Return the photos behind the first batch, uint8 [batch, ...], and labels."""
        order, views = (part[: self.batch_size] for part in self._order(0))
        images = image_batches.Images(
            self._records, self._records.included(), spec, batch_size=len(order)
        )
        windows = crop_and_resize.central_views(images.sizes, spec)
        for view in np.unique(views):
            rows = order[views == view]
            in_view = feature_cache.views_of(images, int(view))
            windows.windows[rows] = in_view.windows[rows]
            windows.mirrored[rows] = in_view.mirrored[rows]
        (batch,) = images.run(order, windows)
        return _pair(batch)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of an epoch, and the view of each."""
        key = (self._seed, epoch)
        order = self._train[image_batches.permutation(len(self._train), key)]
        random = crop_and_resize.seeded_generator((*key, 2))
        return order, random.integers(self._num_views, size=len(order))

    def _batches(
        self,
        order: np.ndarray,
        views: np.ndarray,
        batch_size: int,
        process_group: distributed.ProcessGroup = distributed.SINGLE_PROCESS,
    ) -> Iterator[training_loop.Batch]:
        for start in range(0, len(order), batch_size):
            count = min(batch_size, len(order) - start)
            share = process_group.share(count)
            part = slice(start + share.start, start + share.stop)
            inputs = self._features.gather(order[part], views[part])
            yield inputs, self._labels[order[part]]


def compute_features(
    records: manifest.Manifest,
    trunk: Any,
    spec: InputSpec,
    num_views: int,
    *,
    cache_dir: Path,
    identity: dict[str, Any],
) -> feature_cache.Features:
    """Return the features of all photos, in as many views as training needs."""
    rows, needed = photos_per_view(records, num_views)
    size = feature_cache.BATCH_SIZE
    images = image_batches.Images(records, rows, spec, batch_size=size)
    return feature_cache.extract(
        trunk, images, needed, cache_dir=cache_dir, identity=identity
    )


def photos_per_view(
    records: manifest.Manifest, num_views: int
) -> tuple[tuple[Row, ...], dict[int, np.ndarray]]:
    """Return all photos, and {view: indices of the photos needed in it}.

    Training needs `num_views` views of a photo. Of others the central one is enough,
    for validation and to find near-copies.
    """
    rows = records.included()
    train, central = _indices(rows, "train"), np.arange(len(rows))
    return rows, {view: train if view else central for view in range(num_views)}


def _indices(rows: Sequence[Row], split: str) -> np.ndarray:
    return np.flatnonzero([row.split == split for row in rows])
