"""Load model.keras of a run, after a check of the memory that it needs.

Keras unpacks, builds and reads whatever the file asks for.
"""

import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
from keras.src.backend.common import global_state

from model.runs import run_folder
from model.runs.run_folder import RunError
from pipeline.system import command_line

# What Keras, HDF5 and zipfile raise on a damaged model.
_FAULTS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RuntimeError, EOFError, zipfile.BadZipFile, zlib.error),
    ImportError,  # of a layer that belongs to another backend of Keras
)
# Keras compresses nothing, but a user may; texts shrink more than weights.
_MAX_GROWTH, _SMALL_BYTES = 2, 16 << 20
# A layer's output has at most so many numbers for each of the photo's. VGG16's largest
# has 21, a convolution of 256 channels on all pixels 85.
_MAX_WIDENING, _SMALL_OUTPUT = 256, 4 << 20
_FLOAT_BYTES = 4
_WAITING = "uninitialized_variables"  # where Keras lists them


def load(path: Path, *, size_px: int, num_classes: int, identity: str) -> Any:
    """Load a model of square images that returns logits; RunError if it is damaged.

    `identity` is that of the run to which it has to belong.
    """
    # Keras reports a damaged archive as a missing file.
    with path.open("rb") as opened:
        if not zipfile.is_zipfile(opened):
            raise RunError(f"{path}: cut off, or not a Keras model. Train again.")
    expected = (None, size_px, size_px, 3), (None, num_classes)
    try:
        with zipfile.ZipFile(path) as file:
            found_identity = file.comment.decode()
            _check_sizes(file, path.stat().st_size)
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        fits = (model.input_shape, model.output_shape) == expected
    except _FAULTS as error:
        raise RunError(f"{path}: cannot be read ({error}). Train again.") from error
    if not found_identity:
        command_line.log(
            f"note: {path}: was saved by Graft's first version, which did not "
            "record whose model it is. It may be another run's"
        )
    if not fits or found_identity not in ("", identity):
        raise RunError(
            f"{path}: does not belong to this run's {run_folder.CONFIG_NAME}. One "
            "of them was edited, or is another run's. Put back the files of this "
            "run, or train again."
        )
    return model


def _check_sizes(file: zipfile.ZipFile, size_bytes: int) -> None:
    """Raise ValueError if a model needs far more memory than its file of `size_bytes`.

    Nor may its layers' outputs for a photo be far larger than the photo.
    """
    limit = _MAX_GROWTH * size_bytes + _SMALL_BYTES
    _compare(sum(info.file_size for info in file.infolist()), limit)
    _compare(_stored_bytes(file), limit)
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
    """Yield the size of each operation's output for a photo, also in nested models."""
    for operation in getattr(model, "operations", ()):
        yield from _output_sizes(operation)
        for node in operation._inbound_nodes:
            for tensor in node.outputs:
                yield math.prod(size or 1 for size in tensor.shape[1:])
