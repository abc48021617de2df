"""Train a network on one batch: forward, loss, gradient, update."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from model.loop import (
    distributed,
    dropout,
    optimization,
    parameter_update,
    traced_function,
)


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


def loss_from_settings(settings: optimization.Settings, counts: np.ndarray) -> Loss:
    """Return the loss of a training with these training photos of each class.

    Balanced weights give all classes the same total weight. Their mean over the photos
    is 1.
    """
    weights: tuple[float, ...] = ()
    if settings.class_weights == "balanced":
        weights = tuple((counts.sum() / (len(counts) * counts)).tolist())
    return Loss(label_smoothing=settings.label_smoothing, class_weights=weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningSetup:
    """What a network learns with: loss, optimizer, learning rate, number of steps."""

    update: parameter_update.ParameterUpdate
    schedule: optimization.Settings  # of the learning rate, and early stopping
    base_rate: float  # learning rate that the schedule scales, 0 or more
    epochs: int  # passes over the training photos, at least 1
    total_steps: int  # after which training ends, also within an epoch
    loss: Loss = dataclasses.field(default_factory=Loss)
    process_group: distributed.ProcessGroup = distributed.SINGLE_PROCESS
    # Variables that the forward pass itself changes in training, such as moving
    # averages of batch normalisation.
    statistics: Sequence[Any] = ()

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        share = optimization.rate_share(self.schedule, step, self.total_steps)
        return self.base_rate * share


class StepResult(NamedTuple):
    """Figures of one batch, over all processes."""

    loss: Any  # mean over the photos, in nats, before the update
    num_hits: Any  # photos whose label has the largest logit
    num_photos: Any


def train_step(
    model: Any, setup: LearningSetup, inputs: Any, labels: Any, rate: Any
) -> StepResult:
    """Train a keras.Model, inputs -> logits, on this process' share of a batch.

    Inputs are [batch, ...], labels int32 [batch], or float32 [batch, num_classes] for
    mixed photos; the learning rate is a float32 scalar.
    """
    update, group = setup.update, setup.process_group

    def backward(inputs: Any, labels: Any, replica: Any) -> list[Any]:
        """Return gradients, number of photos, hits and loss of a replica's share."""
        # Every replica of every batch has dropout masks of its own.
        draw = update.batches * group.num_replicas + replica
        with tf.GradientTape() as tape, dropout.at(draw):
            logits = model(inputs, training=True)
            loss = tf.reduce_sum(setup.loss.per_example(logits, labels))
        gradients = tape.gradient(loss, [v.value for v in update.variables])
        # Gradients of embedding tables are sparse.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        if labels.shape.rank == 2:  # of mixed photos, the class with the largest share
            labels = tf.argmax(labels, 1, tf.int32)
        hits = tf.cast(tf.equal(tf.argmax(logits, 1, tf.int32), labels), tf.float32)
        num_photos = tf.cast(tf.size(labels), tf.float32)
        return [*gradients, num_photos, tf.reduce_sum(hits), loss]

    with group.averaging(setup.statistics, labels):
        sums = group.summed_over_replicas(backward)(inputs, labels)
    *gradients, num_photos, num_hits, loss = sums
    update.batches.assign_add(1)
    if update.iter_size > 1:
        update.accumulate(gradients, num_photos)
    else:
        update.apply(gradients, num_photos, rate)
    return StepResult(loss / num_photos, num_hits, num_photos)


class TrainStep:
    """Train on batches; every `iter_size` of them make one step."""

    def __init__(self, model: Any, setup: LearningSetup) -> None:
        """Prepare the graphs of a keras.Model, inputs -> logits."""
        self._setup = setup
        self.steps = 0
        self.waiting = 0  # batches whose gradients wait for the next step
        self._train_on_batch = traced_function.for_any_batch(
            functools.partial(train_step, model, setup)
        )
        self._apply_accumulated = tf.function(
            setup.update.apply_accumulated, autograph=False
        )

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        return self._setup.rate_at(self.steps)

    def __call__(self, inputs: Any, labels: Any) -> StepResult:
        """Train on a batch, of which this process has its share."""
        result = self._train_on_batch(inputs, labels, np.float32(self.rate))
        self.waiting += 1
        if self.waiting == self._setup.update.iter_size:
            self.finish()
        return StepResult(*result)

    def finish(self) -> None:
        """Make a step of the batches that wait, as at the end of an epoch."""
        if self.waiting:
            if self._setup.update.iter_size > 1:
                self._apply_accumulated(tf.constant(self.rate, tf.float32))
            self.waiting = 0
            self.steps += 1
