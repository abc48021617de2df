"""Check the packages of a converter, silence it, and name the layer it refuses."""

import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from model.export.exportable import Exportable
from pipeline.system import standard_error
from pipeline.system.errors import DataError

_MAX_MESSAGE = 200  # characters of a converter's own message


def require_packages(flag: str, *modules: str) -> None:
    """Raise DataError if one of the packages that a flag needs is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(
            f"{flag}: the Python packages {', '.join(missing)} are not installed. "
            f"Install them with: python -m pip install '.[export]'"
        )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep everything from stderr, where TensorFlow's C++ code writes too."""
    with standard_error.silenced(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts that will move to other packages
        yield


def name_failing_layer(
    flag: str,
    failure: Exception,
    classifier: Exportable,
    convert: Callable[[Any], object],
) -> DataError:
    """Convert each layer alone until one fails, and return an error that names it.

    `failure` is what `convert`, a function of a keras.Model, raised for all layers.
    """
    for layer in classifier.model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        try:
            convert(_as_model(layer))
        except Exception as error:  # converters raise errors of any kind
            return DataError(
                f"{flag}: layer {layer.name} ({type(layer).__name__}) cannot be "
                f"converted: {_shortened(error)}. Choose another format."
            )
    return DataError(
        f"{flag}: {_shortened(failure)}. Each layer alone can be converted. Choose "
        "another format."
    )


def _as_model(layer: Any) -> Any:
    """Return a keras.Model of one layer."""
    tensors = layer.input if isinstance(layer.input, list) else [layer.input]
    inputs = [keras.Input(tensor.shape[1:], dtype="float32") for tensor in tensors]
    return keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))


def _shortened(error: Exception) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    return message[:_MAX_MESSAGE] + "..." * (len(message) > _MAX_MESSAGE)
