"""A Keras model's configuration -> one of our networks, rebuilt by hand.

The configuration is data: its numbers and names are checked one by one and given to
built-in layers of an allow-list. Nothing is deserialised by Keras, so no function, no
class and no initializer of the file ever runs.

Sources: keras/src/models/sequential.py, functional.py (get_config of Keras 3), and the
configurations that Keras 1 and 2 wrote.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from model import blocks, network
from model.checkpoints import errors
from pipeline import preprocess

_TEXT_LIMIT = 16 << 20
_MAX_LAYERS, _MAX_DEPTH = 2_000, 8
_MAX_SIZE = 1 << 16  # filters, units, pixels
_MAX_PARAMETERS = 1_000_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_RESERVED = {"image", "normalize", "features", network.FINAL_LAYER}
_RESERVED |= {"head_flatten", "head_drop"}
_MODELS = ("Sequential", "Functional", "Model")
_ACTIVATIONS = {
    *("linear", "relu", "relu6", "elu", "selu", "gelu", "tanh", "sigmoid"),
    *("hard_sigmoid", "softmax", "softplus", "softsign", "swish", "silu"),
}
_LAST = ("softmax", "sigmoid")  # what turns logits into probabilities
# Values of dtype, initializers and so on are of no use here and never looked at.


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer to be: a built-in class and its checked arguments."""

    name: str
    kind: Any
    arguments: tuple[tuple[str, Any], ...]

    def make(self, dtype: str) -> Any:
        """A new, unbuilt Keras layer."""
        return self.kind(**dict(self.arguments), name=self.name, dtype=dtype)

    def changed(self, **how: Any) -> "_Layer":
        """With other arguments."""
        return _Layer(self.name, self.kind, tuple((dict(self.arguments) | how).items()))


@dataclasses.dataclass(frozen=True)
class _Graph:
    """Steps that branch and join between one tensor and the next."""

    name: str
    nodes: tuple[tuple[Any, tuple[str, ...]], ...]

    def make(self, dtype: str) -> Any:
        """A new block."""
        nodes = [(step.make(dtype), inputs) for step, inputs in self.nodes]
        return blocks.Graph(self.name, nodes)


@dataclasses.dataclass(frozen=True)
class _Nested:
    """A model inside another."""

    name: str
    steps: tuple[Any, ...]

    def make(self, dtype: str) -> Any:
        """A new block."""
        return blocks.Chain(self.name, [step.make(dtype) for step in self.steps])


def rebuild(text: str, where: str) -> network.Network:
    """Makes a network of a configuration.

    Args:
        text: JSON, of a Sequential or functional model of Keras 1, 2 or 3.
        where: the file, for errors.

    Returns:
        The network; its `layers` ends in logits, whatever the file's last activation.

    Raises:
        errors.MismatchedCheckpoint: a layer or a value that is not on the allow-list,
            or an input that is no square RGB image.
        errors.CorruptCheckpoint: not a configuration.
    """
    if len(text) > _TEXT_LIMIT:
        raise errors.CorruptCheckpoint(
            f"{where}: a configuration of {len(text):,} characters"
        )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.CorruptCheckpoint(
            f"{where}: its configuration is no JSON ({str(error)[:100]})"
        ) from error
    reader = _Reader(where)
    steps = reader.model(_Values(config, reader, "the model"), depth=0)
    return _as_network(steps, reader)


def own_model(text: str) -> tuple[str, preprocess.InputSpec] | None:
    """The network and preprocessing of a model that a run saved; None for others.

    The spec is that of the network, with what the model's first layer says.
    """
    try:
        config = json.loads(text)["config"]
        layers = {layer["name"]: layer["config"] for layer in config["layers"]}
        chosen = network.NETWORKS[config["name"]]
        size = layers[network.INPUT]["batch_shape"][1]
        scale = [float(value) for value in layers["normalize"]["scale"]]
        offset = [float(value) for value in layers["normalize"]["offset"]]
        spec = chosen.input_spec
        short_side = round(size * spec.short_side_px / spec.size_px)
        std: Any = tuple(1 / value for value in scale)
        mean: Any = tuple(-a * b for a, b in zip(offset, std, strict=True))
        return chosen.name, dataclasses.replace(
            spec,
            size_px=size,
            short_side_px=short_side,
            scale=1.0,
            mean=mean,
            std=std,
            source="a run's own model; its resizing is assumed",
        )
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return None


def _as_network(steps: Sequence[Any], reader: "_Reader") -> network.Network:
    """Finds the final layer, the input and where a head may sit."""
    while steps and _is_activation(steps[-1]):
        steps = steps[:-1]
    if steps and _is_a(steps[-1], keras.layers.Dense):
        steps = [*steps[:-1], steps[-1].changed(activation=None)]
        num_classes = dict(steps[-1].arguments)["units"]
    else:
        num_classes = 0
    size = reader.input_size()
    scale = 255.0
    if steps and _is_a(steps[0], keras.layers.Rescaling):
        scale = 1.0  # the network does it itself
    layers = functools.partial(_make, tuple(steps), num_classes)
    try:
        made = layers(num_classes, "float32")
    except (ValueError, TypeError) as error:
        raise reader.refuse(
            f"a layer that Keras does not make ({str(error)[:200]})"
        ) from error
    weighted = [n for n, step in enumerate(made) if network.weighted_layers(step)]
    if not weighted:
        raise reader.refuse("a model without weights")
    first, last = weighted[0], len(made) - 1 if num_classes else len(made)
    features = [
        step.name
        for step in made[first:last]
        if not isinstance(step, keras.layers.Dropout | keras.layers.GaussianNoise)
    ]
    if not features:
        raise reader.refuse("a model of one layer, on which no head can sit")
    found = network.Network(
        name=f"keras-{reader.name}",
        layers=layers,
        input_spec=preprocess.InputSpec(
            size_px=size,
            short_side_px=size,
            resize="squash",
            scale=scale,
            source="assumed: the file states none; squashed, RGB"
            + ("" if scale == 1 else " / 255"),
        ),
        features=tuple(features),
        num_classes=num_classes or 1,
    )
    _check_shapes(found, reader)
    return found


def _make(
    steps: tuple[Any, ...], own_classes: int, num_classes: int, dtype: str
) -> list[Any]:
    """New, unbuilt steps; the last Dense layer with `num_classes`."""
    if own_classes and num_classes != own_classes:
        steps = (*steps[:-1], steps[-1].changed(units=num_classes))
    return [step.make(dtype) for step in steps]


def _check_shapes(found: network.Network, reader: "_Reader") -> None:
    """Refuses sizes that do not go together, and networks beyond all measure."""
    try:
        shapes = network.variable_shapes(found, found.input_spec)
        network.output_shape(found, found.input_spec, found.features[-1])
    except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        raise reader.refuse(
            f"layers whose sizes do not go together ({str(error)[:200]})"
        ) from error
    total = 0
    for variables in shapes.values():
        for shape in variables.values():
            size = 1
            for side in shape:
                if not isinstance(side, int) or side < 1:
                    raise reader.refuse(f"a weight of shape {list(shape)}")
                size *= side
            total += size
    if total > _MAX_PARAMETERS:
        raise reader.refuse(f"{total:,} parameters")


def _is_a(step: Any, kind: Any) -> bool:
    return isinstance(step, _Layer) and step.kind is kind


def _is_activation(step: Any) -> bool:
    """Whether it only makes probabilities of logits."""
    if _is_a(step, keras.layers.Activation):
        return dict(step.arguments)["activation"] in _LAST
    return _is_a(step, keras.layers.Softmax)


class _Values:
    """A JSON object whose values are taken one by one, each checked."""

    def __init__(self, values: Any, reader: "_Reader", what: str) -> None:
        if not isinstance(values, dict):
            raise reader.refuse(f"{what} that is no JSON object")
        self.values: dict[str, Any] = values
        self.reader = reader
        self.what = what

    def wrong(self, name: str) -> errors.MismatchedCheckpoint:
        shown = json.dumps(self.values.get(name))[:60]
        return self.reader.refuse(f"{self.what} with {name} = {shown}")

    def whole(self, name: str, default: int | None = None, low: int = 1) -> int:
        """A number from `low` on."""
        value = self.values.get(name, default)
        if type(value) is not int or not low <= value <= _MAX_SIZE:
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
            or not all(type(one) is int and low <= one <= _MAX_SIZE for one in value)
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
        pairs = [[one, one] if type(one) is int else one for one in value]
        for one in pairs:
            if (
                not isinstance(one, list)
                or len(one) != 2
                or not all(type(side) is int and 0 <= side <= 1024 for side in one)
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


def _conv2d(c: _Values) -> dict[str, Any]:
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


def _depthwise(c: _Values) -> dict[str, Any]:
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


def _separable(c: _Values) -> dict[str, Any]:
    return {"filters": c.whole("filters"), **_depthwise(c)}


def _dense(c: _Values) -> dict[str, Any]:
    old = "output_dim" in c.values  # Keras 1
    return {
        "units": c.whole("output_dim" if old else "units"),
        "activation": c.activation(),
        "use_bias": c.flag("bias" if old else "use_bias", default=True),
    }


def _batch_norm(c: _Values) -> dict[str, Any]:
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


def _pooling(c: _Values) -> dict[str, Any]:
    c.channels_last()
    size = c.pair("pool_size", 2)
    strides = c.values.get("strides")
    padding = "border_mode" if "border_mode" in c.values else "padding"
    return {
        "pool_size": size,
        "strides": size if strides is None else c.pair("strides", None),
        "padding": c.choice(padding, ("valid", "same"), "valid"),
    }


def _global_pooling(c: _Values) -> dict[str, Any]:
    c.channels_last()
    return {"keepdims": c.flag("keepdims", default=False)}


def _dropout(c: _Values) -> dict[str, Any]:
    rate = c.real("p" if "p" in c.values else "rate", 0.5)
    if rate is None or not 0 <= rate < 1:
        raise c.wrong("rate")
    return {"rate": rate}


def _relu(c: _Values) -> dict[str, Any]:
    return {
        "max_value": c.real("max_value", None),
        "negative_slope": c.real("negative_slope", 0.0),
        "threshold": c.real("threshold", 0.0),
    }


def _leaky_relu(c: _Values) -> dict[str, Any]:
    name = "alpha" if "alpha" in c.values else "negative_slope"
    return {"negative_slope": c.real(name, 0.3)}


def _upsampling(c: _Values) -> dict[str, Any]:
    c.channels_last()
    size = c.pair("size", 2)
    if max(size) > 64:
        raise c.wrong("size")
    kinds = ("nearest", "bilinear")
    return {"size": size, "interpolation": c.choice("interpolation", kinds, "nearest")}


def _reshape(c: _Values) -> dict[str, Any]:
    shape = c.values.get("target_shape")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 4
        or not all(type(n) is int and (n == -1 or 1 <= n <= _MAX_SIZE) for n in shape)
    ):
        raise c.wrong("target_shape")
    return {"target_shape": tuple(shape)}


def _rescaling(c: _Values) -> dict[str, Any]:
    return {"scale": c.real("scale", 1.0), "offset": c.real("offset", 0.0)}


def _axis(c: _Values) -> dict[str, Any]:
    if c.values.get("axis", -1) not in (-1, 3):
        raise c.wrong("axis")
    return {"axis": -1}


def _flatten(c: _Values) -> dict[str, Any]:
    c.channels_last()
    return {}


def _nothing(_: _Values) -> dict[str, Any]:
    return {}


_K = keras.layers
# The allow-list: class -> (Keras layer, what is taken of its configuration).
_LAYERS: Mapping[str, tuple[Any, Callable[[_Values], dict[str, Any]]]] = {
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


class _Reader:
    """Walks a configuration; knows the file, the names so far and the input."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.name = "model"
        self._names: set[str] = set()
        self._input: list[Any] | None = None

    def refuse(self, what: str) -> errors.MismatchedCheckpoint:
        """The error for what is not rebuilt."""
        return errors.MismatchedCheckpoint(
            f"{self.where}: its Keras configuration is not rebuilt, for it has {what}; "
            "its weights can be used by layer name in a network of --arch"
        )

    def input_size(self) -> int:
        """Height and width of the input, in pixels."""
        shape = self._input
        if shape is None or len(shape) != 4:
            raise self.refuse("no input of an image, [batch, height, width, 3]")
        height, width, channels = shape[1:]
        if channels != 3:
            raise self.refuse(f"an input of {channels} channels, expected 3 (RGB)")
        if height is None and width is None:
            return 224
        if type(height) is not int or height != width or not 1 <= height <= 4096:
            raise self.refuse(f"an input of {height} x {width} pixels, no square")
        return height

    def model(self, c: _Values, depth: int) -> list[Any]:
        """Steps of a Sequential or functional model."""
        if depth > _MAX_DEPTH:
            raise self.refuse("models nested too deep")
        kind = c.values.get("class_name")
        inner = c.values.get("config")
        if kind == "Sequential":
            layers = inner.get("layers") if isinstance(inner, dict) else inner
            if depth == 0 and isinstance(inner, dict):
                self._call(inner.get("name"))
            return self._sequential(layers, depth)
        if kind in ("Functional", "Model"):
            config = _Values(inner, self, "a functional model")
            if depth == 0:
                self._call(config.values.get("name"))
            return self._functional(config, depth)
        raise self.refuse(f"a model of class {str(kind)[:40]!r}")

    def _call(self, name: Any) -> None:
        if isinstance(name, str) and _NAME.fullmatch(name):
            self.name = name

    def _layers(self, layers: Any) -> list[_Values]:
        if not isinstance(layers, list) or not 1 <= len(layers) <= _MAX_LAYERS:
            raise self.refuse("no list of layers, or a very long one")
        return [_Values(one, self, "a layer") for one in layers]

    def _sequential(self, layers: Any, depth: int) -> list[Any]:
        steps: list[Any] = []
        for one in self._layers(layers):
            if one.values.get("class_name") in _MODELS:
                steps += self.model(one, depth + 1)
            elif (step := self._layer(one)) is not None:
                steps.append(step)
        return steps

    def _layer(self, c: _Values) -> _Layer | None:
        """A layer; None for an input."""
        kind = c.values.get("class_name")
        config = _Values(c.values.get("config"), self, f"a {str(kind)[:40]} layer")
        self._look_for_input(config)
        if kind == "InputLayer":
            return None
        name = config.values.get("name", c.values.get("name"))
        if not isinstance(kind, str) or kind not in _LAYERS:
            raise self.refuse(f"layer {str(name)[:60]!r} of class {str(kind)[:60]!r}")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise self.refuse(f"a layer named {str(name)[:60]!r}")
        if name in self._names or name in _RESERVED or blocks.group_of(name):
            raise self.refuse(f"layer name {name!r}, twice or one that Graft needs")
        self._names.add(name)
        if len(self._names) > _MAX_LAYERS:
            raise self.refuse(f"more than {_MAX_LAYERS:,} layers")
        config.what = f"layer {name} ({kind})"
        keras_kind, arguments = _LAYERS[kind]
        return _Layer(name, keras_kind, tuple(arguments(config).items()))

    def _look_for_input(self, config: _Values) -> None:
        for key in ("batch_shape", "batch_input_shape"):
            shape = config.values.get(key)
            if self._input is None and isinstance(shape, list):
                self._input = shape

    def _functional(self, config: _Values, depth: int) -> list[Any]:
        nodes: dict[str, tuple[Any, tuple[str, ...]]] = {}
        inputs: set[str] = set()
        for one in self._layers(config.values.get("layers")):
            inner = _Values(one.values.get("config"), self, "a layer")
            name = one.values.get("name", inner.values.get("name"))
            if not isinstance(name, str) or name in nodes or name in inputs:
                raise self.refuse(f"a layer named {str(name)[:60]!r}, or two of them")
            if one.values.get("class_name") in _MODELS:
                if not _NAME.fullmatch(name):
                    raise self.refuse(f"a model named {name[:60]!r}")
                step: Any = _Nested(name, tuple(self.model(one, depth + 1)))
            else:
                step = self._layer(one)
            if step is None:
                inputs.add(name)
            else:
                nodes[name] = (step, self._inbound(one, name))
        if len(inputs) != 1:
            raise self.refuse(f"{len(inputs)} inputs, expected one")
        last = _histories(config.values.get("output_layers"))
        if len(last) != 1 or last[0] not in nodes:
            raise self.refuse("not exactly one output")
        return _in_a_row(nodes, inputs.pop(), last[0], self)

    def _inbound(self, one: _Values, name: str) -> tuple[str, ...]:
        """Names of the layers that a layer takes its inputs from."""
        calls = one.values.get("inbound_nodes")
        if not isinstance(calls, list) or len(calls) != 1:
            raise self.refuse(f"layer {name[:60]!r}, which is not called exactly once")
        call = calls[0].get("args") if isinstance(calls[0], dict) else calls[0]
        found = tuple(_histories(call))
        if not 1 <= len(found) <= 64:
            raise self.refuse(f"layer {name[:60]!r} with {len(found)} inputs")
        return found


def _histories(value: Any, depth: int = 0) -> list[str]:
    """Names of the layers in a nested list of tensors, as Keras 2 or 3 writes them."""
    if depth > 8:
        return []
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            config = value.get("config")
            history = config.get("keras_history") if isinstance(config, dict) else None
            return _histories(history, depth + 1)
        return []
    if not isinstance(value, list) or not value:
        return []
    if isinstance(value[0], str):
        first = len(value) >= 3 and value[1:3] == [0, 0]
        return [value[0]] if first else []
    return [name for one in value[:100] for name in _histories(one, depth + 1)]


def _in_a_row(
    nodes: Mapping[str, tuple[Any, tuple[str, ...]]],
    start: str,
    end: str,
    reader: _Reader,
) -> list[Any]:
    """Cuts a graph where one tensor alone is alive."""
    order = _sorted(nodes, start, end, reader)
    place = {name: number for number, name in enumerate(order)}
    last_use = dict.fromkeys(order, -1) | {start: -1}
    for name in order:
        for source in nodes[name][1]:
            last_use[source] = max(last_use[source], place[name])
    steps: list[Any] = []
    before, waiting = start, list[str]()
    for number, name in enumerate(order):
        waiting.append(name)
        if max(last_use[one] for one in (*waiting[:-1], before)) > number:
            continue
        alone = len(waiting) == 1 and nodes[name][1] == (before,)
        if alone:
            steps.append(nodes[name][0])
        else:
            inner = tuple(
                (nodes[one][0], tuple("" if s == before else s for s in nodes[one][1]))
                for one in waiting
            )
            steps.append(_Graph(name, inner))
        before, waiting = name, []
    return steps


def _sorted(
    nodes: Mapping[str, tuple[Any, tuple[str, ...]]],
    start: str,
    end: str,
    reader: _Reader,
) -> list[str]:
    """The layers that the output needs, each after those it takes its inputs from."""
    order: list[str] = []
    state: dict[str, bool] = {start: True}  # True: done, False: under way
    stack = [end]
    while stack:
        name = stack[-1]
        if state.get(name):
            stack.pop()
            continue
        if name not in nodes:
            raise reader.refuse(f"a layer that takes its input from {name[:60]!r}")
        missing = [one for one in nodes[name][1] if not state.get(one)]
        if not missing:
            state[name] = True
            order.append(name)
            stack.pop()
        elif name in state:
            raise reader.refuse(f"layer {name!r}, which needs its own output")
        else:
            state[name] = False
            stack += missing
    return order
