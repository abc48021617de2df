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
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from model.checkpoints import errors
from model.networks import architecture, composite_layers, head, registry
from model.networks.keras_layer_arguments import LAYERS, Values
from pipeline.batches.input_spec import InputSpec, as_tuples

_TEXT_LIMIT = 16 << 20
_MAX_LAYERS, _MAX_DEPTH = 2_000, 8
_MAX_PARAMETERS = 1_000_000_000
_MAX_OUTPUT = 1 << 27  # numbers that a layer puts out, of one image
# What Keras raises where layers, shapes and values do not fit.
_DOES_NOT_FIT = (
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(RecursionError, NotImplementedError),
)
_PREFIX = "keras-"  # of the names of networks made here
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# What a run adds to a network, and the layers by which its model is known.
_GRAFTED = {
    *(architecture.NORMALISATION, "head_drop", head.POOL_LAYER, head.FLATTEN_LAYER),
    *(head.HIDDEN_LAYER, head.FINAL_LAYER),
}
_IS_OWN = {architecture.INPUT, architecture.NORMALISATION, head.FINAL_LAYER}
_RESERVED = {architecture.INPUT, "features", *_GRAFTED}
_MODELS = ("Sequential", "Functional", "Model")
_LAST = ("softmax", "sigmoid")  # what turns logits into probabilities


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
        return composite_layers.Graph(self.name, nodes)


@dataclasses.dataclass(frozen=True)
class _Nested:
    """A model inside another."""

    name: str
    steps: tuple[Any, ...]

    def make(self, dtype: str) -> Any:
        """A new block."""
        return composite_layers.Chain(
            self.name, [step.make(dtype) for step in self.steps]
        )


def rebuild(text: str, where: str) -> architecture.Network:
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
    try:
        steps = reader.model(Values(config, reader.refuse, "the model"), depth=0)
        return _as_network(steps, reader)
    except _DOES_NOT_FIT as error:
        why = " ".join(str(error).split())[:200]
        raise reader.refuse(f"parts that do not go together ({why})") from error


def name_of(model_name: str) -> str:
    """What the network is called that is made of a model of that name."""
    return model_name if model_name.startswith(_PREFIX) else _PREFIX + model_name


def own_model(text: str) -> tuple[str, InputSpec] | None:
    """The network and preprocessing of a model that a run saved; None for others.

    The spec is that of the network, with what the model's first layer says; it serves
    where the file lost the run's own words, as when Keras has saved the model again.
    """
    try:
        config = json.loads(text)["config"]
        layers = {layer["name"]: layer["config"] for layer in config["layers"]}
        size = layers[architecture.INPUT]["batch_shape"][1]
        scale = np.array(layers[architecture.NORMALISATION]["scale"], np.float64)
        offset = np.array(layers[architecture.NORMALISATION]["offset"], np.float64)
        name = config["name"]
        spec = (
            registry.NETWORKS[name].input_spec
            if name in registry.NETWORKS
            else _assumed_spec(size, 1.0)
        )
        if name not in registry.NETWORKS and not name.startswith(_PREFIX):
            return None
        std = 1 / np.broadcast_to(scale, 3)
        mean = -offset * std
        return name, dataclasses.replace(
            spec,
            size_px=size,
            short_side_px=round(size * spec.short_side_px / spec.size_px),
            scale=1.0,
            mean=tuple(mean.reshape(-1, 3).mean(axis=0).tolist()),
            mean_image=as_tuples(mean.tolist()) if mean.ndim > 1 else None,
            std=tuple(std.tolist()),
            source="a run's own model; its resizing is assumed",
        )
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return None


def _assumed_spec(size: int, scale: float) -> InputSpec:
    return InputSpec(
        size_px=size,
        short_side_px=size,
        resize="squash",
        scale=scale,
        source="assumed: the file states none; squashed, RGB"
        + ("" if scale == 1 else " / 255"),
    )


def _as_network(steps: Sequence[Any], reader: "_Reader") -> architecture.Network:
    """Finds the final layer, the input and where a head may sit."""
    while steps and _is_activation(steps[-1]):
        steps = steps[:-1]
    num_classes = 0
    if steps and _is_a(steps[-1], keras.layers.Dense):
        arguments = dict(steps[-1].arguments)
        if arguments["activation"] in ("linear", *_LAST):  # no layer of features
            num_classes = arguments["units"]
            steps = [*steps[:-1], steps[-1].changed(activation=None)]
    size = reader.input_size()
    layers = functools.partial(_make, tuple(steps), num_classes)
    made = layers(num_classes, "float32")
    weighted = [
        n for n, step in enumerate(made) if composite_layers.weighted_layers(step)
    ]
    if not weighted:
        raise reader.refuse("a model without weights")
    # The network may do it itself.
    scale = 1.0 if _rescales(made[: weighted[0] + 1]) else 255.0
    first, last = weighted[0], len(made) - 1 if num_classes else len(made)
    features = [
        step.name
        for step in made[first:last]
        if not isinstance(step, keras.layers.Dropout | keras.layers.GaussianNoise)
    ]
    if not features:
        raise reader.refuse("a model of one layer, on which no head can sit")
    found = architecture.Network(
        name=name_of(reader.name),
        make_steps=layers,
        input_spec=_assumed_spec(size, scale),
        features=tuple(features),
        num_classes=num_classes or 1,
        is_classifier=num_classes > 1,
    )
    _check_shapes(found, reader)
    return found


def _rescales(steps: Sequence[Any]) -> bool:
    layers = composite_layers.layers_of(steps)
    return any(isinstance(layer, keras.layers.Rescaling) for layer in layers)


def _make(
    steps: tuple[Any, ...], own_classes: int, num_classes: int, dtype: str
) -> list[Any]:
    """New, unbuilt steps; the last Dense layer with `num_classes`."""
    if own_classes and num_classes != own_classes:
        steps = (*steps[:-1], steps[-1].changed(units=num_classes))
    return [step.make(dtype) for step in steps]


def _check_shapes(found: architecture.Network, reader: "_Reader") -> None:
    """Refuses sizes that do not go together, and networks beyond all measure."""
    size = found.input_spec.size_px
    steps = found.steps()
    total = 0
    for layer, shape in composite_layers.walk(steps, (None, size, size, 3)):
        output = layer.compute_output_shape(shape)
        if (numbers := math.prod(output[1:])) > _MAX_OUTPUT:
            raise reader.refuse(f"layer {layer.name}, of {numbers:,} numbers an image")
        if numbers < 1:
            raise reader.refuse(f"layer {layer.name}, which puts nothing out")
        for weight in composite_layers.weight_shapes(layer, shape).values():
            if min(weight) < 1:
                raise reader.refuse(f"a weight of shape {list(weight)}")
            total += math.prod(weight)
    if total > _MAX_PARAMETERS:
        raise reader.refuse(f"{total:,} parameters")
    found.variable_shapes(found.input_spec)


def _is_a(step: Any, kind: Any) -> bool:
    return isinstance(step, _Layer) and step.kind is kind


def _is_activation(step: Any) -> bool:
    """Whether it only makes probabilities of logits."""
    if _is_a(step, keras.layers.Activation):
        return dict(step.arguments)["activation"] in _LAST
    return _is_a(step, keras.layers.Softmax)


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

    def model(self, c: Values, depth: int) -> list[Any]:
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
            config = Values(inner, self.refuse, "a functional model")
            if depth == 0:
                self._call(config.values.get("name"))
            return self._functional(config, depth)
        raise self.refuse(f"a model of class {str(kind)[:40]!r}")

    def _call(self, name: Any) -> None:
        if isinstance(name, str) and _NAME.fullmatch(name):
            self.name = name

    def _layers(self, layers: Any) -> list[Values]:
        if not isinstance(layers, list) or not 1 <= len(layers) <= _MAX_LAYERS:
            raise self.refuse("no list of layers, or a very long one")
        return [Values(one, self.refuse, "a layer") for one in layers]

    def _sequential(self, layers: Any, depth: int) -> list[Any]:
        steps: list[Any] = []
        for one in self._layers(layers):
            if one.values.get("class_name") in _MODELS:
                steps += self.model(one, depth + 1)
            elif (step := self._layer(one)) is not None:
                steps.append(step)
        return steps

    def _layer(self, c: Values) -> _Layer | None:
        """A layer; None for an input."""
        kind = c.values.get("class_name")
        config = Values(
            c.values.get("config"), self.refuse, f"a {str(kind)[:40]} layer"
        )
        self._look_for_input(config)
        if kind == "InputLayer":
            return None
        name = config.values.get("name", c.values.get("name"))
        if not isinstance(kind, str) or kind not in LAYERS:
            raise self.refuse(f"layer {str(name)[:60]!r} of class {str(kind)[:60]!r}")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise self.refuse(f"a layer named {str(name)[:60]!r}")
        reserved = name in _RESERVED or head.is_pooling_layer(name)
        if name in self._names or reserved or composite_layers.group_of(name):
            raise self.refuse(f"layer name {name!r}, twice or one that Graft needs")
        self._names.add(name)
        if len(self._names) > _MAX_LAYERS:
            raise self.refuse(f"more than {_MAX_LAYERS:,} layers")
        config.what = f"layer {name} ({kind})"
        keras_kind, arguments = LAYERS[kind]
        return _Layer(name, keras_kind, tuple(arguments(config).items()))

    def _look_for_input(self, config: Values) -> None:
        for key in ("batch_shape", "batch_input_shape"):
            shape = config.values.get(key)
            if self._input is None and isinstance(shape, list):
                self._input = shape

    def _functional(self, config: Values, depth: int) -> list[Any]:
        nodes: dict[str, tuple[Any, tuple[str, ...]]] = {}
        inputs: set[str] = set()
        grafted: dict[str, str] = {}
        layers = self._layers(config.values.get("layers"))
        is_own = (
            depth == 0
            and {
                name
                for one in layers
                if isinstance(name := one.values.get("name"), str)
            }
            >= _IS_OWN
        )
        for one in layers:
            inner = Values(one.values.get("config"), self.refuse, "a layer")
            name = one.values.get("name", inner.values.get("name"))
            if not isinstance(name, str) or name in nodes or name in inputs:
                raise self.refuse(f"a layer named {str(name)[:60]!r}, or two of them")
            if is_own and (name in _GRAFTED or head.is_pooling_layer(name)):
                # Of the layers that a head sits on, the last is the deepest.
                grafted[name] = self._inbound(one, name)[-1]
                continue
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
        for _ in grafted:  # each may sit on another
            last = [grafted.get(name, name) for name in last]
            nodes = {
                name: (step, tuple(grafted.get(source, source) for source in sources))
                for name, (step, sources) in nodes.items()
            }
        if len(last) != 1 or last[0] not in nodes:
            raise self.refuse("not exactly one output")
        return _in_a_row(nodes, inputs.pop(), last[0], self)

    def _inbound(self, one: Values, name: str) -> tuple[str, ...]:
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
        # Keras 2 counts a model's own making as its first call; and every layer here
        # is called once, so which call it is needs no look.
        is_tensor = len(value) >= 3 and type(value[1]) is int and value[2] == 0
        return [value[0]] if is_tensor else []
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
