"""Describe everything that cached features depend on, as the name of their cache."""

import dataclasses
import hashlib
import json
import re
from typing import Any

import keras
import tensorflow as tf

from model.networks import architecture
from model.weights import model_variables
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest

# What a layer's output in use does not depend on in its configuration.
_IMMATERIAL = re.compile(
    "name|trainable|dtype|seed|.*(initializer|regularizer|constraint)"
)


def describe(
    trunk: Any,
    layer: str,
    spec: InputSpec,
    precision: str,
    records: manifest.Manifest,
) -> dict[str, Any]:
    """Return all that a trunk's features depend on, as JSON can hold it.

    `layer` is the name of what the frozen trunk computes. The split of the records does
    not matter.
    """
    weights = sorted(model_variables.digests(trunk.variables).items())
    layers = json.dumps(_layers(trunk), sort_keys=True, default=str)
    return {
        "format": 3,
        "layers": hashlib.sha256(layers.encode()).hexdigest(),
        "weights": hashlib.sha256(json.dumps(weights).encode()).hexdigest(),
        "layer": layer,
        "spec": dataclasses.asdict(spec),
        "precision": precision,
        "records": records.records_digest,
        "tensorflow": tf.__version__,
    }


def _layers(trunk: Any) -> list[Any]:
    """Return the operations without input and normalisation, which `spec` defines."""
    return [
        [
            type(operation).__name__,
            _material(operation.get_config())
            if isinstance(operation, keras.Layer)
            else "",
        ]
        for operation in trunk.operations
        if operation.name != architecture.NORMALISATION
        and not isinstance(operation, keras.layers.InputLayer | keras.layers.Dropout)
    ]


def _material(config: Any) -> Any:
    if isinstance(config, dict):
        names = [name for name in config if not _IMMATERIAL.fullmatch(name)]
        return {name: _material(config[name]) for name in names}
    if isinstance(config, list | tuple):
        return [_material(value) for value in config]
    return config
