"""Apply dropout and noise that seed and step decide: a repeated step draws the same.

Keras' layers count their calls, and no file holds that count, so that a resumed
training would continue with other masks. Drawing their numbers also took half the time
of training a new final layer.
"""

import contextlib
import contextvars
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

_step: contextvars.ContextVar[Any] = contextvars.ContextVar("step", default=None)


@contextlib.contextmanager
def at(step: Any) -> Iterator[None]:
    """Let this module's layers draw for a step, an integer scalar, inside the block."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


class _Random(keras.layers.Layer):
    """Change numbers randomly in training, and do nothing at inference."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(**options)
        # Each layer of a network draws its own numbers.
        self._seed = (seed << 32) + zlib.crc32(self.name.encode())

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        step = _step.get()
        if step is None:
            raise RuntimeError(f"{self.name}: called in training outside dropout.at()")
        seed = tf.stack([tf.constant(self._seed, tf.int64), tf.cast(step, tf.int64)])
        return self._disturb(inputs, seed)

    def _disturb(self, inputs: Any, seed: Any) -> Any:
        raise NotImplementedError

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return shape


class StepDropout(_Random):
    """Set a share of the numbers to 0 and scale the others up, which keeps the mean.

    The share is a multiple of 1/256: one random byte decides on each number, which
    takes half the time of Keras' 32 bits.
    """

    def __init__(
        self,
        rate: float,
        seed: int,
        *,
        noise_shape: Sequence[int | None],
        **options: Any,
    ) -> None:
        """Drop the share `rate`, 0..1, with masks of the shape `noise_shape`.

        (None, 1, 1, None) drops whole channels, (None, 1, 1, 1) whole examples, and ()
        single numbers. `options` are name and dtype of the layer.
        """
        super().__init__(seed, **options)
        self._threshold = min(255, max(1, round(256 * rate)))
        self._noise_shape = noise_shape

    def _disturb(self, inputs: Any, seed: Any) -> Any:
        shape = tf.shape(inputs)
        if self._noise_shape:
            sides = enumerate(self._noise_shape)
            shape = tf.stack([shape[n] if size is None else size for n, size in sides])
        count = tf.reduce_prod(shape)
        words = tf.random.stateless_uniform(
            [(count + 3) // 4], seed, minval=None, maxval=None, dtype=tf.uint32
        )
        numbers = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:count]
        passes = tf.reshape(numbers, shape) >= tf.constant(self._threshold, tf.uint8)
        scale = tf.cast(256 / (256 - self._threshold), inputs.dtype)
        return tf.where(passes, inputs * scale, tf.zeros([], inputs.dtype))


class StepNoise(_Random):
    """Add normally distributed noise."""

    def __init__(self, stddev: float, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self._stddev = stddev

    def _disturb(self, inputs: Any, seed: Any) -> Any:
        noise = tf.random.stateless_normal(tf.shape(inputs), seed, dtype=tf.float32)
        return inputs + tf.cast(self._stddev * noise, inputs.dtype)


def by_step(layer: Any, seed: int) -> Any:
    """Return an unbuilt layer; for dropout and noise, the layer of this module."""
    options = {"name": layer.name, "dtype": layer.dtype_policy}
    if isinstance(layer, keras.layers.GaussianNoise):
        return StepNoise(layer.stddev, seed, **options)
    if not isinstance(layer, keras.layers.Dropout) or not layer.rate:
        return layer
    noise_shape = layer.noise_shape or ()
    if isinstance(layer, keras.layers.SpatialDropout2D):
        noise_shape = (None, 1, 1, None)
    return StepDropout(layer.rate, seed, noise_shape=noise_shape, **options)
