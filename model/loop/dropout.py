"""Dropout and noise as functions of (seed, step): the same whenever a step is repeated.

Keras' own layers count for themselves how often they were called. No file keeps that
count, so a resumed training would go on with other masks; and drawing their numbers
took half the time of training a new final layer.
"""

import contextlib
import contextvars
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from model.networks import composite_layers

_step: contextvars.ContextVar[Any] = contextvars.ContextVar("step", default=None)


@contextlib.contextmanager
def at(step: Any) -> Iterator[None]:
    """Within it, layers of this module that are called in training draw for this step.

    Args:
        step: integer scalar, a tensor or variable.
    """
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


class _Random(keras.layers.Layer):
    """A layer that does something random in training, and nothing in use."""

    def __init__(self, seed: int, **about: Any) -> None:
        super().__init__(**about)
        # Two layers of a network shall not draw the same.
        self._seed = (seed << 32) + zlib.crc32(self.name.encode())

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        step = _step.get()
        if step is None:
            raise RuntimeError(f"{self.name}: in training, but not within dropout.at()")
        seed = tf.stack([tf.constant(self._seed, tf.int64), tf.cast(step, tf.int64)])
        return self.disturbed(inputs, seed)

    def disturbed(self, inputs: Any, seed: Any) -> Any:
        """The output in training."""
        raise NotImplementedError

    def compute_output_shape(
        self, shape: composite_layers.Shape
    ) -> composite_layers.Shape:
        return shape


class StepDropout(_Random):
    """Sets a share of the numbers to 0 and scales the rest up, so that the mean stays.

    The share is a multiple of 1/256: one random byte decides on each number, which
    takes half the time of Keras' 32 bits.
    """

    def __init__(self, rate: float, seed: int, *, spatial: bool, **about: Any) -> None:
        """Takes a rate of more than 0, less than 1.

        Args:
            rate: share that is dropped.
            seed: of all masks.
            spatial: whole channels of [batch, height, width, channels] are dropped.
            **about: name and dtype of the layer.
        """
        super().__init__(seed, **about)
        self._threshold = min(255, max(1, round(256 * rate)))
        self._spatial = spatial

    def disturbed(self, inputs: Any, seed: Any) -> Any:
        """[batch, ...] of any number of axes."""
        shape = tf.shape(inputs)
        if self._spatial:
            shape = tf.stack([shape[0], 1, 1, shape[3]])
        count = tf.reduce_prod(shape)
        words = tf.random.stateless_uniform(
            [(count + 3) // 4], seed, minval=None, maxval=None, dtype=tf.uint32
        )
        numbers = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:count]
        kept = tf.reshape(numbers, shape) >= tf.constant(self._threshold, tf.uint8)
        scale = tf.cast(256 / (256 - self._threshold), inputs.dtype)
        return tf.where(kept, inputs * scale, tf.zeros([], inputs.dtype))


class StepNoise(_Random):
    """Adds normally distributed noise."""

    def __init__(self, stddev: float, seed: int, **about: Any) -> None:
        super().__init__(seed, **about)
        self._stddev = stddev

    def disturbed(self, inputs: Any, seed: Any) -> Any:
        """[batch, ...] of any number of axes."""
        noise = tf.random.stateless_normal(tf.shape(inputs), seed, dtype=tf.float32)
        return inputs + tf.cast(self._stddev * noise, inputs.dtype)


def by_step(step: Any, seed: int) -> Any:
    """A step of a network, its dropout and noise replaced by those of this module.

    Args:
        step: an unbuilt Keras layer or block.
        seed: of all draws.
    """

    def replacement(layer: Any) -> Any:
        about = {"name": layer.name, "dtype": layer.dtype_policy}
        kinds = keras.layers
        if isinstance(layer, kinds.GaussianNoise):
            return StepNoise(layer.stddev, seed, **about)
        if not isinstance(layer, kinds.Dropout) or not layer.rate:
            return layer
        spatial = isinstance(layer, kinds.SpatialDropout2D)
        return StepDropout(layer.rate, seed, spatial=spatial, **about)

    return composite_layers.replaced(step, replacement)
