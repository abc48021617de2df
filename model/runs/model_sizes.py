"""Check what a run's model.keras takes in memory before Keras allocates it.

Keras unpacks, builds and reads whatever the file asks for.
"""

import json
import math
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import keras
from keras.src.backend.common import global_state

# Keras compresses nothing, but a user may; texts shrink more than weights.
_MAX_GROWTH, _SMALL_BYTES = 2, 16 << 20
# A layer's output has at most so many numbers for each of the photo's. VGG16's largest
# has 21, a convolution of 256 channels on all pixels 85.
_MAX_WIDENING, _SMALL_OUTPUT = 256, 4 << 20
_FLOAT_BYTES = 4
_WAITING = "uninitialized_variables"  # where Keras lists them


def check(file: zipfile.ZipFile, size_bytes: int) -> None:
    """Raise ValueError if a model asks for far more than its file of `size_bytes`.

    Its layers may not make far more of a photo either.
    """
    limit = _MAX_GROWTH * size_bytes + _SMALL_BYTES
    for claim in (_unpacked_bytes, _stored_bytes):
        _compare(claim(file), limit)
    waiting = list(global_state.get_global_attribute(_WAITING, []))
    try:
        with keras.StatelessScope(initialize_variables=False):  # allocates nothing
            config = json.loads(file.read("config.json"))
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        _compare(sum(math.prod(variable.shape) for variable in model.variables), limit)
        widest = _MAX_WIDENING * math.prod(model.input_shape[1:]) + _SMALL_OUTPUT
        for size in _output_sizes(model):
            _compare(size * _FLOAT_BYTES, widest * _FLOAT_BYTES)
    finally:  # otherwise the end of the next scope would allocate them
        global_state.set_global_attribute(_WAITING, waiting)


def _compare(claimed: int, limit: int) -> None:
    if claimed > limit:
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


def _output_sizes(model: Any) -> Iterator[int]:
    """Yield how many numbers each operation makes of a photo, in models within too."""
    for operation in getattr(model, "operations", ()):
        yield from _output_sizes(operation)
        for node in operation._inbound_nodes:
            for tensor in node.outputs:
                yield math.prod(size or 1 for size in tensor.shape[1:])
