"""Batches -> a trained model: steps, epochs, the best by validation.

Knows nothing of flags, files or where batches come from.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from model import dropout, graph, losses, metrics, schedules, update

# Inputs [batch, ...]; labels int32 [batch], or shares float32 [batch, num_classes].
Batch = tuple[Any, Any]


class NonFiniteLoss(ArithmeticError):
    """Training ran away; names epoch and step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What an epoch came to.

    Attributes:
        epoch: from 1.
        loss: mean over the training examples, in nats.
        accuracy: on the training examples as they were trained on, 0..1.
        validation_loss: mean over the validation examples, in nats.
        validation_accuracy: 0..1.
        learning_rate: of the last step.
        images_per_s: training examples per second.
        seconds: of training and validation.
    """

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    images_per_s: float
    seconds: float


@dataclasses.dataclass(kw_only=True)
class Best:
    """The weights with the lowest validation loss so far.

    Attributes:
        variables: {name: variable} of those whose values are wanted.
        epoch: from 1; 0 before the first.
        validation_loss: in nats.
        values: {name: array} of the variables.
        validation_logits: float32 [num_examples, num_classes].
    """

    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    epoch: int = 0
    validation_loss: float = math.inf
    values: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    validation_logits: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learning:
    """How a training learns.

    Attributes:
        update: moves the weights.
        schedule: of the rate.
        rate: the base rate.
        total_steps: of the training.
        loss: what is made small.
        patience: epochs without a better one after which it stops; 0: never.
    """

    update: update.Update
    schedule: schedules.Schedule
    rate: float
    total_steps: int
    loss: losses.Loss = dataclasses.field(default_factory=losses.Loss)
    patience: int = 0

    def rate_at(self, step: int) -> float:
        """The rate of a step, from 0."""
        return self.rate * self.schedule.share(step, self.total_steps)


class TrainStep:
    """Batches -> steps: one for every `iter_size` of them."""

    def __init__(self, model: Any, learning: Learning) -> None:
        """Prepares the graphs.

        Args:
            model: keras.Model, inputs -> logits.
            learning: of the model's variables.
        """
        self._learning = learning
        self._waiting = 0
        self.steps = 0
        moved = learning.update

        def gradients(inputs: Any, labels: Any) -> tuple[Any, Any, Any, Any]:
            with tf.GradientTape() as tape, dropout.at(moved.batches):
                logits = model(inputs, training=True)
                total = tf.reduce_sum(learning.loss.of(logits, labels))
                scaled = total * moved.scale
            found = tape.gradient(scaled, [v.value for v in moved.variables])
            moved.batches.assign_add(1)
            mixed = labels.shape.rank == 2
            meant = tf.argmax(labels, 1, tf.int32) if mixed else labels
            hits = tf.equal(tf.argmax(logits, 1, tf.int32), meant)
            count = tf.cast(tf.size(meant), tf.float32)
            return found, count, total, tf.reduce_sum(tf.cast(hits, tf.int32))

        @graph.for_any_batch
        def step(inputs: Any, labels: Any, rate: Any) -> tuple[Any, Any]:
            found, count, total, hits = gradients(inputs, labels)
            moved.apply(found, count, rate)
            return total / count, hits

        @graph.for_any_batch
        def add(inputs: Any, labels: Any) -> tuple[Any, Any]:
            found, count, total, hits = gradients(inputs, labels)
            moved.add(found, count)
            return total / count, hits

        self._step, self._add = step, add
        self._finish = tf.function(moved.finish, autograph=False)

    @property
    def rate(self) -> float:
        """Of the step that is being made."""
        return self._learning.rate_at(self.steps)

    def __call__(self, inputs: Any, labels: Any) -> tuple[Any, Any]:
        """Takes a batch; returns its mean loss and its number of hits."""
        if self._learning.update.iter_size == 1:
            answer = self._step(inputs, labels, np.float32(self.rate))
            self.steps += 1
            return answer
        answer = self._add(inputs, labels)
        self._waiting += 1
        if self._waiting == self._learning.update.iter_size:
            self.finish()
        return answer

    def finish(self) -> None:
        """Makes a step of the batches that wait for others, at the end of an epoch."""
        if self._waiting:
            self._finish(tf.constant(self.rate, tf.float32))
            self._waiting = 0
            self.steps += 1


def make_predict_step(model: Any) -> Callable[[Any], Any]:
    """Returns inputs -> logits, float32 [batch, num_classes], as in use."""

    @graph.for_any_batch
    def step(inputs: Any) -> Any:
        return tf.cast(model(inputs, training=False), tf.float32)

    return step


def predict(
    step: Callable[[Any], Any], batches: Iterable[Batch]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits [num_examples, num_classes] and labels [num_examples]."""
    logits, labels = [], []
    for inputs, some in batches:
        logits.append(step(inputs).numpy())
        labels.append(np.asarray(some))
    return np.concatenate(logits), np.concatenate(labels)


def fit(
    model: Any,
    learning: Learning,
    *,
    training: Callable[[int], Iterator[Batch]],
    validation: Callable[[], Iterator[Batch]],
    epochs: int,
    best: Best,
    on_step: Callable[[int], object],
) -> Iterator[EpochResult]:
    """Trains; yields after every epoch.

    Args:
        model: keras.Model, inputs -> logits.
        learning: of the model's variables.
        training: epoch from 0 -> its batches.
        validation: -> the validation batches, each example once.
        epochs: number of them.
        best: is kept up to date, so that it is at hand when training is stopped.
        on_step: told the number of examples of each batch.

    Raises:
        NonFiniteLoss: a loss is infinite or not a number.
    """
    train_step = TrainStep(model, learning)
    predict_step = make_predict_step(model)
    for epoch in range(epochs):
        start = time.perf_counter()
        loss, hits, count = _train_epoch(train_step, training(epoch), epoch, on_step)
        trained = time.perf_counter()
        with learning.update.averaged():
            logits, labels = predict(predict_step, validation())
            validation_loss = metrics.mean_loss(logits, labels)
            if not math.isfinite(validation_loss):
                raise NonFiniteLoss(
                    f"the validation loss is {validation_loss} after epoch "
                    f"{epoch + 1}; try a lower --learning_rate"
                )
            if validation_loss < best.validation_loss:
                best.epoch = epoch + 1
                best.validation_loss = validation_loss
                best.values = {
                    name: variable.numpy() for name, variable in best.variables.items()
                }
                best.validation_logits = logits
        yield EpochResult(
            epoch=epoch + 1,
            loss=loss,
            accuracy=hits / count,
            validation_loss=validation_loss,
            validation_accuracy=metrics.accuracy(logits, labels),
            learning_rate=learning.rate_at(train_step.steps - 1),
            images_per_s=count / (trained - start),
            seconds=time.perf_counter() - start,
        )
        if learning.patience and epoch + 1 - best.epoch >= learning.patience:
            return


def _train_epoch(
    train_step: TrainStep,
    batches: Iterator[Batch],
    epoch: int,
    on_step: Callable[[int], object],
) -> tuple[float, int, int]:
    """Returns the mean loss over the examples, the number of hits, and of examples."""
    total_loss, hits, count = 0.0, 0, 0
    for number, (inputs, labels) in enumerate(batches):
        rate = train_step.rate
        loss, batch_hits = train_step(inputs, labels)
        if not math.isfinite(float(loss)):
            raise NonFiniteLoss(
                f"the loss is {float(loss)} at step {number + 1} of epoch "
                f"{epoch + 1}; try a lower --learning_rate than {rate:g}"
            )
        size = len(labels)
        total_loss += float(loss) * size
        hits += int(batch_hits)
        count += size
        on_step(size)
    train_step.finish()
    return total_loss / count, hits, count


def suitable_rate(num_features: int) -> float:
    """A learning rate of Adam for a new final layer on so many features.

    Adam moves every weight alike, so what a step does to the logits grows with the
    number of features. 1e-4 was the best of five for AlexNet's 9,216 of pool5; by this
    rule 1,280 of EfficientNet get 7e-4. For deeper layers (0 features) it is 1e-4.
    """
    return 0.9216 / num_features if num_features else 1e-4
