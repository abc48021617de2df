"""What training makes small: cross-entropy, smoothed and weighted by class."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf


def balanced(counts: np.ndarray) -> tuple[float, ...]:
    """Weights that make all classes count alike, whatever their numbers of photos.

    Args:
        counts: int [num_classes], training photos of each class, above 0.

    Returns:
        One for each class; their mean over the photos is 1.
    """
    return tuple((counts.sum() / (len(counts) * counts)).tolist())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """Cross-entropy in nats.

    Attributes:
        label_smoothing: share of the label that all classes get alike, 0..1. Source: C.
            Szegedy et al., Rethinking the Inception Architecture, 2016, section 7.
        class_weights: how much an example of each class counts; () if all alike.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing={self.label_smoothing}: expected 0 to below 1"
            )

    def of(self, logits: Any, labels: Any) -> Any:
        """The loss of each example.

        Args:
            logits: float32 [batch, num_classes].
            labels: int32 [batch], 0-based.

        Returns:
            float32 [batch], 0 or more.
        """
        if self.label_smoothing:
            share = self.label_smoothing
            num_classes = tf.shape(logits)[1]
            targets = tf.one_hot(labels, num_classes, dtype=logits.dtype)
            targets = (1 - share) * targets
            targets += share / tf.cast(num_classes, logits.dtype)
            found = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
        else:
            found = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        if self.class_weights:
            weights = tf.constant(self.class_weights, found.dtype)
            found *= tf.gather(weights, labels)
        return found
