"""Batches -> a trained model: steps, epochs, the best by validation.

Knows nothing of flags, files or where batches come from.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from model.loop import (
    distributed,
    dropout,
    learning_rate,
    losses,
    metrics,
    optimization,
    parameter_update,
    traced_function,
)
from pipeline.batches.input_spec import InputSpec
from pipeline.system.errors import UserError

# Inputs [batch, ...]; labels int32 [batch], or shares float32 [batch, num_classes].
Batch = tuple[Any, Any]


class NonFiniteLoss(UserError):
    """Training ran away; names epoch and step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What an epoch came to.

    Attributes:
        epoch: from 1, over all stages.
        loss: mean over the training examples, in nats.
        accuracy: on the training examples as they were trained on, 0..1.
        validation_loss: mean over the validation examples, in nats.
        validation_accuracy: 0..1.
        learning_rate: of the last step.
        images_per_s: training examples per second.
        seconds: of training and validation.
        stage: which one it belongs to; "" if there is one alone.
    """

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    images_per_s: float
    seconds: float
    stage: str = ""


@dataclasses.dataclass(kw_only=True)
class Best:
    """The weights with the lowest validation loss so far.

    Attributes:
        variables: {name: variable} of those that training changes.
        beneath: {name: array} of the others, as they were when training began.
        epoch: from 1; 0 before the first.
        validation_loss: in nats.
        values: {name: array} of all of them.
        validation_logits: float32 [num_examples, num_classes].
    """

    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    beneath: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    epoch: int = 0
    validation_loss: float = math.inf
    values: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    validation_logits: np.ndarray | None = None

    def offer(self, epoch: int, validation_loss: float, logits: np.ndarray) -> None:
        """Takes the variables' values if they are better."""
        if validation_loss < self.validation_loss:
            self.epoch = epoch
            self.validation_loss = validation_loss
            self.values = self.current()
            self.validation_logits = logits

    def current(self) -> dict[str, np.ndarray]:
        """{name: array} of all weights as they are."""
        changed = {name: variable.numpy() for name, variable in self.variables.items()}
        return {**self.beneath, **changed}


class Source(Protocol):
    """What a training is fed."""

    batch_size: int

    def training(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from 0, without the first `start` of them."""

    def validation(self) -> Iterator[Batch]:
        """Batches of the validation examples, each once."""

    def first_batch(self, spec: InputSpec) -> Batch:
        """The photos behind the first training batch, and their labels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learning:
    """How a training learns.

    Attributes:
        update: moves the weights.
        schedule: settings of the learning rate's policy and warm-up.
        rate: the base rate.
        epochs: passes over the training examples.
        total_steps: of the training; it ends with them, also within an epoch.
        loss: what is made small.
        patience: epochs without a better one after which it stops; 0: never.
        together: processes and devices that compute gradients.
        statistics: variables that the model itself moves in training, as moving
            averages; of several processes their mean is kept, by examples.
    """

    update: parameter_update.Update
    schedule: optimization.Settings
    rate: float
    epochs: int
    total_steps: int
    loss: losses.Loss = dataclasses.field(default_factory=losses.Loss)
    patience: int = 0
    together: distributed.Workers = distributed.ALONE
    statistics: Sequence[Any] = ()

    def rate_at(self, step: int) -> float:
        """The rate of a step, from 0."""
        share = learning_rate.share(self.schedule, step, self.total_steps)
        return self.rate * share


class TrainStep:
    """Batches -> steps: one for every `iter_size` of them."""

    def __init__(self, model: Any, learning: Learning) -> None:
        """Prepares the graphs.

        Args:
            model: keras.Model, inputs -> logits.
            learning: of the model's variables.
        """
        self._learning = learning
        self.waiting = 0  # batches that wait for others, to make a step with them
        self.steps = 0
        moved = learning.update

        together = learning.together
        # The share of a short batch may be nothing, whose mean is no number.
        guarded = together.num_replicas > 1 and bool(learning.statistics)

        def part(inputs: Any, labels: Any, replica: int) -> list[Any]:
            """Gradients, number of examples, sum of losses, number of hits."""
            draw = moved.batches * together.num_replicas + replica
            with tf.GradientTape() as tape, dropout.at(draw):
                logits = model(inputs, training=True)
                total = tf.reduce_sum(learning.loss.of(logits, labels))
                scaled = total * moved.scale
            found = tape.gradient(scaled, [v.value for v in moved.variables])
            mixed = labels.shape.rank == 2
            meant = tf.argmax(labels, 1, tf.int32) if mixed else labels
            hits = tf.equal(tf.argmax(logits, 1, tf.int32), meant)
            count = tf.cast(tf.size(meant), tf.float32)
            if guarded:
                found = [tf.where(count > 0, one, tf.zeros_like(one)) for one in found]
            return [*found, count, total, tf.reduce_sum(tf.cast(hits, tf.float32))]

        def gradients(inputs: Any, labels: Any) -> tuple[Any, Any]:
            """Of all replicas: gradients, and (examples, losses, hits)."""
            before = [tf.identity(one) for one in learning.statistics]
            found = together.compute(part, inputs, labels)
            moved.batches.assign_add(1)
            if guarded:
                count = tf.cast(tf.shape(labels)[0], tf.float32)
                own = [
                    tf.where(tf.math.is_finite(new), new, old) * count
                    for new, old in zip(learning.statistics, before, strict=True)
                ]
                *sums, count = together.add_up([*own, count])
                for variable, total in zip(learning.statistics, sums, strict=True):
                    variable.assign(total / count)
            return found[:-3], found[-3:]

        @traced_function.for_any_batch
        def step(inputs: Any, labels: Any, rate: Any) -> tuple[Any, Any, Any]:
            found, (count, total, hits) = gradients(inputs, labels)
            moved.apply(found, count, rate)
            return total / count, hits, count

        @traced_function.for_any_batch
        def add(inputs: Any, labels: Any) -> tuple[Any, Any, Any]:
            found, (count, total, hits) = gradients(inputs, labels)
            moved.add(found, count)
            return total / count, hits, count

        self._step, self._add = step, add
        self._finish = tf.function(moved.finish, autograph=False)

    @property
    def rate(self) -> float:
        """Of the step that is being made."""
        return self._learning.rate_at(self.steps)

    def __call__(self, inputs: Any, labels: Any) -> tuple[Any, Any, Any]:
        """Takes this process' share of a batch.

        Returns:
            Of the whole batch: mean loss, number of hits, number of examples.
        """
        if self._learning.update.iter_size == 1:
            answer = self._step(inputs, labels, np.float32(self.rate))
            self.steps += 1
            return answer
        answer = self._add(inputs, labels)
        self.waiting += 1
        if self.waiting == self._learning.update.iter_size:
            self.finish()
        return answer

    def finish(self) -> None:
        """Makes a step of the batches that wait for others, at the end of an epoch."""
        if self.waiting:
            self._finish(tf.constant(self.rate, tf.float32))
            self.waiting = 0
            self.steps += 1


def make_predict_step(model: Any) -> Callable[[Any], Any]:
    """Returns inputs -> logits, float32 [batch, num_classes], as in use."""

    @traced_function.for_any_batch
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


class Training:
    """Epoch after epoch of training; can be stopped after any batch, and resumed.

    Attributes:
        model: that is trained.
        learning: how.
        source: on what.
        best: is kept up to date, so that it is at hand when training is stopped.
        epoch: number of finished epochs.
        validated: logits and labels of the last validation.
    """

    def __init__(
        self,
        model: Any,
        learning: Learning,
        source: Source,
        *,
        best: Best,
        stage: str = "",
        first_epoch: int = 0,
    ) -> None:
        """Prepares the first epoch.

        Args:
            model: keras.Model, inputs -> logits.
            learning: of the model's variables.
            source: what the model is fed.
            best: of this training and those before.
            stage: what it is called.
            first_epoch: epochs of the trainings before; of those, nothing repeats.
        """
        self.best = best
        self.epoch = 0
        self.learning = learning
        self.model = model
        self.source = source
        self._stage = stage
        self._first_epoch = first_epoch
        self._train_step = TrainStep(model, learning)
        self._predict_step = make_predict_step(model)
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._batches = 0  # of this epoch, that were trained on
        self._total_loss, self._hits, self._count = 0.0, 0, 0

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        learning = self.learning
        since = self._first_epoch + self.epoch - max(self.best.epoch, self._first_epoch)
        return (
            self.epoch >= learning.epochs
            or self._train_step.steps >= learning.total_steps
            or bool(self.epoch and learning.patience and since >= learning.patience)
        )

    @property
    def steps(self) -> int:
        """How often the weights were moved."""
        return self._train_step.steps

    def run_epoch(self, on_batch: Callable[[int], object]) -> EpochResult:
        """Trains to the end of the epoch and validates.

        Args:
            on_batch: told the number of examples of each batch; what it raises leaves
                a training that can be resumed.

        Raises:
            NonFiniteLoss: a loss is infinite or not a number.
        """
        number = self._first_epoch + self.epoch
        start, before = time.perf_counter(), self._count
        for inputs, labels in self.source.training(number, self._batches):
            if self._train_step.steps >= self.learning.total_steps:
                break
            size = self._train(inputs, labels, number)
            on_batch(size)
        self._train_step.finish()
        trained = time.perf_counter()
        with self.learning.update.averaged():
            logits, labels = predict(self._predict_step, self.source.validation())
            validation_loss = metrics.mean_loss(logits, labels)
            if not math.isfinite(validation_loss):
                raise NonFiniteLoss(
                    f"the validation loss is {validation_loss} after epoch "
                    f"{number + 1}; try a lower --learning_rate"
                )
            self.best.offer(number + 1, validation_loss, logits)
        result = EpochResult(
            epoch=number + 1,
            loss=self._total_loss / self._count,
            accuracy=self._hits / self._count,
            validation_loss=validation_loss,
            validation_accuracy=metrics.accuracy(logits, labels),
            learning_rate=self.learning.rate_at(self._train_step.steps - 1),
            images_per_s=(self._count - before) / (trained - start),
            seconds=time.perf_counter() - start,
            stage=self._stage,
        )
        self.validated = logits, labels
        self.epoch += 1
        self._start_epoch()
        return result

    def rates(self) -> dict[float, float]:
        """{lr_mult: learning rate of the last step of variables that have it}."""
        rate = self.learning.rate_at(self._train_step.steps - 1)
        return {lr_mult: lr_mult * rate for lr_mult in self.learning.update.multipliers}

    def _train(self, inputs: Any, labels: Any, number: int) -> int:
        """Trains on a batch; returns its size."""
        rate = self._train_step.rate
        loss, hits, count = self._train_step(inputs, labels)
        self._batches += 1
        if not math.isfinite(float(loss)):
            raise NonFiniteLoss(
                f"the loss is {float(loss)} at step {self._batches} of epoch "
                f"{number + 1}, at a rate of {rate:g}; try a lower --learning_rate"
            )
        self._total_loss += float(loss) * int(count)
        self._hits += int(hits)
        self._count += int(count)
        return int(count)

    def last(self) -> dict[str, np.ndarray]:
        """{name: array} of all weights as they are now, averaged if they are."""
        with self.learning.update.averaged():
            return self.best.current()

    def state(self) -> dict[str, np.ndarray]:
        """All that a resumed training needs, but the weights and the best of them."""
        counts = (
            *(self.epoch, self._batches, self._hits, self._count),
            *(self._train_step.steps, self._train_step.waiting),
        )
        update = self.learning.update.state_values()
        return {
            "counts": np.array(counts, np.int64),
            "total_loss": np.array(self._total_loss, np.float64),
            **{f"update/{number}": value for number, value in enumerate(update)},
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on where `state` was taken.

        Raises:
            KeyError, ValueError: it is of another training.
        """
        counts = [int(count) for count in state["counts"]]
        self.epoch, self._batches, self._hits, self._count = counts[:4]
        self._train_step.steps, self._train_step.waiting = counts[4:]
        self._total_loss = float(state["total_loss"])
        for number, variable in enumerate(self.learning.update.state):
            variable.assign(state[f"update/{number}"])


def suitable_rate(num_features: int) -> float:
    """A learning rate of Adam for a new final layer on so many features.

    Adam moves every weight alike, so what a step does to the logits grows with the
    number of features. 1e-4 was the best of five for AlexNet's 9,216 of pool5; by this
    rule 1,280 of EfficientNet get 7e-4. What several layers say is much the same, so
    there it is the number that each of them has: for the 896 of AlexNet's conv3, conv4
    and pool5 three times the rate was best of 1, 2, 4 and 8 times, by log loss. For
    deeper layers (0 features) it is 1e-4.

    Args:
        num_features: that the new layer sees of each layer that it sits on, and of each
            kind: means, deviations.
    """
    return 0.9216 / num_features if num_features else 1e-4
