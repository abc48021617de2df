"""Batches -> a trained model: steps, epochs, the best by validation.

Knows nothing of flags, files or where batches come from.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model import dropout, graph, metrics

Batch = tuple[Any, Any]  # inputs [batch, ...], labels int32 [batch]


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


def make_train_step(
    model: Any, optimizer: Any
) -> Callable[[Any, Any], tuple[Any, Any, Any]]:
    """Returns (inputs, labels) -> (mean loss, number of hits, rate), one step."""
    variables = model.trainable_variables
    optimizer.build(variables)

    @graph.for_any_batch
    def step(inputs: Any, labels: Any) -> tuple[Any, Any, Any]:
        rate = tf.identity(optimizer.learning_rate)  # afterwards it is the next step's
        with tf.GradientTape() as tape, dropout.at(optimizer.iterations):
            logits = model(inputs, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, variables)
        optimizer.apply(gradients, variables)
        hits = tf.equal(tf.argmax(logits, 1, tf.int32), labels)
        return loss, tf.reduce_sum(tf.cast(hits, tf.int32)), rate

    return step


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
    optimizer: Any,
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
        optimizer: keras.Optimizer.
        training: epoch from 0 -> its batches.
        validation: -> the validation batches, each example once.
        epochs: number of them.
        best: is kept up to date, so that it is at hand when training is stopped.
        on_step: told the number of examples of each step.

    Raises:
        NonFiniteLoss: a loss is infinite or not a number.
    """
    train_step = make_train_step(model, optimizer)
    predict_step = make_predict_step(model)
    for epoch in range(epochs):
        start = time.perf_counter()
        total_loss, hits, count = 0.0, 0, 0
        for number, (inputs, labels) in enumerate(training(epoch)):
            loss, step_hits, rate = train_step(inputs, labels)
            if not math.isfinite(float(loss)):
                raise NonFiniteLoss(
                    f"the loss is {float(loss)} at step {number + 1} of epoch "
                    f"{epoch + 1}; try a lower --learning_rate than "
                    f"{float(rate):g}"
                )
            size = len(labels)
            total_loss += float(loss) * size
            hits += int(step_hits)
            count += size
            on_step(size)
        trained = time.perf_counter()
        logits, labels = predict(predict_step, validation())
        validation_loss = metrics.mean_loss(logits, labels)
        if not math.isfinite(validation_loss):
            raise NonFiniteLoss(
                f"the validation loss is {validation_loss} after epoch {epoch + 1}; "
                "try a lower --learning_rate"
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
            loss=total_loss / count,
            accuracy=hits / count,
            validation_loss=validation_loss,
            validation_accuracy=metrics.accuracy(logits, labels),
            learning_rate=float(rate),
            images_per_s=count / (trained - start),
            seconds=time.perf_counter() - start,
        )


def suitable_rate(num_features: int) -> float:
    """A learning rate of Adam for a new final layer on so many features.

    Adam moves every weight alike, so what a step does to the logits grows with the
    number of features. 1e-4 was the best of five for AlexNet's 9,216 of pool5; by this
    rule 1,280 of EfficientNet get 7e-4. For deeper layers (0 features) it is 1e-4.
    """
    return 0.9216 / num_features if num_features else 1e-4


def make_optimizer(learning_rate: float, num_steps: int, precision: str) -> Any:
    """Adam, its rate falling to zero along a half cosine over `num_steps` steps."""
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, max(1, num_steps))
    optimizer = keras.optimizers.Adam(schedule)
    if precision == "float16":  # small gradients would vanish
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
