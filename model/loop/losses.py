"""Compute the training loss: cross-entropy, smoothed and weighted by class."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from model.loop import optimization


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """Cross-entropy in nats."""

    # Share of each label that is spread evenly over all classes, 0 to 1. Source: C.
    # Szegedy et al., Rethinking the Inception Architecture, 2016, section 7.
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()  # of each class's examples; () for 1

    def per_example(self, logits: Any, labels: Any) -> Any:
        """Return the loss of each example, float32 [batch], 0 or more.

        Labels are int32 [batch], or float32 [batch, num_classes]: the share of each
        class in a mixed example, whose weight is the mean of its classes' weights.
        """
        labels = tf.convert_to_tensor(labels)
        is_mixed = labels.shape.rank == 2
        if is_mixed or self.label_smoothing:
            num_classes = tf.shape(logits)[1]
            targets = labels
            if not is_mixed:
                targets = tf.one_hot(labels, num_classes, dtype=logits.dtype)
            if self.label_smoothing:
                spread = self.label_smoothing / tf.cast(num_classes, logits.dtype)
                targets = (1 - self.label_smoothing) * targets + spread
            loss = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
        else:
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        if self.class_weights:
            weights = tf.constant(self.class_weights, loss.dtype)
            if is_mixed:
                loss *= tf.linalg.matvec(labels, weights)
            else:
                loss *= tf.gather(weights, labels)
        return loss


def from_settings(settings: optimization.Settings, counts: np.ndarray) -> Loss:
    """Return the loss of a training with these training photos of each class.

    Balanced weights give all classes the same total weight. Their mean over the photos
    is 1.
    """
    weights: tuple[float, ...] = ()
    if settings.class_weights == "balanced":
        weights = tuple((counts.sum() / (len(counts) * counts)).tolist())
    return Loss(label_smoothing=settings.label_smoothing, class_weights=weights)
