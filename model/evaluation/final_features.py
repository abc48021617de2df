"""A network -> its logits, and what its final layer sees, in one pass."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.loop import traced_function, training_loop
from model.networks import head

MOST_PHOTOS = 1000  # whose features TensorBoard's projector shows in a browser


class Probe:
    """A network's logits, and on the way what its final layer sees of some photos.

    Attributes:
        examples: int64 [num_kept], the photos whose features are kept.
        features: float32 [num_kept, num_features]; None if none are.
    """

    def __init__(self, model: Any, num_photos: int, num_features: int) -> None:
        """Prepares the graph.

        Args:
            model: keras.Model, image -> logits.
            num_photos: that will be shown.
            num_features: of how many of them to keep features, evenly spread; 0 for
                none. Other than 0 needs a network with the final layer of a run.
        """
        self._step = training_loop.make_predict_step(model)
        count = min(num_features, num_photos)
        self.examples = np.rint(np.linspace(0, num_photos - 1, count)).astype(np.int64)
        self.features: np.ndarray | None = None
        self._both: Any = None
        if count:
            below = model.get_layer(head.FINAL_LAYER).input
            both = keras.Model(model.input, [below, model.output])
            self._both = traced_function.for_any_batch(
                lambda image: both(image, training=False)
            )
            self.features = np.zeros((count, below.shape[-1]), np.float32)

    def only_logits(self) -> None:
        """From now on; features are of the first view."""
        self._both = None

    def logits(self, numbers: np.ndarray, images: Any) -> np.ndarray:
        """Logits of some photos.

        Args:
            numbers: int [batch], which photos; each at most once.
            images: uint8 [batch, size_px, size_px, 3], RGB, 0..255.

        Returns:
            float32 [batch, num_classes].
        """
        images = tf.cast(images, tf.float32)
        if self._both is None or self.features is None:
            return np.asarray(self._step(images))
        below, logits = self._both(images)
        kept, here, there = np.intersect1d(
            numbers, self.examples, assume_unique=True, return_indices=True
        )
        if len(kept):
            self.features[there] = below.numpy()[here]
        return np.asarray(tf.cast(logits, tf.float32))
