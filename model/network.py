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
INPUT = "image"


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
    """Builds a network from its input up to one of its layers.

    Args:
        network: one of NETWORKS.
        spec: size and normalisation of the input; built into the model.
        last: name of the layer whose output is the model's; "image" builds none, but
            for the normalisation.
        num_classes: of fc8, if `last` is so deep.
        dtype: Keras dtype policy; variables are float32 in any case.

    Returns:
        A keras.Model: [batch, size_px, size_px, 3], RGB, 0..255 -> output of `last`.

    Raises:
        ValueError: no layer has that name.
    """
    image = keras.Input((spec.size_px, spec.size_px, 3), name=INPUT, dtype="float32")
    output = normalisation(spec)(image)
    for layer in between(network, INPUT, last, num_classes=num_classes, dtype=dtype):
        output = layer(output)
    return keras.Model(image, output)


def between(
    network: Network, after: str, last: str, *, num_classes: int, dtype: str
) -> list[Any]:
    """Unbuilt layers after `after` up to and with `last`.

    Raises:
        ValueError: no layer has such a name, or they are in the wrong order.
    """
    layers = list(network.layers(num_classes, dtype))
    names = [INPUT, *(layer.name for layer in layers)]
    for name in (after, last):
        if name not in names:
            raise ValueError(f"no layer {name!r}; there are {', '.join(names[1:])}")
    if names.index(after) > names.index(last):
        raise ValueError(f"{after} lies above {last}")
    return layers[names.index(after) : names.index(last)]


def normalisation(spec: preprocess.InputSpec) -> Any:
    """The layer x -> (x / scale - mean) / std, in float32 whatever follows."""
    std = np.array(spec.std, np.float64)
    return keras.layers.Rescaling(
        scale=(1 / (spec.scale * std)).tolist(),
        offset=(-np.array(spec.mean) / std).tolist(),
        name="normalize",
        dtype="float32",
    )


def head_layers(num_classes: int, *, dropout: float, seed: int) -> list[Any]:
    """The new final layer and what leads to it: flatten, dropout, dense.

    Args:
        num_classes: of the new layer.
        dropout: share of the features dropped in training, 0..1.
        seed: of the new layer's initial kernel and of dropout.
    """
    layers: list[Any] = [keras.layers.Flatten(name="head_flatten", dtype="float32")]
    if dropout:
        layers.append(
            keras.layers.Dropout(dropout, name="head_drop", seed=seed, dtype="float32")
        )
    kernel = keras.initializers.RandomNormal(0, 0.001, seed=seed)
    layers.append(
        keras.layers.Dense(
            num_classes, kernel_initializer=kernel, name=FINAL_LAYER, dtype="float32"
        )
    )
    return layers


def layer_names(network: Network) -> list[str]:
    """Names of the layers, from input to logits."""
    return [layer.name for layer in network.layers(1000, "float32")]


def variable_shapes(
    network: Network, spec: preprocess.InputSpec, num_classes: int = 1000
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the weights, computed without making them.

    Returns:
        {layer: {"kernel": shape, "bias": shape}} of the layers that have weights.
    """
    shape: tuple[Any, ...] = (None, spec.size_px, spec.size_px, 3)
    shapes = {}
    for layer in network.layers(num_classes, "float32"):
        if isinstance(layer, keras.layers.Conv2D):
            kernel = (*layer.kernel_size, int(shape[-1]), layer.filters)
            shapes[layer.name] = {"kernel": kernel, "bias": (layer.filters,)}
        elif isinstance(layer, keras.layers.Dense):
            kernel = (int(shape[-1]), layer.units)
            shapes[layer.name] = {"kernel": kernel, "bias": (layer.units,)}
        shape = tuple(layer.compute_output_shape(shape))
    return shapes
