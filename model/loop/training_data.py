"""What a training is fed: cached features of the photos, or the photos themselves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from model.loop import distributed, feature_cache, training_loop
from pipeline.batches import (
    augmentation_settings,
    crop_and_resize,
    dataset,
    image_batches,
    seeded_random,
)
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest
from pipeline.records.manifest_row import Row


def wanted_features(
    found: manifest.Manifest, num_views: int
) -> tuple[tuple[Row, ...], dict[int, np.ndarray]]:
    """All photos, and {view: indices of those wanted in it}."""
    rows = found.included()
    split = np.array([row.split for row in rows])
    train = np.flatnonzero(split == "train")
    central = np.concatenate([train, np.flatnonzero(split == "validation")])
    return rows, {view: train if view else central for view in range(num_views)}


def compute_features(
    found: manifest.Manifest,
    trunk: Any,
    spec: InputSpec,
    num_views: int,
    *,
    cache_dir: Path,
    about: dict[str, Any],
) -> feature_cache.Features:
    """What the frozen trunk says of the photos; computes what the cache does not have.

    Args:
        found: the data set.
        trunk: frozen part of the network.
        spec: of its input.
        num_views: windows of each training photo, at least 1.
        cache_dir: folder of all feature caches.
        about: what features depend on; see features.key.
    """
    rows, wanted = wanted_features(found, num_views)
    images = image_batches.Images(
        found, rows, spec, batch_size=feature_cache.BATCH_SIZE
    )
    return feature_cache.extract(
        trunk, images, wanted, cache_dir=cache_dir, about=about
    )


class Cached:
    """Batches of features that the frozen trunk gave once, for the tail to train on."""

    def __init__(
        self,
        found: manifest.Manifest,
        cached: feature_cache.Features,
        *,
        num_views: int,
        batch_size: int,
        seed: int,
        together: distributed.Workers = distributed.ALONE,
    ) -> None:
        """Takes computed features.

        Args:
            found: the data set.
            cached: of `compute_features`.
            num_views: windows of each training photo, at least 1; validation sees the
                central one.
            batch_size: photos per batch.
            seed: of order and views.
            together: processes that share each training batch.
        """
        rows = found.included()
        split = np.array([row.split for row in rows])
        self._train = np.flatnonzero(split == "train")
        self._validation = np.flatnonzero(split == "validation")
        self._found = found
        self._features = cached
        self._labels = np.array([found.labels[r.class_name] for r in rows], np.int32)
        self._num_views = num_views
        self.batch_size = batch_size
        self._together = together
        self._seed = seed
        self.num_training = len(self._train)

    def training(self, epoch: int, start: int = 0) -> Iterator[training_loop.Batch]:
        """Each photo once, in a new order, each in one of its views.

        Args:
            epoch: decides order and views.
            start: batches to leave out at the beginning.
        """
        order, views = self._order(epoch)
        first = start * self.batch_size
        return self._batches(
            order[first:], views[first:], self.batch_size, self._together
        )

    def validation(self) -> Iterator[training_loop.Batch]:
        """Each photo once, in its central view."""
        views = np.zeros(len(self._validation), np.int64)
        return self._batches(self._validation, views, feature_cache.BATCH_SIZE)

    def first_batch(self, spec: InputSpec) -> training_loop.Batch:
        """The photos behind the first batch, uint8 [batch, ...], and their labels."""
        order, views = (part[: self.batch_size] for part in self._order(0))
        images = image_batches.Images(
            self._found, self._found.included(), spec, batch_size=len(order)
        )
        shown = crop_and_resize.central_views(images.sizes, spec)
        for view in np.unique(views):
            those = order[views == view]
            found = feature_cache.views_of(images, int(view))
            shown.windows[those] = found.windows[those]
            shown.mirrored[those] = found.mirrored[those]
        (batch,) = images.run(order, shown)
        return batch["image"], batch["label"]

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        key = (self._seed, epoch)
        order = self._train[dataset.permutation(len(self._train), key)]
        random = seeded_random.generator((*key, 2))
        return order, random.integers(self._num_views, size=len(order))

    def _batches(
        self,
        order: np.ndarray,
        views: np.ndarray,
        batch_size: int,
        together: distributed.Workers = distributed.ALONE,
    ) -> Iterator[training_loop.Batch]:
        for start in range(0, len(order), batch_size):
            count = min(batch_size, len(order) - start)
            share = together.share(count)
            some = slice(start + share.start, start + share.stop)
            inputs = self._features.gather(order[some], views[some])
            yield inputs, self._labels[order[some]]


class Fresh:
    """Batches of photos, in every epoch in new random windows."""

    def __init__(
        self,
        found: manifest.Manifest,
        spec: InputSpec,
        *,
        seed: int,
        batch_size: int,
        augmentation: augmentation_settings.Augmentation = augmentation_settings.NONE,
        together: distributed.Workers = distributed.ALONE,
    ) -> None:
        """Prepares both splits.

        Args:
            found: the data set.
            spec: preprocessing of the network.
            seed: decides order, windows and augmentation.
            batch_size: photos per batch.
            augmentation: of the training photos.
            together: processes that share each training batch.
        """
        self._training = dataset.Training(
            found,
            spec,
            batch_size=batch_size,
            seed=seed,
            augmentation=augmentation,
            share=together.share,
        )
        self._validation = dataset.Evaluation(
            found, "validation", spec, batch_size=batch_size
        )
        self.num_training = len(self._training.images.rows)
        self.batch_size = batch_size

    def training(self, epoch: int, start: int = 0) -> Iterator[training_loop.Batch]:
        """Each photo once, without the first `start` batches."""
        for batch in self._training.epoch(epoch, start * self.batch_size):
            yield batch["image"], batch["label"]

    def first_batch(self, _: InputSpec) -> training_loop.Batch:
        """The first batch."""
        return next(self.training(0))

    def validation(self) -> Iterator[training_loop.Batch]:
        """Each photo once, central window."""
        for batch in self._validation:
            yield batch["image"], batch["label"]
