"""Make the layers that several networks have; those with weights end in a ReLU."""

from typing import Any

import keras


def conv(
    name: str,
    filters: int,
    size: int,
    dtype: str,
    *,
    stride: int = 1,
    padding: str = "same",
    activation: str | None = "relu",
) -> Any:
    """Make a convolution of size x size pixels."""
    return keras.layers.Conv2D(
        filters, size, stride, padding, activation=activation, name=name, dtype=dtype
    )


def max_pool(name: str, size: int, stride: int, dtype: str) -> Any:
    """Make a max pooling over size x size pixels."""
    return keras.layers.MaxPooling2D(size, stride, name=name, dtype=dtype)


def flatten(dtype: str) -> Any:
    """Make the step from a feature map to a vector."""
    return keras.layers.Flatten(name="flatten", dtype=dtype)


def dense(name: str, units: int, dtype: str, *, activation: str | None = "relu") -> Any:
    """Make a dense layer; the last one of a network has no activation."""
    return keras.layers.Dense(units, activation=activation, name=name, dtype=dtype)


def dropout(name: str, rate: float, dtype: str) -> Any:
    """Make a layer that drops a share of its inputs in training."""
    return keras.layers.Dropout(rate, name=name, dtype=dtype)
