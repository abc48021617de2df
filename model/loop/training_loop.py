"""Train a network for epochs and keep its best weights, without flags and files."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from model.loop import metrics
from model.loop.train_step import LearningSetup, TrainStep
from model.networks import fast_graphs
from pipeline.batches.input_spec import InputSpec

# Inputs [batch, ...]; labels int32 [batch], or shares float32 [batch, num_classes].
Batch = tuple[Any, Any]


class NonFiniteLoss(ArithmeticError):
    """The loss is infinite or NaN; the message names epoch and step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochResult:
    """Figures of an epoch; losses are means in nats, accuracies shares of 0..1."""

    epoch: int  # from 1, over all stages
    loss: float
    accuracy: float  # on the training photos as they were trained on
    validation_loss: float
    validation_accuracy: float
    learning_rate: float | None = None  # of the last step, if the epoch had steps
    images_per_s: float | None = None  # training photos, if it had steps
    seconds: float  # duration of training and validation
    stage: str = ""  # its name; "" if there is only one
    l2: float | None = None  # penalty, if the head was solved
    iterations: int | None = None  # to solve it

    def as_dict(self) -> dict[str, Any]:
        """Return the figures that the epoch has, as a line of metrics.jsonl."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value is not None}


@dataclasses.dataclass(kw_only=True)
class BestWeights:
    """The weights with the lowest validation loss so far, by the variables' names."""

    # What training changes, and the values of all other variables.
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    frozen_values: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    epoch: int = 0  # the best one, from 1; 0 before the first
    validation_loss: float = math.inf
    values: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    validation_logits: np.ndarray | None = None  # float32 [num_photos, num_classes]

    def keep_if_better(
        self, epoch: int, validation_loss: float, logits: np.ndarray
    ) -> None:
        """Keep the current weights if their validation loss is the lowest so far."""
        if validation_loss < self.validation_loss:
            self.epoch, self.validation_loss = epoch, validation_loss
            self.values, self.validation_logits = self.current(), logits

    def current(self) -> dict[str, np.ndarray]:
        """Return {name: array} of all variables as they are now."""
        changed = {name: variable.numpy() for name, variable in self.variables.items()}
        return {**self.frozen_values, **changed}


class Source(Protocol):
    """Batches of training and validation photos, or of their features."""

    batch_size: int  # of training, over all processes

    def training(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, counted from 0, without the first `start`."""

    def validation(self) -> Iterator[Batch]:
        """Yield batches that hold each validation photo once, in manifest order."""

    def central_training(self, most: int) -> Iterator[Batch]:
        """Yield up to `most` training photos, evenly spread, in central windows."""

    def first_batch(self, spec: InputSpec) -> Batch:
        """Return the photos behind the first training batch, and their labels."""


def make_predict_step(model: Any) -> Callable[[Any], Any]:
    """Return a function inputs -> logits, float32 [batch, num_classes]."""

    @fast_graphs.for_any_batch
    def step(inputs: Any) -> Any:
        return tf.cast(model(inputs, training=False), tf.float32)

    return step


def predict(
    step: Callable[[Any], Any], batches: Iterable[Batch]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits [num_photos, num_classes] and the labels of all batches."""
    logits, labels = [], []
    for inputs, batch_labels in batches:
        logits.append(step(inputs).numpy())
        labels.append(np.asarray(batch_labels))
    return np.concatenate(logits), np.concatenate(labels)


class TrainingLoop:
    """Validate one network in one stage after each epoch; subclasses train it."""

    def __init__(
        self,
        model: Any,
        source: Source,
        *,
        best: BestWeights,
        stage: str = "",
        first_epoch: int = 0,
    ) -> None:
        """Prepare the first epoch of a keras.Model, inputs -> logits.

        `best` has the best weights so far, also of earlier stages, and `first_epoch` is
        the number of their epochs, whose order and windows are not repeated.
        """
        self.model, self.source, self.best = model, source, best
        self.epoch = 0  # complete epochs of this stage
        self.photos_in_epoch = 0  # trained on in the current epoch
        self._stage, self.first_epoch = stage, first_epoch
        self._predict_step = make_predict_step(model)

    @property
    def epochs_since_best(self) -> int:
        """Number of epochs of this stage after the best one."""
        return self.epoch - max(self.best.epoch - self.first_epoch, 0)

    def finish_epoch(self, training_s: float, **figures: Any) -> EpochResult:
        """Validate after an epoch with these figures; keep weights if they are best."""
        epoch = self.first_epoch + self.epoch + 1
        started_s = time.perf_counter()
        logits, labels = predict(self._predict_step, self.source.validation())
        validation_loss = metrics.mean_loss(logits, labels)
        if not math.isfinite(validation_loss):
            raise NonFiniteLoss(
                f"The validation loss is {validation_loss} after epoch {epoch}. Try a "
                "lower --learning_rate, or --precision=float32."
            )
        self.best.keep_if_better(epoch, validation_loss, logits)
        self.epoch += 1
        self.photos_in_epoch = 0
        return EpochResult(
            epoch=epoch,
            validation_loss=validation_loss,
            validation_accuracy=metrics.top_k_accuracy(logits, labels, 1),
            seconds=training_s + time.perf_counter() - started_s,
            stage=self._stage,
            **figures,
        )

    def last(self) -> dict[str, np.ndarray]:
        """Return {name: array} of all weights now, or of their moving averages."""
        return self.best.current()


class StepwiseTraining(TrainingLoop):
    """Train one network by steps; can be stopped after any batch and resumed."""

    def __init__(
        self, model: Any, setup: LearningSetup, source: Source, **options: Any
    ) -> None:
        """Prepare the first epoch; `options` are those of TrainingLoop."""
        super().__init__(model, source, **options)
        self.setup = setup
        self._train_step = TrainStep(model, setup)
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._num_batches = self._num_hits = 0
        self._total_loss = self._training_s = 0.0
        self._timed_photos = 0  # photos in the epoch since training was resumed

    @property
    def done(self) -> bool:
        """Whether all epochs or steps are done, or nothing has improved for long."""
        setup, patience = self.setup, self.setup.schedule.early_stopping
        return (
            self.epoch >= setup.epochs
            or self.steps >= setup.total_steps
            or 0 < patience <= self.epochs_since_best
        )

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return self._train_step.steps

    def train_epoch(self) -> Iterator[int]:
        """Train to the end of the epoch, and yield each batch's number of photos.

        The caller may stop after any batch: `state` continues from there.
        """
        epoch = self.first_epoch + self.epoch
        started_s = time.perf_counter()
        for inputs, labels in self.source.training(epoch, self._num_batches):
            if self.steps >= self.setup.total_steps:
                break
            rate = self._train_step.rate
            result = self._train_step(inputs, labels)
            loss, num_photos = float(result.loss), int(result.num_photos)
            self._num_batches += 1
            if not math.isfinite(loss):
                raise NonFiniteLoss(
                    f"The loss is {loss} at step {self._num_batches} of epoch "
                    f"{epoch + 1}, at a learning rate of {rate:g}. Try a lower "
                    "--learning_rate."
                )
            self._total_loss += loss * num_photos
            self._num_hits += int(result.num_hits)
            self.photos_in_epoch += num_photos
            self._timed_photos += num_photos
            yield num_photos
        self._train_step.finish()
        self._training_s = time.perf_counter() - started_s

    def validate(self) -> EpochResult:
        """Validate after `train_epoch`, keep the weights if they are the best."""
        with self.setup.update.averaged():
            result = self.finish_epoch(
                self._training_s,
                loss=self._total_loss / self.photos_in_epoch,
                accuracy=self._num_hits / self.photos_in_epoch,
                learning_rate=self.setup.rate_at(self.steps - 1),
                images_per_s=self._timed_photos / self._training_s,
            )
        self._start_epoch()
        return result

    def last(self) -> dict[str, np.ndarray]:
        """Return {name: array} of all weights now, or of their moving averages."""
        with self.setup.update.averaged():
            return self.best.current()

    def state(self) -> dict[str, np.ndarray]:
        """Return all that a resumed training needs, but the weights."""
        counts = (
            *(self.epoch, self._num_batches, self._num_hits, self.photos_in_epoch),
            *(self._train_step.steps, self._train_step.waiting),
        )
        update = self.setup.update.state
        return {
            "counts": np.array(counts, np.int64),
            "total_loss": np.array(self._total_loss, np.float64),
            **{f"update/{name}": variable.numpy() for name, variable in update.items()},
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a result of `state`; KeyError or ValueError for others."""
        counts = [int(count) for count in state["counts"]]
        self.epoch, self._num_batches, self._num_hits, self.photos_in_epoch = counts[:4]
        self._train_step.steps, self._train_step.waiting = counts[4:]
        self._total_loss = float(state["total_loss"])
        for name, variable in self.setup.update.state.items():
            variable.assign(state[f"update/{name}"])
