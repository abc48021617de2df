"""What a training is fed: cached features of the photos, or the photos themselves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from model import features, loop, stages
from pipeline import augment, dataset, manifest, preprocess


class Cached:
    """Batches of features that the frozen trunk gave once, for the tail to train on."""

    def __init__(
        self,
        found: manifest.Manifest,
        trunk: Any,
        *,
        plan: stages.Plan,
        precision: str,
        num_views: int,
        batch_size: int,
        cache_dir: Path,
    ) -> None:
        """Computes the features that the cache does not have.

        Args:
            found: the data set.
            trunk: of stages.build_trunk.
            plan: of the network.
            precision: that the trunk computes in.
            num_views: windows of each training photo, at least 1; validation sees the
                central one.
            batch_size: photos per batch.
            cache_dir: folder of all feature caches.
        """
        rows = found.taken()
        images = dataset.Images(found, rows, plan.spec, batch_size=features.BATCH_SIZE)
        split = np.array([row.split for row in rows])
        self._train = np.flatnonzero(split == "train")
        self._validation = np.flatnonzero(split == "validation")
        central = np.concatenate([self._train, self._validation])
        self._features = features.extract(
            trunk,
            images,
            {view: self._train if view else central for view in range(num_views)},
            cache_dir=cache_dir,
            about=features.key(trunk, plan.cut, plan.spec, precision, found),
        )
        self._labels = np.array([found.labels[r.class_name] for r in rows], np.int32)
        self._num_views = num_views
        self._batch_size = batch_size
        self._seed = plan.seed
        self.num_training = len(self._train)

    def training(self, epoch: int) -> Iterator[loop.Batch]:
        """Each photo once, in a new order, each in one of its views."""
        key = (self._seed, epoch)
        order = self._train[dataset.permutation(len(self._train), key)]
        random = preprocess.generator((*key, 2))
        views = random.integers(self._num_views, size=len(order))
        return self._batches(order, views, self._batch_size)

    def validation(self) -> Iterator[loop.Batch]:
        """Each photo once, in its central view."""
        views = np.zeros(len(self._validation), np.int64)
        return self._batches(self._validation, views, features.BATCH_SIZE)

    def _batches(
        self, order: np.ndarray, views: np.ndarray, batch_size: int
    ) -> Iterator[loop.Batch]:
        for start in range(0, len(order), batch_size):
            some = slice(start, start + batch_size)
            inputs = self._features.gather(order[some], views[some])
            yield inputs, self._labels[order[some]]


class Fresh:
    """Batches of photos, in every epoch in new random windows."""

    def __init__(
        self,
        found: manifest.Manifest,
        plan: stages.Plan,
        *,
        batch_size: int,
        augmentation: augment.Augmentation = augment.NONE,
    ) -> None:
        """Prepares both splits.

        Args:
            found: the data set.
            plan: of the network.
            batch_size: photos per batch.
            augmentation: of the training photos.
        """
        self._training = dataset.Training(
            found,
            plan.spec,
            batch_size=batch_size,
            seed=plan.seed,
            augmentation=augmentation,
        )
        self._validation = dataset.Evaluation(
            found, "validation", plan.spec, batch_size=batch_size
        )
        self.num_training = len(self._training.images.rows)

    def training(self, epoch: int) -> Iterator[loop.Batch]:
        """Each photo once."""
        for batch in self._training.epoch(epoch):
            yield batch["image"], batch["label"]

    def validation(self) -> Iterator[loop.Batch]:
        """Each photo once, central window."""
        for batch in self._validation:
            yield batch["image"], batch["label"]
