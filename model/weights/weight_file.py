"""Write weights by layer name to a file that Graft and other tools can read.

It also states its network and preprocessing, which `identify_network` reads back.
"""

import dataclasses
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors.numpy

from model.checkpoints import errors, npy, reading
from model.checkpoints.hdf5 import h5
from pipeline.batches.input_spec import InputSpec

Arrays = Mapping[str, np.ndarray]  # "layer/variable" -> float32, in Graft's layout
_Writer = Callable[[Path, Arrays, dict[str, str]], None]
# Graft's variables -> their names in caffe-tensorflow.
CAFFE_TENSORFLOW = {
    "kernel": "weights",
    "bias": "biases",
    "gamma": "scale",
    "beta": "offset",
    "moving_mean": "mean",
    "moving_variance": "variance",
}


def describe(network_name: str, spec: InputSpec) -> dict[str, str]:
    """Return the metadata that every weight file of Graft contains."""
    return {"network": network_name, "input_spec": json.dumps(dataclasses.asdict(spec))}


def write(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Write weights to a file whose name ends in one of WRITERS, with metadata."""
    writer_of(path)(path, arrays, metadata)


def writer_of(path: Path) -> _Writer:
    """Return the writer of a format; refuse a name that ends in none of WRITERS."""
    for ending, writer in WRITERS.items():
        if path.name.endswith(ending):
            return writer
    raise errors.UnknownFormat(
        f"{path}: the name does not show the format. Expected a name that ends in "
        f"{', '.join(WRITERS)}."
    )


def _write_safetensors(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # The library's save_file makes files that only their owner can read.
    path.write_bytes(safetensors.numpy.save(contiguous, metadata))


def _write_npy(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Write a pickled {layer: {"weights": array, "biases": array}}.

    The metadata follow the pickle, where NumPy does not read on: in the dict, other
    tools would take them for a layer.
    """
    layers: dict[str, Any] = {}
    for name, array in arrays.items():
        layer, _, variable = name.rpartition("/")
        other_name = CAFFE_TENSORFLOW.get(variable, variable)
        layers.setdefault(layer, {})[other_name] = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.save(file, np.array(layers, dtype=object))
        file.write(npy.OWN_MARK + json.dumps(metadata).encode("ascii"))


def _write_h5(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Write Keras' own layout for weights by layer name.

    Source: keras/src/legacy/saving/legacy_h5_format.py (attributes layer_names and
    weight_names).
    """
    layers: dict[str, list[str]] = {}
    for name in arrays:
        layers.setdefault(name.rpartition("/")[0], []).append(name)
    with h5py.File(path, "w") as file:
        file.attrs[h5.OWN_MARK] = json.dumps(metadata)
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.15.0"
        for layer, names in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                group.create_dataset(f"{name}:0", data=arrays[name])


def mark_keras(path: Path, metadata: dict[str, str]) -> None:
    """Add metadata to an existing .keras file; Keras ignores them."""
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(zipfile.ZipInfo(reading.OWN_MEMBER), json.dumps(metadata))


def mark_h5(path: Path, metadata: dict[str, str]) -> None:
    """Add metadata to an existing HDF5 file."""
    with h5py.File(path, "r+") as file:
        file.attrs[h5.OWN_MARK] = json.dumps(metadata)


WRITERS: dict[str, _Writer] = {
    ".safetensors": _write_safetensors,
    ".h5": _write_h5,
    ".npy": _write_npy,
}
