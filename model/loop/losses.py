"""Compute the training loss: cross-entropy, smoothed and weighted by class."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from model.loop import optimization


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """Cross-entropy in nats.

    Attributes:
        label_smoothing: Share of each label that is spread evenly over all classes, 0
            to 1. Source: C. Szegedy et al., Rethinking the Inception Architecture,
            2016, section 7.
        class_weights: Factor of each class's examples; () for 1 everywhere.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    def per_example(self, logits: Any, labels: Any) -> Any:
        """Return the loss of each example, float32 [batch], 0 or more.

        Args:
            logits: float32 [batch, num_classes].
            labels: int32 [batch], 0-based; or float32 [batch, num_classes], the share
                of each class in a mixed example, whose weight is the mean of its
                classes' weights by these shares.
        """
        labels = tf.convert_to_tensor(labels)
        is_mixed = labels.shape.rank == 2
        if is_mixed or self.label_smoothing:
            targets = self._targets(labels, logits)
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

    def _targets(self, labels: Any, logits: Any) -> Any:
        """Return the target probabilities, [batch, num_classes]."""
        num_classes = tf.shape(logits)[1]
        if labels.shape.rank == 1:
            labels = tf.one_hot(labels, num_classes, dtype=logits.dtype)
        if not self.label_smoothing:
            return labels
        spread = self.label_smoothing / tf.cast(num_classes, logits.dtype)
        return (1 - self.label_smoothing) * labels + spread


def from_settings(settings: optimization.Settings, counts: np.ndarray) -> Loss:
    """Return the loss of a training.

    Balanced weights give all classes the same total weight. Their mean over the photos
    is 1.

    Args:
        settings: Label smoothing and class weights.
        counts: int [num_classes], training photos of each class, above 0.
    """
    weights: tuple[float, ...] = ()
    if settings.class_weights == "balanced":
        weights = tuple((counts.sum() / (len(counts) * counts)).tolist())
    return Loss(label_smoothing=settings.label_smoothing, class_weights=weights)
