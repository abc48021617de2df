"""Read the configuration of a Keras layer as arguments for a built-in layer.

Only layers of an allow-list are known, and their numbers and names are checked one by
one. Dtypes, initializers and the like are ignored.

Sources: get_config of the layers of Keras 3, and the older names of Keras 1 and 2.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

MAX_SIZE = 1 << 16  # filters, units, pixels
_ACTIVATIONS = {
    *("linear", "relu", "relu6", "elu", "selu", "gelu", "tanh", "sigmoid"),
    *("hard_sigmoid", "softmax", "softplus", "softsign", "swish", "silu"),
}
Refuse = Callable[[str], Exception]


class Values:
    """A JSON object whose values are read one by one, each checked."""

    def __init__(self, values: Any, refuse: Refuse, what: str) -> None:
        """Wrap the object.

        Args:
            values: JSON value that should be an object.
            refuse: function (what is wrong) -> the error to raise.
            what: name of the object, for messages.
        """
        if not isinstance(values, dict):
            raise refuse(f"{what} that is no JSON object")
        self.values: dict[str, Any] = values
        self.refuse = refuse
        self.what = what

    def wrong(self, name: str) -> Exception:
        """The error for a value."""
        shown = json.dumps(self.values.get(name))[:60]
        return self.refuse(f"{self.what} with {name} = {shown}")

    def whole(self, name: str, default: int | None = None, low: int = 1) -> int:
        """A number from `low` on."""
        value = self.values.get(name, default)
        if type(value) is not int or not low <= value <= MAX_SIZE:
            raise self.wrong(name)
        return value

    def real(self, name: str, default: float | None) -> float | None:
        """A number, or None if that is the default."""
        value = self.values.get(name, default)
        if value is None and default is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name)
        if not -1e6 < value < 1e6:
            raise self.wrong(name)
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name)
        return value

    def choice(self, name: str, options: Sequence[str], default: str) -> str:
        """One of several words."""
        value = self.values.get(name, default)
        if value not in options:
            raise self.wrong(name)
        return str(value)

    def pair(self, name: str, default: Any, low: int = 1) -> tuple[int, int]:
        """Height and width."""
        value = self.values.get(name, default)
        if type(value) is int:
            value = [value, value]
        if (
            not isinstance(value, list | tuple)
            or len(value) != 2
            or not all(type(side) is int and low <= side <= MAX_SIZE for side in value)
        ):
            raise self.wrong(name)
        return value[0], value[1]

    def borders(self, name: str) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, bottom), (left, right))."""
        value = self.values.get(name, 1)
        if type(value) is int:
            value = [value, value]
        if not isinstance(value, list) or len(value) != 2:
            raise self.wrong(name)
        pairs = [[pair, pair] if type(pair) is int else pair for pair in value]
        for pair in pairs:
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or not all(type(side) is int and 0 <= side <= 1024 for side in pair)
            ):
                raise self.wrong(name)
        return (pairs[0][0], pairs[0][1]), (pairs[1][0], pairs[1][1])

    def activation(self, default: str = "linear") -> str:
        """The name of an activation function."""
        value = self.values.get("activation", default) or "linear"
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            raise self.wrong("activation")
        return value

    def channels_last(self) -> None:
        """Refuses channels_first, also as Keras 1 called it."""
        for name, ours in (("data_format", "channels_last"), ("dim_ordering", "tf")):
            if self.values.get(name) not in (None, ours, "default"):
                raise self.wrong(name)


def _conv2d(c: Values) -> dict[str, Any]:
    c.channels_last()
    if "nb_filter" in c.values:  # Keras 1
        return {
            "filters": c.whole("nb_filter"),
            "kernel_size": (c.whole("nb_row"), c.whole("nb_col")),
            "strides": c.pair("subsample", 1),
            "padding": c.choice("border_mode", ("valid", "same"), "valid"),
            "activation": c.activation(),
            "use_bias": c.flag("bias", default=True),
        }
    return {
        "filters": c.whole("filters"),
        "kernel_size": c.pair("kernel_size", None),
        "strides": c.pair("strides", 1),
        "padding": c.choice("padding", ("valid", "same"), "valid"),
        "dilation_rate": c.pair("dilation_rate", 1),
        "groups": c.whole("groups", 1),
        "activation": c.activation(),
        "use_bias": c.flag("use_bias", default=True),
    }


def _depthwise(c: Values) -> dict[str, Any]:
    c.channels_last()
    return {
        "kernel_size": c.pair("kernel_size", None),
        "strides": c.pair("strides", 1),
        "padding": c.choice("padding", ("valid", "same"), "valid"),
        "depth_multiplier": c.whole("depth_multiplier", 1),
        "dilation_rate": c.pair("dilation_rate", 1),
        "activation": c.activation(),
        "use_bias": c.flag("use_bias", default=True),
    }


def _separable(c: Values) -> dict[str, Any]:
    return {"filters": c.whole("filters"), **_depthwise(c)}


def _dense(c: Values) -> dict[str, Any]:
    old = "output_dim" in c.values  # Keras 1
    return {
        "units": c.whole("output_dim" if old else "units"),
        "activation": c.activation(),
        "use_bias": c.flag("bias" if old else "use_bias", default=True),
    }


def _batch_norm(c: Values) -> dict[str, Any]:
    axis = c.values.get("axis", -1)
    if isinstance(axis, list) and len(axis) == 1:
        axis = axis[0]
    if axis not in (-1, 3):
        raise c.wrong("axis")
    return {
        "epsilon": c.real("epsilon", 1e-3),
        "momentum": c.real("momentum", 0.99),
        "scale": c.flag("scale", default=True),
        "center": c.flag("center", default=True),
    }


def _pooling(c: Values) -> dict[str, Any]:
    c.channels_last()
    size = c.pair("pool_size", 2)
    strides = c.values.get("strides")
    padding = "border_mode" if "border_mode" in c.values else "padding"
    return {
        "pool_size": size,
        "strides": size if strides is None else c.pair("strides", None),
        "padding": c.choice(padding, ("valid", "same"), "valid"),
    }


def _global_pooling(c: Values) -> dict[str, Any]:
    c.channels_last()
    return {"keepdims": c.flag("keepdims", default=False)}


def _dropout(c: Values) -> dict[str, Any]:
    rate = c.real("p" if "p" in c.values else "rate", 0.5)
    if rate is None or not 0 <= rate < 1:
        raise c.wrong("rate")
    return {"rate": rate}


def _relu(c: Values) -> dict[str, Any]:
    return {
        "max_value": c.real("max_value", None),
        "negative_slope": c.real("negative_slope", 0.0),
        "threshold": c.real("threshold", 0.0),
    }


def _leaky_relu(c: Values) -> dict[str, Any]:
    name = "alpha" if "alpha" in c.values else "negative_slope"
    return {"negative_slope": c.real(name, 0.3)}


def _upsampling(c: Values) -> dict[str, Any]:
    c.channels_last()
    size = c.pair("size", 2)
    if max(size) > 64:
        raise c.wrong("size")
    kinds = ("nearest", "bilinear")
    return {"size": size, "interpolation": c.choice("interpolation", kinds, "nearest")}


def _reshape(c: Values) -> dict[str, Any]:
    shape = c.values.get("target_shape")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 4
        or not all(type(n) is int and (n == -1 or 1 <= n <= MAX_SIZE) for n in shape)
    ):
        raise c.wrong("target_shape")
    return {"target_shape": tuple(shape)}


def _rescaling(c: Values) -> dict[str, Any]:
    return {"scale": c.real("scale", 1.0), "offset": c.real("offset", 0.0)}


def _axis(c: Values) -> dict[str, Any]:
    if c.values.get("axis", -1) not in (-1, 3):
        raise c.wrong("axis")
    return {"axis": -1}


def _flatten(c: Values) -> dict[str, Any]:
    c.channels_last()
    return {}


def _nothing(_: Values) -> dict[str, Any]:
    return {}


_K = keras.layers
# The allow-list: class -> (Keras layer, what is taken of its configuration).
LAYERS: Mapping[str, tuple[Any, Callable[[Values], dict[str, Any]]]] = {
    "Conv2D": (_K.Conv2D, _conv2d),
    "Convolution2D": (_K.Conv2D, _conv2d),
    "DepthwiseConv2D": (_K.DepthwiseConv2D, _depthwise),
    "SeparableConv2D": (_K.SeparableConv2D, _separable),
    "Dense": (_K.Dense, _dense),
    "BatchNormalization": (_K.BatchNormalization, _batch_norm),
    "Activation": (_K.Activation, lambda c: {"activation": c.activation()}),
    "ReLU": (_K.ReLU, _relu),
    "LeakyReLU": (_K.LeakyReLU, _leaky_relu),
    "ELU": (_K.ELU, lambda c: {"alpha": c.real("alpha", 1.0)}),
    "Softmax": (_K.Softmax, _nothing),
    "MaxPooling2D": (_K.MaxPooling2D, _pooling),
    "AveragePooling2D": (_K.AveragePooling2D, _pooling),
    "GlobalAveragePooling2D": (_K.GlobalAveragePooling2D, _global_pooling),
    "GlobalMaxPooling2D": (_K.GlobalMaxPooling2D, _global_pooling),
    "Flatten": (_K.Flatten, _flatten),
    "Dropout": (_K.Dropout, _dropout),
    "SpatialDropout2D": (_K.SpatialDropout2D, _dropout),
    "GaussianNoise": (_K.GaussianNoise, lambda c: {"stddev": c.real("stddev", 0.1)}),
    "ZeroPadding2D": (_K.ZeroPadding2D, lambda c: {"padding": c.borders("padding")}),
    "Cropping2D": (_K.Cropping2D, lambda c: {"cropping": c.borders("cropping")}),
    "UpSampling2D": (_K.UpSampling2D, _upsampling),
    "Reshape": (_K.Reshape, _reshape),
    "Rescaling": (_K.Rescaling, _rescaling),
    "Add": (_K.Add, _nothing),
    "Multiply": (_K.Multiply, _nothing),
    "Average": (_K.Average, _nothing),
    "Maximum": (_K.Maximum, _nothing),
    "Concatenate": (_K.Concatenate, _axis),
}
