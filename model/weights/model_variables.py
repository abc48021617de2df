"""Read, write and compare the variables of a Keras model by name."""

import collections
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from model.networks import composite_layers

# End of the names of variables that hold a random state instead of a weight.
RANDOM_STATE = "seed_generator_state"


def assign(model: Any, values: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Assign {layer: {variable: array}} to a model's layers, if it has them.

    Each group of a grouped convolution gets its part.
    """
    for layer in model.layers:
        if not layer.weights:
            continue  # such as the one that joins groups, which has their name
        group = composite_layers.group_of(layer.name)
        arrays = values.get(layer.name) or values.get(group[0] if group else "", {})
        for name, array in arrays.items():
            variable = getattr(layer, name)
            if group and layer.name not in values:
                size = variable.shape[-1]
                array = array[..., group[1] * size : (group[1] + 1) * size]
            variable.assign(array)


def by_name(model: Any) -> dict[str, list[Any]]:
    """Return {"layer/variable": its Keras variables}: one, or one for each group."""
    variables: dict[str, list[Any]] = collections.defaultdict(list)
    for layer in model.layers:
        group = composite_layers.group_of(layer.name)
        name = group[0] if group else layer.name
        for variable in layer.weights:
            if variable.name != RANDOM_STATE:
                variables[f"{name}/{variable.name}"].append(variable)
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
        "/".join(variable.path.split("/")[-2:]): variable
        for variable in model.trainable_variables
    }


def digests(variables: Iterable[Any]) -> dict[str, str]:
    """Return {variable: SHA-256 of its bytes}, to prove what training did not change.

    Random states are left out: dropout has one, and a different one in every model.
    """
    return {
        variable.path: hashlib.sha256(variable.numpy().tobytes()).hexdigest()
        for variable in variables
        if not variable.path.endswith(RANDOM_STATE)
    }
