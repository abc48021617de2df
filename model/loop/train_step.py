"""Train a network on one batch: forward, loss, gradient, update."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from model.loop import distributed, dropout, optimization
from model.networks import fast_graphs


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


class ParameterUpdate:
    """Change variables along their gradients, with one optimizer per layer rate.

    In this order: gradients summed over `iter_size` batches become the mean over their
    examples; their norm is clipped; L2 decay is added; the optimizer changes each
    variable at its own learning rate; moving averages of the weights follow.

    Sources: ClipGradients and Normalize in caffe/src/caffe/solvers/sgd_solver.cpp,
    which clips the sum of the batches' mean gradients and then divides it by iter_size;
    tf.train.ExponentialMovingAverage with num_updates (warm-up of the averages).
    """

    def __init__(
        self, variables: Mapping[str, Any], settings: optimization.Settings
    ) -> None:
        """Create the optimizers for {"layer/variable": Keras variable}."""
        rates = {name: settings.layer_rate_of(name) for name in variables}
        self._names = [name for name in variables if rates[name].lr_mult]
        # In the order of the gradients; those of iter_size batches make one step.
        self.variables = [variables[name] for name in self._names]
        self.iter_size = settings.iter_size
        self._settings = settings
        self._decays = [
            settings.weight_decay * rates[name].decay_mult for name in self._names
        ]
        self._groups: list[tuple[float, Any, list[int]]] = []
        # Only AdamW decays weights itself.
        decoupled = settings.optimizer == "adamw"
        keys = [
            (rates[name].lr_mult, decay if decoupled else 0.0)
            for name, decay in zip(self._names, self._decays, strict=True)
        ]
        for lr_mult, decay in sorted(set(keys)):
            members = [n for n, key in enumerate(keys) if key == (lr_mult, decay)]
            optimizer = self._make_optimizer(decay)
            optimizer.build([self.variables[place] for place in members])
            self._groups.append((lr_mult, optimizer, members))
        self.batches = tf.Variable(0, trainable=False, dtype=tf.int64)  # so far
        self._sums = [
            tf.Variable(tf.zeros(v.shape, tf.float32), trainable=False)
            for v in (self.variables if settings.iter_size > 1 else ())
        ]
        self._count = tf.Variable(0.0, trainable=False)
        self.averages = [
            tf.Variable(tf.convert_to_tensor(v), trainable=False)
            for v in (self.variables if settings.ema else ())
        ]

    def _make_optimizer(self, decay: float) -> Any:
        settings, kinds = self._settings, keras.optimizers
        momentum = settings.momentum
        if settings.optimizer == "sgd":
            return kinds.SGD(0.0, momentum=momentum, nesterov=settings.nesterov)
        if settings.optimizer == "rmsprop":
            return kinds.RMSprop(0.0, momentum=momentum)
        if settings.optimizer == "adamw":
            return kinds.AdamW(0.0, weight_decay=decay)
        return kinds.Adam(0.0)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the variables their moving averages, if any, inside the block."""
        changed = self.variables[: len(self.averages)]  # all or none
        values = [variable.numpy() for variable in changed]
        for variable, average in zip(changed, self.averages, strict=True):
            variable.assign(average)
        try:
            yield
        finally:
            for variable, value in zip(changed, values, strict=True):
                variable.assign(value)

    @property
    def state(self) -> dict[str, Any]:
        """{name: variable} of all that a resumed training needs."""
        state = {"batches": self.batches, "examples": self._count}
        for kind, variables in (("sum", self._sums), ("average", self.averages)):
            for name, variable in zip(self._names, variables, strict=False):
                state[f"{kind}/{name}"] = variable
        for number, (_, optimizer, _) in enumerate(self._groups):
            for place, variable in enumerate(optimizer.variables):
                state[f"optimizer/{number}/{place}"] = variable.value
        return state

    def apply(self, gradients: Sequence[Any], count: Any, rate: Any) -> None:
        """Make a step with gradients of the loss, summed over `count` examples.

        Variables with lr_mult 1 learn at `rate`. All are float32.
        """
        settings = self._settings
        gradients = [gradient / count for gradient in gradients]
        if settings.clip_norm:
            largest = settings.clip_norm / self.iter_size
            gradients, _ = tf.clip_by_global_norm(gradients, largest)
        if settings.optimizer != "adamw":
            gradients = [
                gradient + decay * tf.convert_to_tensor(variable) if decay else gradient
                for gradient, variable, decay in zip(
                    gradients, self.variables, self._decays, strict=True
                )
            ]
        for lr_mult, optimizer, members in self._groups:
            optimizer.learning_rate = rate * lr_mult
            optimizer.apply(
                [gradients[place] for place in members],
                [self.variables[place] for place in members],
            )
        if self.averages:
            # A short training would otherwise stay near the weights of its start.
            step = tf.cast(self._groups[0][1].iterations.value, tf.float32)
            kept = tf.minimum(settings.ema, (1 + step) / (10 + step))
            for average, variable in zip(self.averages, self.variables, strict=True):
                away = average - tf.convert_to_tensor(variable)
                average.assign_sub((1 - kept) * away)

    def accumulate(self, gradients: Sequence[Any], count: Any) -> None:
        """Add the gradients of a batch, as `apply` takes them, to the next step."""
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign_add(gradient)
        self._count.assign_add(count)

    def apply_accumulated(self, rate: Any) -> None:
        """Make a step with all gradients accumulated since the last one."""
        self.apply(self._sums, self._count, rate)
        for variable in (*self._sums, self._count):
            variable.assign(tf.zeros_like(variable))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningSetup:
    """What a network learns with: loss, optimizer, learning rate, number of steps."""

    update: ParameterUpdate
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
        sums = group.sum_over_replicas(backward, inputs, labels)
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
        self._train_on_batch = fast_graphs.for_any_batch(
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
        """Make a step with the waiting batches, as at the end of an epoch."""
        if self.waiting:
            if self._setup.update.iter_size > 1:
                self._apply_accumulated(tf.constant(self.rate, tf.float32))
            self.waiting = 0
            self.steps += 1
