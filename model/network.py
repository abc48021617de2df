"""Networks by name, and a network's name -> a Keras model up to any of its layers."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from model import alexnet
from pipeline import preprocess

# The new final layer, on whatever layer it is grafted. The name is nobody else's, so
# that no checkpoint's classifier is taken for it.
FINAL_LAYER = "logits"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """An architecture.

    Attributes:
        layers: (num_classes, dtype policy) -> unbuilt layers from input to logits.
        input_spec: of its best-known weights.
        features: layers a new final layer may sit on, from shallow to deep.
    """

    layers: Callable[[int, str], Sequence[Any]]
    input_spec: preprocess.InputSpec
    features: tuple[str, ...]


NETWORKS = {
    "alexnet": Network(
        layers=alexnet.alexnet,
        input_spec=alexnet.ALEXNET_INPUT,
        features=("pool5", "fc6", "fc7"),
    ),
    "alexnet_owt": Network(
        layers=alexnet.alexnet_owt,
        input_spec=alexnet.ALEXNET_OWT_INPUT,
        features=("pool5", "fc6", "fc7"),
    ),
}


def build(
    network: Network,
    spec: preprocess.InputSpec,
    *,
    last: str,
    num_classes: int = 1000,
    dtype: str = "float32",
) -> Any:
    """Builds a network up to one of its layers.

    Args:
        network: one of NETWORKS.
        spec: size and normalisation of the input; built into the model.
        last: name of the layer whose output is the model's.
        num_classes: of fc8, if `last` is so deep.
        dtype: Keras dtype policy; variables are float32 in any case.

    Returns:
        A keras.Model: [batch, size_px, size_px, 3], RGB, 0..255 -> output of `last`.

    Raises:
        ValueError: no layer has that name.
    """
    image = keras.Input((spec.size_px, spec.size_px, 3), name="image", dtype="float32")
    output = normalisation(spec)(image)
    layers = network.layers(num_classes, dtype)
    names = [layer.name for layer in layers]
    if last not in names:
        raise ValueError(f"no layer {last!r}; the network has {', '.join(names)}")
    for layer in layers[: names.index(last) + 1]:
        output = layer(output)
    return keras.Model(image, output)


def normalisation(spec: preprocess.InputSpec) -> Any:
    """The layer x -> (x / scale - mean) / std, in float32 whatever follows."""
    std = np.array(spec.std, np.float64)
    return keras.layers.Rescaling(
        scale=(1 / (spec.scale * std)).tolist(),
        offset=(-np.array(spec.mean) / std).tolist(),
        name="normalize",
        dtype="float32",
    )


def graft(trunk: Any, num_classes: int, *, dropout: float, seed: int) -> Any:
    """Puts a new final layer on a trunk.

    Args:
        trunk: keras.Model with output [batch, ...].
        num_classes: of the new layer.
        dropout: share of the trunk's outputs dropped in training, 0..1.
        seed: of the new layer's initial kernel.

    Returns:
        A keras.Model: the trunk's input -> logits [batch, num_classes], float32.
    """
    output = trunk.output
    for layer in head_layers(
        tuple(trunk.output.shape[1:]), num_classes, dropout=dropout, seed=seed
    ):
        output = layer(output)
    return keras.Model(trunk.input, output)


def head_layers(
    feature_shape: tuple[int, ...], num_classes: int, *, dropout: float, seed: int
) -> list[Any]:
    """The layers grafted onto features of shape [batch, *feature_shape]."""
    layers: list[Any] = []
    if len(feature_shape) > 1:
        layers.append(keras.layers.Flatten(name="head_flatten", dtype="float32"))
    if dropout:
        layers.append(keras.layers.Dropout(dropout, name="head_drop", dtype="float32"))
    layers.append(
        keras.layers.Dense(
            num_classes,
            kernel_initializer=keras.initializers.RandomNormal(0, 0.001, seed=seed),
            name=FINAL_LAYER,
            dtype="float32",
        )
    )
    return layers
