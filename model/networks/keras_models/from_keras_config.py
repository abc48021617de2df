"""Rebuild the network that the configuration of a Keras model describes.

The configuration is data: its numbers and names are checked one by one and passed to
built-in layers of an allow-list. Keras deserialises nothing, so no function, class or
initializer of the file ever runs.

Sources: keras/src/models/sequential.py, functional.py (get_config of Keras 3), and the
configurations that Keras 1 and 2 wrote.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from model.checkpoints import errors
from model.networks import architecture, composite_layers, registry
from model.networks.keras_models.keras_config_reader import ConfigReader, Layer
from model.networks.keras_models.keras_layer_arguments import Values
from pipeline.batches.input_spec import InputSpec, as_tuples

_TEXT_LIMIT = 16 << 20
_MAX_PARAMETERS = 1_000_000_000
_MAX_OUTPUT = 1 << 27  # numbers that a layer puts out, of one image
# What Keras raises if layers, shapes and values do not fit.
_DOES_NOT_FIT = (
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(RecursionError, NotImplementedError),
)
_PREFIX = "keras-"  # begins the names of rebuilt networks
_LAST = ("softmax", "sigmoid")  # what turns logits into probabilities


def rebuild(text: str, where: str) -> architecture.Network:
    """Rebuild the network of a configuration.

    Args:
        text: JSON of a Sequential or functional model of Keras 1, 2 or 3.
        where: name of the file, for messages.

    Returns:
        The network; its steps end in logits, whatever the file's last activation is.

    Raises:
        errors.MismatchedCheckpoint: a layer or value is not on the allow-list, or the
            input is not a square RGB image.
        errors.CorruptCheckpoint: the text is not a configuration.
    """
    if len(text) > _TEXT_LIMIT:
        raise errors.CorruptCheckpoint(
            f"{where}: its Keras configuration has {len(text):,} characters. Expected "
            f"at most {_TEXT_LIMIT:,}."
        )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.CorruptCheckpoint(
            f"{where}: its Keras configuration is not JSON ({str(error)[:100]})."
        ) from error
    reader = ConfigReader(where)
    try:
        steps = reader.model(Values(config, reader.refuse, "the model"), depth=0)
        return _as_network(steps, reader)
    except _DOES_NOT_FIT as error:
        why = " ".join(str(error).split())[:200]
        raise reader.refuse(f"parts that do not go together ({why})") from error


def name_of(model_name: str) -> str:
    """Return the name of the network that is rebuilt from a model of that name."""
    return model_name if model_name.startswith(_PREFIX) else _PREFIX + model_name


def read_run_model(text: str) -> tuple[str, InputSpec] | None:
    """Return the network and preprocessing of a model that a run saved, or None.

    The spec is that of the network, changed to what the model's first layer states. It
    serves if the file lost the run's metadata, because Keras has saved the model again.
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


def _as_network(steps: Sequence[Any], reader: "ConfigReader") -> architecture.Network:
    """Find the final layer, the input and the positions of a head."""
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
    # The network may rescale its input itself.
    scale = 1.0 if _rescales(made[: weighted[0] + 1]) else 255.0
    first, last = weighted[0], len(made) - 1 if num_classes else len(made)
    features = [
        step.name
        for step in made[first:last]
        if not isinstance(step, keras.layers.Dropout | keras.layers.GaussianNoise)
    ]
    if not features:
        raise reader.refuse("a model of one layer, on which no head can sit")
    network = architecture.Network(
        name=name_of(reader.name),
        make_steps=layers,
        input_spec=_assumed_spec(size, scale),
        features=tuple(features),
        num_classes=num_classes or 1,
        is_classifier=num_classes > 1,
    )
    _check_shapes(network, reader)
    return network


def _rescales(steps: Sequence[Any]) -> bool:
    layers = composite_layers.layers_of(steps)
    return any(isinstance(layer, keras.layers.Rescaling) for layer in layers)


def _make(
    steps: tuple[Any, ...], own_classes: int, num_classes: int, dtype: str
) -> list[Any]:
    """Make the steps, unbuilt; the last Dense layer has `num_classes` units."""
    if own_classes and num_classes != own_classes:
        steps = (*steps[:-1], steps[-1].changed(units=num_classes))
    return [step.make(dtype) for step in steps]


def _check_shapes(network: architecture.Network, reader: "ConfigReader") -> None:
    """Refuse sizes that do not fit each other, and networks that are too large."""
    size = network.input_spec.size_px
    steps = network.steps()
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
    network.variable_shapes(network.input_spec)


def _is_a(step: Any, kind: Any) -> bool:
    return isinstance(step, Layer) and step.kind is kind


def _is_activation(step: Any) -> bool:
    """Return whether a step only turns logits into probabilities."""
    if _is_a(step, keras.layers.Activation):
        return dict(step.arguments)["activation"] in _LAST
    return _is_a(step, keras.layers.Softmax)
