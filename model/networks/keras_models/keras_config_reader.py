"""Read the configuration of a Keras model as steps of a network, each value checked.

Input: a configuration, as JSON values. Output: steps that make built-in layers.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from model.checkpoints import errors
from model.networks import architecture, composite_layers, head
from model.networks.keras_models.keras_layer_arguments import LAYERS, Values

_MAX_LAYERS, _MAX_DEPTH = 2_000, 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# What a run adds to a network, and the layers by which its model is known.
_GRAFTED = {
    *(architecture.NORMALISATION, "head_drop", head.POOL_LAYER, head.FLATTEN_LAYER),
    *(head.HIDDEN_LAYER, head.FINAL_LAYER),
}
IS_OWN = {architecture.INPUT, architecture.NORMALISATION, head.FINAL_LAYER}
_RESERVED = {architecture.INPUT, "features", *_GRAFTED}
_MODELS = ("Sequential", "Functional", "Model")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer to make: a built-in class and its checked arguments."""

    name: str
    kind: Any
    arguments: tuple[tuple[str, Any], ...]

    def make(self, dtype: str) -> Any:
        """Make the Keras layer, unbuilt."""
        return self.kind(**dict(self.arguments), name=self.name, dtype=dtype)

    def changed(self, **arguments: Any) -> "Layer":
        """Return the same layer with other arguments."""
        changed = dict(self.arguments) | arguments
        return Layer(self.name, self.kind, tuple(changed.items()))


@dataclasses.dataclass(frozen=True)
class Graph:
    """Steps that branch and join between one tensor and the next."""

    name: str
    nodes: tuple[tuple[Any, tuple[str, ...]], ...]

    def make(self, dtype: str) -> Any:
        """Make the block, with unbuilt layers."""
        nodes = [(step.make(dtype), inputs) for step, inputs in self.nodes]
        return composite_layers.Graph(self.name, nodes)


@dataclasses.dataclass(frozen=True)
class Nested:
    """A model inside another."""

    name: str
    steps: tuple[Any, ...]

    def make(self, dtype: str) -> Any:
        """Make the block, with unbuilt layers."""
        return composite_layers.Chain(
            self.name, [step.make(dtype) for step in self.steps]
        )


class ConfigReader:
    """Walks a configuration; knows the file, the names so far and the input."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.name = "model"
        self._names: set[str] = set()
        self._input: list[Any] | None = None

    def refuse(self, what: str) -> errors.MismatchedCheckpoint:
        """Return the error for a configuration that cannot be rebuilt."""
        return errors.MismatchedCheckpoint(
            f"{self.where}: its Keras configuration cannot be rebuilt, because it has "
            f"{what}. Its weights can be used by layer name in a network that Graft "
            "knows: pass --arch."
        )

    def input_size(self) -> int:
        """Return the height and width of the input, in pixels."""
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
        """Return the steps of a Sequential or functional model."""
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
        return [Values(layer, self.refuse, "a layer") for layer in layers]

    def _sequential(self, layers: Any, depth: int) -> list[Any]:
        steps: list[Any] = []
        for layer in self._layers(layers):
            if layer.values.get("class_name") in _MODELS:
                steps += self.model(layer, depth + 1)
            elif (step := self._layer(layer)) is not None:
                steps.append(step)
        return steps

    def _layer(self, c: Values) -> Layer | None:
        """Return a layer; None for an input."""
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
        return Layer(name, keras_kind, tuple(arguments(config).items()))

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
                for layer in layers
                if isinstance(name := layer.values.get("name"), str)
            }
            >= IS_OWN
        )
        for layer in layers:
            inner = Values(layer.values.get("config"), self.refuse, "a layer")
            name = layer.values.get("name", inner.values.get("name"))
            if not isinstance(name, str) or name in nodes or name in inputs:
                raise self.refuse(f"a layer named {str(name)[:60]!r}, or two of them")
            if is_own and (name in _GRAFTED or head.is_pooling_layer(name)):
                # The last of the layers that a head sits on is the deepest.
                grafted[name] = self._inbound(layer, name)[-1]
                continue
            if layer.values.get("class_name") in _MODELS:
                if not _NAME.fullmatch(name):
                    raise self.refuse(f"a model named {name[:60]!r}")
                step: Any = Nested(name, tuple(self.model(layer, depth + 1)))
            else:
                step = self._layer(layer)
            if step is None:
                inputs.add(name)
            else:
                nodes[name] = (step, self._inbound(layer, name))
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

    def _inbound(self, layer: Values, name: str) -> tuple[str, ...]:
        """Return the names of the layers whose outputs a layer takes."""
        calls = layer.values.get("inbound_nodes")
        if not isinstance(calls, list) or len(calls) != 1:
            raise self.refuse(f"layer {name[:60]!r}, which is not called exactly once")
        call = calls[0].get("args") if isinstance(calls[0], dict) else calls[0]
        sources = tuple(_histories(call))
        if not 1 <= len(sources) <= 64:
            raise self.refuse(f"layer {name[:60]!r} with {len(sources)} inputs")
        return sources


def _histories(value: Any, depth: int = 0) -> list[str]:
    """Return the layers in a nested list of tensors, as Keras 2 or 3 writes them."""
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
        # The number of the call does not matter, because every layer is called once.
        is_tensor = len(value) >= 3 and type(value[1]) is int and value[2] == 0
        return [value[0]] if is_tensor else []
    return [name for part in value[:100] for name in _histories(part, depth + 1)]


def _in_a_row(
    nodes: Mapping[str, tuple[Any, tuple[str, ...]]],
    start: str,
    end: str,
    reader: ConfigReader,
) -> list[Any]:
    """Cut a graph at each point where only one tensor is still needed."""
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
        if max(last_use[n] for n in (*waiting[:-1], before)) > number:
            continue
        alone = len(waiting) == 1 and nodes[name][1] == (before,)
        if alone:
            steps.append(nodes[name][0])
        else:
            inner = tuple(
                (nodes[n][0], tuple("" if s == before else s for s in nodes[n][1]))
                for n in waiting
            )
            steps.append(Graph(name, inner))
        before, waiting = name, []
    return steps


def _sorted(
    nodes: Mapping[str, tuple[Any, tuple[str, ...]]],
    start: str,
    end: str,
    reader: ConfigReader,
) -> list[str]:
    """Return the layers that the output needs, each after the ones it depends on."""
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
        missing = [n for n in nodes[name][1] if not state.get(n)]
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
