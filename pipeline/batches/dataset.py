"""Batch the photos of the training split, in another order in every epoch.

An epoch is a permutation of the rows that depends on (seed, epoch) alone.
"""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from pipeline.batches import (
    augmentation_settings,
    crop_and_resize,
    image_batches,
    random_augmentation,
)
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest

# Encoded photos that training keeps in memory: some 4,000 of the usual 64 KB.
_MEMORY_BYTES = 256 << 20


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
        """Prepare epochs that (seed, epoch) decides in full.

        `share` is a function from the number of photos in a batch to the slice of them
        that this process gets; at least one photo of a full batch.
        """
        whole = range(batch_size)
        self.images = image_batches.Images(
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

    def epoch(self, epoch: int, start: int = 0) -> Iterator[image_batches.Batch]:
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
