"""Weights by layer name -> a file that this and other tools can read.

What the file says of itself, network and preprocessing among it, is read back by
model/weights/layer_names.py; so nothing has to be guessed then.
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

from model.checkpoints import errors, npy
from model.checkpoints.hdf5 import h5, keras_zip
from pipeline.batches.input_spec import InputSpec

# Attribute of an .h5 with what the file says of itself.
MARK = h5.OWN_MARK
# Our variables as caffe-tensorflow names them.
CAFFE_TENSORFLOW = {
    "kernel": "weights",
    "bias": "biases",
    "gamma": "scale",
    "beta": "offset",
    "moving_mean": "mean",
    "moving_variance": "variance",
}


def describe(network_name: str, spec: InputSpec) -> dict[str, str]:
    """What every weight file of ours says of itself."""
    return {
        "network": network_name,
        "input_spec": json.dumps(dataclasses.asdict(spec)),
    }


def write(path: Path, arrays: Mapping[str, np.ndarray], about: dict[str, str]) -> None:
    """Writes weights in the format that the file's name asks for.

    Args:
        path: .safetensors, .h5 or .npy; not there yet, or to be replaced.
        arrays: {"layer/variable": float32 array}, in our layout.
        about: of `describe`, and more.

    Raises:
        errors.UnknownFormat: another ending.
    """
    _writer(path)(path, arrays, about)


def check_ending(path: Path) -> None:
    """Refuses a file name that no format has.

    Raises:
        errors.UnknownFormat: names those there are.
    """
    _writer(path)


def _writer(path: Path) -> "_Writer":
    for ending, writer in WRITERS.items():
        if path.name.endswith(ending):
            return writer
    raise errors.UnknownFormat(
        f"{path}: expected a name that ends in {', '.join(WRITERS)}"
    )


def _write_safetensors(
    path: Path, arrays: Mapping[str, np.ndarray], about: dict[str, str]
) -> None:
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # Its own way to write a file leaves it for nobody else to read.
    path.write_bytes(safetensors.numpy.save(whole, about))


def _write_npy(
    path: Path, arrays: Mapping[str, np.ndarray], about: dict[str, str]
) -> None:
    """A pickled {layer: {"weights": array, "biases": array}}.

    What the file says of itself follows the pickle, where NumPy reads no further: tools
    that go through the dict would take it for a layer.
    """
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        layer, _, variable = name.rpartition("/")
        theirs = CAFFE_TENSORFLOW.get(variable, variable)
        found.setdefault(layer, {})[theirs] = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.save(file, np.array(found, dtype=object))
        file.write(npy.OWN_MARK + json.dumps(about).encode("ascii"))


def _write_h5(
    path: Path, arrays: Mapping[str, np.ndarray], about: dict[str, str]
) -> None:
    """Keras' own layout for weights by layer name.

    Source: keras/src/legacy/saving/legacy_h5_format.py (attributes layer_names and
    weight_names).
    """
    layers: dict[str, list[str]] = {}
    for name in arrays:
        layers.setdefault(name.rpartition("/")[0], []).append(name)
    with h5py.File(path, "w") as file:
        file.attrs[MARK] = json.dumps(about)
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.15.0"
        for layer, names in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                group.create_dataset(f"{name}:0", data=arrays[name])


def mark_keras(path: Path, about: dict[str, str]) -> None:
    """Lets a .keras file that is there say what it is; Keras passes over it."""
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(zipfile.ZipInfo(keras_zip.OWN_NAME), json.dumps(about))


def mark_h5(path: Path, about: dict[str, str]) -> None:
    """Lets an HDF5 file that is there say what it is."""
    with h5py.File(path, "r+") as file:
        file.attrs[MARK] = json.dumps(about)


_Writer = Callable[[Path, Mapping[str, np.ndarray], dict[str, str]], None]
WRITERS: dict[str, _Writer] = {
    ".safetensors": _write_safetensors,
    ".h5": _write_h5,
    ".npy": _write_npy,
}
