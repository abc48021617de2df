"""Gradients -> new weights: optimizer, rates of single layers, clipping, decay.

In this order: the sum of the gradients over `iter_size` batches becomes the mean over
their examples; its norm is limited; L2 decay is added; the optimizer moves each
variable at its own rate; a moving average of the weights follows.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from model.loop import optimization

_LARGEST_SCALE = 2.0**15
_GROWS_AFTER = 2_000  # steps without overflow


class Update:
    """Moves variables along gradients.

    Attributes:
        variables: those that are moved, in the order of their gradients.
        iter_size: batches whose gradients make one step.
        batches: tf.Variable, number of batches so far.
        scale: tf.Variable: what the loss is multiplied with, so that gradients in
            float16 do not vanish; 1 otherwise.
    """

    def __init__(
        self,
        variables: Mapping[str, Any],
        settings: optimization.Settings,
        *,
        float16: bool,
    ) -> None:
        """Makes what it needs to remember.

        Args:
            variables: {"layer/variable": Keras variable} that train.
            settings: optimizer, clipping, decay and layer rates.
            float16: gradients are computed in float16.
        """
        rates = {name: settings.layer_rate_of(name) for name in variables}
        kept = {name: v for name, v in variables.items() if rates[name].lr_mult}
        self.variables = list(kept.values())
        self.iter_size = settings.iter_size
        self._settings = settings
        self._decays = [settings.weight_decay * rates[name].decay_mult for name in kept]
        self._groups: list[tuple[float, Any, list[int]]] = []
        for lr_mult, decay in sorted(
            {(rates[n].lr_mult, self._decoupled(d)) for n, d in self._named(kept)}
        ):
            members = [
                place
                for place, (name, own) in enumerate(self._named(kept))
                if (rates[name].lr_mult, self._decoupled(own)) == (lr_mult, decay)
            ]
            optimizer = self._make(decay)
            optimizer.build([self.variables[place] for place in members])
            self._groups.append((lr_mult, optimizer, members))
        self.batches = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.scale = tf.Variable(_LARGEST_SCALE if float16 else 1.0, trainable=False)
        self._float16 = float16
        self._good_steps = tf.Variable(0, trainable=False, dtype=tf.int64)
        self._sums = [
            tf.Variable(tf.zeros(v.shape, tf.float32), trainable=False)
            for v in (self.variables if settings.iter_size > 1 else ())
        ]
        self._count = tf.Variable(0.0, trainable=False)
        self.averages = [
            tf.Variable(tf.convert_to_tensor(v), trainable=False)
            for v in (self.variables if settings.ema else ())
        ]

    def _named(self, kept: Mapping[str, Any]) -> list[tuple[str, float]]:
        return list(zip(kept, self._decays, strict=True))

    def _decoupled(self, decay: float) -> float:
        """The decay that the optimizer itself applies."""
        return decay if self._settings.optimizer == "adamw" else 0.0

    def _make(self, decay: float) -> Any:
        settings, kinds = self._settings, keras.optimizers
        if settings.optimizer == "sgd":
            return kinds.SGD(
                0.0, momentum=settings.momentum, nesterov=settings.nesterov
            )
        if settings.optimizer == "rmsprop":
            return kinds.RMSprop(0.0, momentum=settings.momentum)
        if settings.optimizer == "adamw":
            return kinds.AdamW(0.0, weight_decay=decay)
        return kinds.Adam(0.0)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the variables have the values of their moving averages, if any."""
        if not self.averages:
            yield
            return
        values = [variable.numpy() for variable in self.variables]
        for variable, average in zip(self.variables, self.averages, strict=True):
            variable.assign(average)
        try:
            yield
        finally:
            for variable, value in zip(self.variables, values, strict=True):
                variable.assign(value)

    @property
    def multipliers(self) -> tuple[float, ...]:
        """lr_mult of the variables, each once, ascending."""
        return tuple(sorted({lr_mult for lr_mult, _, _ in self._groups}))

    @property
    def state(self) -> list[Any]:
        """All variables that a resumed training needs."""
        return [
            self.batches,
            self.scale,
            self._good_steps,
            self._count,
            *self._sums,
            *self.averages,
            *(
                variable.value
                for _, optimizer, _ in self._groups
                for variable in optimizer.variables
            ),
        ]

    def state_values(self) -> list[Any]:
        """Arrays of `state`."""
        return [variable.numpy() for variable in self.state]

    def apply(self, gradients: Sequence[Any], count: Any, rate: Any) -> None:
        """Makes a step.

        Args:
            gradients: of the sum over examples of the loss, times `scale`; one for each
                of `variables`.
            count: float scalar, number of examples.
            rate: float scalar, learning rate of variables whose lr_mult is 1.
        """
        gradients = [
            tf.cast(gradient, tf.float32) / (count * self.scale)
            for gradient in gradients
        ]
        if not self._float16:
            self._move(gradients, rate)
            return
        finite = tf.reduce_all(
            [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]
        )
        tf.cond(finite, lambda: self._move(gradients, rate), self._shrink_scale)

    def add(self, gradients: Sequence[Any], count: Any) -> None:
        """Remembers the gradients of a batch, as `apply` takes them, for `finish`."""
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign_add(tf.cast(gradient, tf.float32))
        self._count.assign_add(count)

    def finish(self, rate: Any) -> None:
        """Makes a step with all that was added since the last."""
        self.apply(self._sums, self._count, rate)
        for variable in (*self._sums, self._count):
            variable.assign(tf.zeros_like(variable))

    def _move(self, gradients: Sequence[Any], rate: Any) -> Any:
        settings = self._settings
        if settings.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, settings.clip_norm)
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
        for average, variable in zip(self.averages, self.variables, strict=False):
            away = average - tf.convert_to_tensor(variable)
            average.assign_sub((1 - settings.ema) * away)
        self._grow_scale()
        return tf.constant(0)

    def _grow_scale(self) -> None:
        if self._float16:
            good = self._good_steps.assign_add(1)
            grows = tf.equal(good % _GROWS_AFTER, 0)
            self.scale.assign(tf.where(grows, 2 * self.scale, self.scale))

    def _shrink_scale(self) -> Any:
        """Leaves the step out: its gradients ran over."""
        self._good_steps.assign(0)
        self.scale.assign(tf.maximum(self.scale / 2, 1.0))
        return tf.constant(0)
