"""Read, write and compare the variables of a Keras model by name."""

import collections
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from model.networks import layers
from model.networks.pytorch_models import dinov2


def assign(model: Any, values: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Assign {layer: {variable: array}} to a model's layers, if it has them.

    Each group of a grouped convolution gets its part, and position embeddings are
    resized to the model's number of patches.
    """
    for layer in model.layers:
        variables = layers.weights(layer)
        if not variables:
            continue  # such as the one that joins groups, which has their name
        group = layers.group_of(layer.name)
        arrays = values.get(layer.name) or values.get(group[0] if group else "", {})
        for name, array in arrays.items():
            variable = variables[name]
            if group and layer.name not in values:
                size = variable.shape[-1]
                array = array[..., group[1] * size : (group[1] + 1) * size]
            if layer.name == dinov2.POSITIONS:
                array = dinov2.resize_positions(array, variable.shape[0])
            variable.assign(array)


def by_name(model: Any) -> dict[str, list[Any]]:
    """Return {"layer/variable": its Keras variables}: one, or one for each group."""
    variables: dict[str, list[Any]] = collections.defaultdict(list)
    for layer in model.layers:
        name = layers.whole_name(layer.name)
        for path, variable in layers.weights(layer).items():
            variables[f"{name}/{path}"].append(variable)
    return dict(variables)


def gather(model: Any) -> dict[str, np.ndarray]:
    """Return {"layer/variable": array} of a model's weights, groups joined."""
    return {
        name: np.concatenate([v.numpy() for v in variables], axis=-1)
        for name, variables in by_name(model).items()
    }


def trainable(model: Any) -> dict[str, Any]:
    """Return {"layer/variable": variable} of what trains, also in nested models."""
    return {
        "/".join(layers.path_of(variable).split("/")[-2:]): variable
        for variable in model.trainable_variables
    }


def digests(variables: Iterable[Any]) -> dict[str, str]:
    """Return {variable: SHA-256 of its bytes}, to prove what training did not change.

    Random states are left out: dropout has one, and a different one in every model.
    """
    return {
        variable.path: hashlib.sha256(variable.numpy().tobytes()).hexdigest()
        for variable in variables
        if not variable.path.endswith(layers.RANDOM_STATE)
    }
