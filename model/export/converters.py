"""Check the packages of a converter, silence it, and name the layer it refuses."""

import contextlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from model.export.exportable import Exportable
from pipeline.system import platform_support
from pipeline.system.errors import DataError

_MAX_MESSAGE = 200  # characters of a converter's own message


def require_packages(flag: str, *modules: str) -> None:
    """Raise DataError if one of the packages that a flag needs is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(
            f"{flag}: the Python packages {', '.join(missing)} are not installed. "
            f"Install them with: {sys.executable} -m pip install {' '.join(missing)}"
        )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep everything from stderr, where TensorFlow's C++ code writes too."""
    # Warnings are about parts that will move to other packages.
    with platform_support.stderr_silenced(), warnings.catch_warnings(action="ignore"):
        yield


@contextlib.contextmanager
def naming_failing_layer(
    flag: str, classifier: Exportable, convert: Callable[[Any, Any, Any], object]
) -> Iterator[None]:
    """Make a DataError of any error inside; it names the first layer that fails alone.

    `convert` takes a function of tensors, its signature, and the keras.Model in it.
    """
    try:
        yield
    except Exception as failure:  # converters raise errors of any kind
        message = (
            f"{flag}: {_shortened(failure)}. Each layer alone can be converted. Choose "
            "another format."
        )
        for layer in classifier.model.layers:
            if isinstance(layer, keras.layers.InputLayer):
                continue
            try:
                convert(*_alone(layer))
            except Exception as error:
                message = (
                    f"{flag}: layer {layer.name} ({type(layer).__name__}) cannot be "
                    f"converted: {_shortened(error)}. Choose another format."
                )
                break
        raise DataError(message) from failure


def _alone(layer: Any) -> tuple[Callable[..., Any], list[tf.TensorSpec], Any]:
    """Return a function that computes one layer, its signature, and its keras.Model."""
    tensors = layer.input if isinstance(layer.input, list) else [layer.input]
    inputs = [keras.Input(tensor.shape[1:], dtype="float32") for tensor in tensors]
    model = keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))
    signature = [tf.TensorSpec(x.shape, x.dtype, x.name) for x in model.inputs]
    return lambda *x: model(list(x), training=False), signature, model


def _shortened(error: Exception) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    return message[:_MAX_MESSAGE] + "..." * (len(message) > _MAX_MESSAGE)
