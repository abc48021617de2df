"""Check what a run's model.keras takes in memory before Keras allocates it.

Keras unpacks, builds and reads whatever the file asks for.
"""

import json
import math
import zipfile
from typing import Any

import h5py
import keras
from keras.src.backend.common import global_state

# Keras compresses nothing, but a user may; texts shrink more than weights.
_MAX_GROWTH, _SMALL_BYTES = 2, 16 << 20
_WAITING = "uninitialized_variables"  # where Keras lists them


def check(file: zipfile.ZipFile, size_bytes: int) -> None:
    """Raise ValueError if a model asks for far more than its file of `size_bytes`."""
    limit = _MAX_GROWTH * size_bytes + _SMALL_BYTES
    for claim in (_unpacked_bytes, _stored_bytes, _num_parameters):
        if (claimed := claim(file)) > limit:
            raise ValueError(f"it asks for {claimed:,} bytes, expected up to {limit:,}")


def _unpacked_bytes(file: zipfile.ZipFile) -> int:
    return sum(info.file_size for info in file.infolist())


def _stored_bytes(file: zipfile.ZipFile) -> int:
    """Return the bytes of all arrays, as the headers in HDF5 state them."""
    sizes: list[int] = []

    def add(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            sizes.append(item.nbytes)

    with file.open("model.weights.h5") as weights, h5py.File(weights, "r") as opened:
        opened.visititems(add)
    return sum(sizes)


def _num_parameters(file: zipfile.ZipFile) -> int:
    """Return how many numbers the variables of the configuration have."""
    config = json.loads(file.read("config.json"))
    waiting = list(global_state.get_global_attribute(_WAITING, []))
    try:
        with keras.StatelessScope(initialize_variables=False):  # allocates nothing
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        return sum(math.prod(variable.shape) for variable in model.variables)
    finally:  # otherwise the end of the next scope would allocate them
        global_state.set_global_attribute(_WAITING, waiting)
