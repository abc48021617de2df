"""Make a Keras layer from its configuration, if its class is on an allow-list.

Only built-in classes are made, from plain numbers and short texts, by their own
constructors. Keras deserialises nothing, so that no function, class or initializer of
the file ever runs. Whatever changes how a layer trains is left out.

Sources: get_config of the layers of Keras 3, and the older names of Keras 2.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras.src.applications.convnext import LayerScale  # a plain Keras loads it

from model.networks.keras_models.config_graph import Call, Output, Refused

_MAX_SIZE = 1 << 16  # filters, units, pixels
_MAX_NUMBERS = 1 << 10  # of a constant
# Parts of a configuration that do not change a layer's output at inference.
_IMMATERIAL = re.compile(
    ".*(initializer|regularizer|constraint|shape)|name|trainable|dtype|seed|autocast|"
    "input_dim|input_dtype|sparse|ragged|init|weights|fused|mode|synchronized|"
    "quantization_config|lora_rank|build_config|.*_learning_phase"
)
_LAYERS = (
    *("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "Dense"),
    *("BatchNormalization", "LayerNormalization", "GroupNormalization"),
    *("UnitNormalization", "RMSNormalization", "MultiHeadAttention", "Attention"),
    *("GroupQueryAttention", "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU"),
    *("Softmax", "MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D"),
    *("GlobalMaxPooling2D", "GlobalAveragePooling1D", "GlobalMaxPooling1D"),
    *("Flatten", "Reshape", "Permute", "Identity", "RepeatVector"),
    *("Dropout", "SpatialDropout2D", "GaussianNoise", "ZeroPadding2D", "Cropping2D"),
    *("UpSampling2D", "Resizing", "CenterCrop", "Rescaling"),
    *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"),
)
# Layers that do nothing at inference; Graft augments photos before the network instead.
TRAINING_ONLY = re.compile("Random(?!Crop).*|RandAugment|(Gaussian|Alpha)Dropout")
_ACTIVATIONS = {name for name in dir(keras.activations) if not name.startswith("_")}
_ACTIVATIONS -= {"get", "serialize", "deserialize"}
# The operations that preprocessing leaves, by their names in Keras 3 and in TensorFlow.
ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "Add": keras.ops.add,
    "Subtract": keras.ops.subtract,
    "Multiply": keras.ops.multiply,
    "TrueDivide": keras.ops.true_divide,
    "Divide": keras.ops.divide,
    "math.truediv": keras.ops.true_divide,
    "math.divide": keras.ops.true_divide,
    "math.subtract": keras.ops.subtract,
    "math.multiply": keras.ops.multiply,
    "math.add": keras.ops.add,
    "__operators__.add": keras.ops.add,
    "nn.bias_add": keras.ops.add,
}
_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **ARITHMETIC,
    "Stack": keras.ops.stack,
    "GetItem": lambda x, key: x[key],
    "Cast": lambda x, **_: keras.ops.cast(x, "float32"),
    "Pad": keras.ops.pad,
    "Sqrt": keras.ops.sqrt,
    "RGBToGrayscale": keras.ops.image.rgb_to_grayscale,
    "__operators__.getitem": lambda x, slice_spec: x[tuple(slice_spec)],
    "cast": lambda x, **_: keras.ops.cast(x, "float32"),
}


def make(call: Call) -> Callable[..., Any]:
    """Return an unbuilt Keras layer, or a function of keras.ops."""
    if call.is_operation:
        name = call.config.get("function", call.kind)
        if name not in _OPERATIONS:
            raise Refused(f"operation {str(name)[:60]!r}, named {call.name!r}")
        return _OPERATIONS[name]
    if call.kind == "Normalization":
        return _normalization(call)
    if call.kind not in (*_LAYERS, "LayerScale"):
        raise Refused(f"layer {call.name[:60]!r} of class {call.kind[:60]!r}")
    is_scale = call.kind == "LayerScale"
    layer = LayerScale if is_scale else getattr(keras.layers, call.kind)
    return layer(**_arguments(call, layer), name=call.name)


def call_arguments(call: Call) -> tuple[list[Any], dict[str, Any]]:
    """Return what a layer is called on, each value checked; tensors stay Outputs."""
    kwargs = {
        name: _plain(value, f"layer {call.name}, called with {name}")
        for name, value in call.kwargs.items()
        if value is not None and value is not False
        if name not in ("training", "mask", "name", "dtype")
    }
    what = f"layer {call.name}, called on something"
    args = [_plain(value, what) for value in call.args]
    if call.is_operation:  # options of an operation stand in its configuration
        axis = call.config.get("axis")
        kwargs |= {"axis": axis} if type(axis) is int and abs(axis) <= 4 else {}
        for name in ("y", "bias"):  # TensorFlow's names of a second operand
            if name in kwargs:
                value = kwargs.pop(name)
                is_list = isinstance(value, list)
                args.append(np.array(value, np.float32) if is_list else value)
        if (layout := kwargs.pop("data_format", "NHWC")) != "NHWC":
            raise Refused(f"{what} of layout {_shown(layout)}")
    return args, kwargs


def _normalization(call: Call) -> Any:
    """Return a layer that computes what Normalization does with its variables.

    Normalization has them only after `adapt`, so that they could not be restored.
    """
    axis, mean = call.config.get("axis", -1), call.config.get("mean")
    if axis not in (-1, 3, [-1], [3]) or call.config.get("invert"):
        raise Refused(
            f"layer {call.name} (Normalization) of an axis that is not the channels, "
            "or inverted"
        )
    if mean is None:
        return keras.layers.BatchNormalization(
            center=False, scale=False, epsilon=0.0, name=call.name
        )
    what = f"layer {call.name} (Normalization)"
    mean, variance = (
        np.ravel(np.array(_plain(call.config.get(key), f"{what} with {key}")))
        for key in ("mean", "variance")
    )
    deviation = np.maximum(np.sqrt(variance), 1e-7)
    return keras.layers.Rescaling(
        (1 / deviation).tolist(), (-mean / deviation).tolist(), name=call.name
    )


def _arguments(call: Call, layer: Any) -> dict[str, Any]:
    """Return the arguments of a layer's constructor that are given and matter."""
    what = f"layer {call.name} ({call.kind})"
    config = dict(call.config)
    if call.kind == "LeakyReLU" and "alpha" in config:  # Keras 2
        config["negative_slope"] = config.pop("alpha")
    layout = config.pop("data_format", None)
    if layout not in (None, "channels_last", "default"):
        raise Refused(f"{what} with data_format = {_shown(layout)}")
    known = inspect.signature(layer.__init__).parameters
    arguments = {}
    for key, value in config.items():
        is_target = key in ("target_shape", "shared_axes", "size", "output_shape")
        if _IMMATERIAL.fullmatch(key) and not is_target:
            continue
        if key not in known:
            if value in (None, False, [], {}) or (key, value) == ("groups", 1):
                continue
            raise Refused(f"{what} with {key} = {_shown(value)}")
        arguments[key] = _plain(value, f"{what} with {key}")
        if "activation" in key and value is not None and value not in _ACTIVATIONS:
            raise Refused(f"{what} with {key} = {_shown(value)}")
    if isinstance(axes := arguments.get("axis"), list):
        arguments["axis"] = axes[0] if len(axes) == 1 else tuple(axes)
    return arguments


def _plain(value: Any, what: str) -> Any:
    """Return a value that consists of numbers, short texts, lists and Outputs."""
    if isinstance(value, dict):
        config = value.get("config")
        if value.get("class_name") == "__ellipsis__":
            return ...
        if value.get("class_name") == "__tensor__" and isinstance(config, dict):
            numbers = _plain(config.get("value"), what)
            return np.array(numbers, np.float32)
        if value.keys() == {"start", "stop", "step"}:
            return slice(*(_plain(value[key], what) for key in value))
    is_list = isinstance(value, list | tuple)
    if is_list and len(keras.tree.flatten(value)) <= _MAX_NUMBERS:
        return [_plain(item, what) for item in value]
    is_short = isinstance(value, str) and len(value) <= 40 and value.isprintable()
    is_small = isinstance(value, int | float) and abs(value) <= _MAX_SIZE
    if value is None or is_short or is_small or isinstance(value, Output):
        return value
    raise Refused(f"{what} = {_shown(value)}")


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:60]
