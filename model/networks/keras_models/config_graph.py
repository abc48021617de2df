"""Read the configuration of a Keras model as a list of calls, in order of computation.

The configuration is data from anywhere: names, counts and nesting are checked here, the
arguments of each layer in `config_layers`. Models inside a model are taken apart.

Sources: keras/src/models/sequential.py, functional.py (get_config of Keras 3), and the
configurations that Keras 2 wrote.
"""

import dataclasses
import graphlib
import re
from collections.abc import Mapping
from typing import Any

import keras

from model.checkpoints import errors
from model.networks import architecture, head, layers

_MAX_LAYERS, _MAX_MODELS = 2_000, 100  # the models may be nested
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# What a run adds to a network.
_HEAD = {
    *("head_drop", head.POOL_LAYER, head.FLATTEN_LAYER, head.SCALED_LAYER),
    *(head.HIDDEN_LAYER, head.FINAL_LAYER, head.TEMPERATURE_LAYER),
}
_RESERVED = {architecture.INPUT, architecture.NORMALISATION, *_HEAD, "features"}
RENAMED = "_in_file"  # ends the names of layers whose own name Graft needs
_MODELS = ("Sequential", "Functional", "Model")
_Json = Mapping[str, Any]


class Refused(errors.MismatchedCheckpoint):
    """The configuration has a part that is not rebuilt; the message is what it has."""


@dataclasses.dataclass(frozen=True)
class Output:
    """The output of a layer, as an argument of another; "" is the model's input."""

    layer: str


@dataclasses.dataclass(frozen=True)
class Call:
    """A layer or operation, and what it is called on."""

    name: str
    kind: str  # name of its class
    is_operation: bool  # whether it is one of keras.ops, or of TensorFlow's in Keras 2
    config: _Json
    args: tuple[Any, ...]  # JSON values, with an Output for each tensor
    kwargs: _Json  # the same by name

    @property
    def sources(self) -> list[str]:
        """Layers whose outputs it is called on."""
        return [output.layer for output in _outputs([self.args, self.kwargs])]


@dataclasses.dataclass(frozen=True)
class Graph:
    """A model of one input and one output; each layer is called once."""

    name: str
    input_shape: list[Any]
    calls: tuple[Call, ...]
    output: str  # layer


def read(config: _Json, *, is_run: bool) -> Graph:
    """Read the JSON values of a configuration, or raise Refused.

    Of the model of a run, its head and normalisation are left out.
    """
    reader = _Reader(is_run)
    output = reader.model(config, Output(""))
    if reader.input_shape is None:
        raise Refused("no input of an image, [batch, height, width, channels]")
    if not output.layer:
        raise Refused("no layers")
    calls = tuple(reader.calls.values())
    return Graph(reader.name, reader.input_shape, calls, output.layer)


def _object(value: Any, what: str) -> _Json:
    if not isinstance(value, dict):
        raise Refused(f"{what} that is not a JSON object")
    return value


class _Reader:
    """Walks a configuration and gathers its calls."""

    def __init__(self, is_run: bool) -> None:
        self.is_run = is_run
        self.name = "model"
        self.input_shape: list[Any] | None = None
        self.calls: dict[str, Call] = {}
        self.num_models = 0

    def model(self, model: _Json, source: Output) -> Output:
        """Gather the calls of a model that is called on `source`; return its output."""
        self.num_models += 1
        if self.num_models > _MAX_MODELS:
            raise Refused("too many nested models")
        kind, config = model.get("class_name"), model.get("config")
        if kind == "Sequential" and isinstance(config, list):  # early Keras 2
            config = {"layers": config}
        if kind not in _MODELS:
            raise Refused(f"a model of class {str(kind)[:40]!r}")
        config = _object(config, f"a {kind} model")
        name = config.get("name")
        if self.num_models == 1 and isinstance(name, str) and _NAME.fullmatch(name):
            self.name = name
        parts = config.get("layers")
        if not isinstance(parts, list) or not 1 <= len(parts) <= _MAX_LAYERS:
            raise Refused("no list of layers, or a very long one")
        parts = [_object(part, "a layer") for part in parts]
        if kind == "Sequential":
            for part in parts:
                source = self._call(part, (source,), {})
            return source
        return self._functional(config, parts, source)

    def _functional(self, config: _Json, parts: list[_Json], source: Output) -> Output:
        named = {_name_of(part): part for part in parts}
        if len(named) < len(parts):
            raise Refused("two layers with the same name")
        inputs = [n for n, part in named.items() if part["class_name"] == "InputLayer"]
        if len(inputs) != 1:
            raise Refused(f"{len(inputs)} inputs, expected one")
        last = _outputs(_tensors(config.get("output_layers")))
        if len(last) != 1:
            raise Refused(f"{len(last)} outputs, expected one")
        calls: dict[str, tuple[Any, Any]] = {inputs[0]: ((), {})} | {
            name: self._arguments(part, name)
            for name, part in named.items()
            if name != inputs[0]
        }
        outputs = dict[str, Output]()  # {layer: output of the layer that replaces it}
        removed = set[str]()  # layers of a run's head
        for name in self._in_order(calls, last[0].layer):
            sources = [output.layer for output in _outputs(calls[name])]
            if self.is_run and (_begins_head(name) or removed & {*sources}):
                removed.add(name)
            if name in removed or (self.is_run and name == architecture.NORMALISATION):
                # The last of the layers that a head sits on is the deepest.
                outputs[name] = outputs[sources[-1]]
                continue
            args, kwargs = replaced(calls[name], outputs)
            outputs[name] = self._call(named[name], args or (source,), kwargs)
        return outputs[last[0].layer]

    def _in_order(self, calls: Mapping[str, Any], last: str) -> list[str]:
        """Return the layers that the output needs, each after its sources."""
        needed: dict[str, list[str]] = {}  # {layer: its sources}
        waiting = [last]
        while waiting:
            name = waiting.pop()
            if name not in calls:
                raise Refused(f"a layer that takes its input from {name[:60]!r}")
            if name not in needed:
                needed[name] = [output.layer for output in _outputs(calls[name])]
                waiting += needed[name]
        try:
            return [*graphlib.TopologicalSorter(needed).static_order()]
        except graphlib.CycleError as error:
            raise Refused("a layer that needs its own output") from error

    def _arguments(self, part: _Json, name: str) -> tuple[tuple[Any, ...], _Json]:
        """Return what a layer is called on, with an Output for each tensor."""
        calls = part.get("inbound_nodes")
        if not isinstance(calls, list) or len(calls) != 1:
            raise Refused(f"layer {name[:60]!r}, which is not called exactly once")
        call = calls[0]
        if isinstance(call, dict):  # Keras 3
            args, kwargs = _tensors(call.get("args")), _tensors(call.get("kwargs"))
        else:  # [[layer, number of the call, number of the output, {further}], ...]
            if isinstance(call, list) and call and isinstance(call[0], str):
                call = [call]
            further = [t[3] for t in call if isinstance(t, list) and len(t) > 3]
            tensors = _outputs(_tensors(call))
            args = tensors if len(tensors) == 1 else [tensors]
            kwargs = _tensors(further[0]) if further else {}
        sources = _outputs([args, kwargs])
        if not isinstance(args, list) or not 1 <= len(sources) <= 64:
            raise Refused(f"layer {name[:60]!r} with {len(sources)} inputs")
        return tuple(args), kwargs if isinstance(kwargs, dict) else {}

    def _call(self, part: _Json, args: tuple[Any, ...], kwargs: _Json) -> Output:
        """Gather a layer, or what is inside a model; return its output."""
        kind = part.get("class_name")
        if kind in _MODELS:
            if len(args) != 1 or not isinstance(args[0], Output):
                raise Refused("an inner model of several inputs")
            return self.model(part, args[0])
        config = _object(part.get("config"), f"a {str(kind)[:40]} layer")
        for key in ("batch_shape", "batch_input_shape"):
            if self.input_shape is None and isinstance(config.get(key), list):
                self.input_shape = config[key]
        if kind == "InputLayer":
            return args[0]
        name = _name_of(part)
        if not isinstance(kind, str) or not _NAME.fullmatch(name):
            raise Refused(f"a layer named {name[:60]!r}")
        is_taken = name in _RESERVED or _begins_head(name)
        if layers.group_of(name) or (is_taken and not self.is_run):
            name += RENAMED
        if name in self.calls:
            raise Refused(f"two layers with the name {name!r}")
        if len(self.calls) >= _MAX_LAYERS:
            raise Refused(f"more than {_MAX_LAYERS:,} layers")
        module = part.get("module")
        is_operation = kind.endswith("OpLambda") or (
            isinstance(module, str) and module.startswith("keras.src.ops")
        )
        self.calls[name] = Call(name, kind, is_operation, config, args, kwargs)
        return Output(name)


def _begins_head(name: str) -> bool:
    """Return whether a layer of a run's model, and all above it, belong to its head."""
    return name in _HEAD or head.is_pooling_layer(name)


def _name_of(part: _Json) -> str:
    config = part.get("config")
    inner = config.get("name") if isinstance(config, dict) else None
    return str(part.get("name", inner))


def _tensors(value: Any, depth: int = 0) -> Any:
    """Return JSON values with an Output for each tensor, as Keras 2 or 3 writes it."""
    if depth > 8:
        return None
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            config = value.get("config")
            history = config.get("keras_history") if isinstance(config, dict) else None
            return _tensors(history, depth + 1)
        return {key: _tensors(item, depth + 1) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    is_tensor = len(value) >= 3 and isinstance(value[0], str) and value[2] == 0
    # The number of the call does not matter, because every layer is called once.
    if is_tensor and type(value[1]) is int:
        return Output(value[0])
    return [_tensors(item, depth + 1) for item in value]


def _outputs(value: Any) -> list[Output]:
    """Return the Outputs in nested values."""
    return [item for item in keras.tree.flatten(value) if isinstance(item, Output)]


def replaced(value: Any, outputs: Mapping[str, Any]) -> Any:
    """Return nested values with what `outputs` has for the layer of each Output."""
    return keras.tree.map_structure(
        lambda item: outputs[item.layer] if isinstance(item, Output) else item, value
    )
