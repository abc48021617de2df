"""Update weights by gradients: optimizer, layer rates, clipping, decay, averages.

In this order: gradients summed over `iter_size` batches become the mean over their
examples; their norm is clipped; L2 decay is added; the optimizer changes each variable
at its own learning rate; moving averages of the weights follow.

Sources: ClipGradients and Normalize in caffe/src/caffe/solvers/sgd_solver.cpp, which
clips the sum of the batches' mean gradients and then divides it by iter_size;
tf.train.ExponentialMovingAverage with num_updates (warm-up of the averages).
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from model.loop import optimization


class ParameterUpdate:
    """Change variables along their gradients, with one optimizer per layer rate."""

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
        """Within it, the variables have the values of their moving averages, if any."""
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
