"""A converter's failure -> an error that names the layer that it does not take."""

from collections.abc import Callable
from typing import Any

import keras

from model.export import errors
from model.export.exportable import Exportable

_MAX_WORDS = 200  # characters of a converter's own message


def find(
    what: str,
    failure: Exception,
    classifier: Exportable,
    convert: Callable[[Any], object],
) -> errors.ExportError:
    """Converts one layer after the other, each alone, until one fails.

    Args:
        what: was to be written, as "--format=onnx".
        failure: of the whole.
        classifier: that was to be converted.
        convert: a keras.Model of one layer -> anything, or an exception.
    """
    for layer in classifier.model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        try:
            convert(_alone(layer))
        except Exception as error:  # whatever such tools raise
            return errors.ExportError(
                f"{what}: the layer {layer.name} ({type(layer).__name__}) cannot be "
                f"exported so: {_words(error)}; expected another format"
            )
    return errors.ExportError(
        f"{what}: {_words(failure)}; each layer alone can be exported; expected "
        "another format"
    )


def _alone(layer: Any) -> Any:
    """keras.Model of a layer."""
    tensors = layer.input if isinstance(layer.input, list) else [layer.input]
    inputs = [keras.Input(tensor.shape[1:], dtype="float32") for tensor in tensors]
    return keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))


def _words(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words[:_MAX_WORDS] + "..." * (len(words) > _MAX_WORDS)
