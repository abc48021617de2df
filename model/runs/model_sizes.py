"""Check what a run's model.keras takes in memory before Keras allocates it.

Keras unpacks, builds and reads whatever the file asks for.
"""

import json
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import keras
import tensorflow as tf
from keras.src.backend.common import global_state

from model.runs.run_folder import RunError

_FAULTS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RuntimeError, RecursionError, EOFError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, tf.errors.OpError),
)
# Keras compresses nothing, but a user may; texts shrink more than weights.
_MAX_GROWTH, _SMALL_BYTES = 2, 16 << 20
_WAITING = "uninitialized_variables"  # where Keras lists them


def check(path: Path) -> None:
    """Refuse a model whose variables are far larger than its file.

    Raises:
        RunError: The file is damaged, or would take far more memory than its size.
    """
    size = _MAX_GROWTH * path.stat().st_size + _SMALL_BYTES
    try:
        with zipfile.ZipFile(path) as file:
            _expect_at_most(size, sum(info.file_size for info in file.infolist()))
            config = json.loads(file.read("config.json"))
            with file.open("model.weights.h5") as weights:
                _expect_at_most(size, _stored_bytes(weights))
        _expect_at_most(size, _num_parameters(config))
    except _FAULTS as error:
        raise RunError(f"{path}: cannot be read ({error}). Train again.") from error


def _num_parameters(config: Any) -> int:
    """Return how many numbers the variables of a configuration have."""
    waiting = list(global_state.get_global_attribute(_WAITING, []))
    try:
        with keras.StatelessScope(initialize_variables=False):  # allocates nothing
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        return sum(math.prod(variable.shape) for variable in model.variables)
    finally:  # otherwise the end of the next scope would allocate them
        global_state.set_global_attribute(_WAITING, waiting)


def _stored_bytes(file: Any) -> int:
    """Return the bytes of all arrays of an HDF5 file, as its headers have them."""
    sizes: list[int] = []

    def add(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            sizes.append(item.nbytes)

    with h5py.File(file, "r") as opened:
        opened.visititems(add)
    return sum(sizes)


def _expect_at_most(size: int, claimed: int) -> None:
    if claimed > size:
        raise ValueError(f"it asks for {claimed:,} bytes, expected up to {size:,}")
