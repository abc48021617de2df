"""Describe everything that cached features depend on: network, layer and photo."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.networks import architecture
from model.weights import model_variables
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest
from pipeline.records.manifest_row import Row

# What a layer's output in use does not depend on in its configuration.
_IMMATERIAL = re.compile(
    "name|trainable|dtype|seed|.*(initializer|regularizer|constraint)"
)

# Tools whose versions decide the pixels of a photo that is not copied.
_PIXEL_TOOLS = ("decoder", "opencv", "pillow", "pi_heif")


def describe(trunk: Any, layer: str, spec: InputSpec, precision: str) -> dict[str, Any]:
    """Return all that a trunk's features of a photo depend on, as JSON can hold it.

    `layer` is the name of what the frozen trunk computes.
    """
    weights = sorted(model_variables.digests(trunk.variables).items())
    layers = json.dumps(_layers(trunk), sort_keys=True, default=str)
    return {
        "format": 4,
        "layers": hashlib.sha256(layers.encode()).hexdigest(),
        "weights": hashlib.sha256(json.dumps(weights).encode()).hexdigest(),
        "layer": layer,
        "spec": dataclasses.asdict(spec),
        "precision": precision,
        "tensorflow": tf.__version__,
    }


def of_photos(records: manifest.Manifest, rows: Sequence[Row]) -> np.ndarray:
    """Return a key of each photo's stored pixels, 16 bytes each, "S16" [num_rows].

    A copied photo is the source, whose SHA-256 is known. Of others, all that decides
    their pixels is in the key, without class, path and place of the record.
    """
    info = records.info
    tools = [info.versions.get(name) for name in _PIXEL_TOOLS]
    settings = [info.settings.get(name, 0) for name in ("resize_min", "white_level")]
    conversion = json.dumps([tools, settings])

    def describe(row: Row) -> str:
        if row.action == "copied":
            return row.sha256
        # Nearly the size of the encoded image, which differs where encoders differ.
        names_bytes = len(os.fsencode(row.path + row.class_name))
        size = row.format, row.height, row.width, row.length - names_bytes
        return f"{row.sha256} {size} {conversion}"

    digests = (hashlib.blake2b(describe(r).encode(), digest_size=16) for r in rows)
    return np.frombuffer(b"".join(d.digest() for d in digests), "S16")


def uniform_numbers(keys: np.ndarray, seed: int) -> np.ndarray:
    """Return three numbers below 1 for each photo, decided by its key and the seed."""
    salt = seed.to_bytes(8, "little")
    digests = (hashlib.blake2b(k, digest_size=24, salt=salt).digest() for k in keys)
    numbers = np.frombuffer(b"".join(digests), "<u8").reshape(len(keys), 3)
    return (numbers >> 11) * 2.0**-53


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
