"""Read NumPy's .npy and .npz as {name: array}; a pickled .npy is read as plain data.

Source: numpy/lib/format.py.
"""

import io
import itertools
import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoints import bounds, checkpoint, errors
from model.checkpoints.checkpoint import Checkpoint
from model.checkpoints.pickles import unpickle

SIGNATURE = b"\x93NUMPY"
# Stands between a pickle and the metadata of a file that Graft wrote, in JSON.
OWN_MARK = b"\0graft\0"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_KINDS = "fiub"
_MAX_NAME = 500  # characters
# Members of an .npz may have this many times its size, since deflate gains little on
# weights; or at least this many bytes.
_MAX_GROWTH, _SMALL_BYTES = 20, 64 << 20


def read(path: Path) -> Checkpoint:
    """Read an .npy or .npz file.

    A pickled {layer: {"weights": array}} gives "layer/weights", {layer: [array, array]}
    gives "layer/0" and "layer/1". A plain array is called "array"; those of an .npz
    have their own names.
    """
    where = str(path)
    with path.open("rb") as file:
        is_npy = file.read(len(SIGNATURE)) == SIGNATURE
    if not is_npy:
        with bounds.open_zip(path) as members:
            tensors = _read_members(members, path)
        return Checkpoint(tensors=tensors, format="NumPy archive (.npz)")
    value, rest = _parse(path.read_bytes(), where)
    if isinstance(value, np.ndarray):
        return Checkpoint(tensors={"array": value}, format="NumPy array")
    metadata = rest.removeprefix(OWN_MARK) if rest.startswith(OWN_MARK) else b""
    return Checkpoint(
        tensors=flatten(value, where),
        format="NumPy, pickled dict of arrays",
        metadata=checkpoint.parse_metadata(metadata, where),
    )


def _read_members(file: zipfile.ZipFile, path: Path) -> dict[str, np.ndarray]:
    infos = [info for info in file.infolist() if info.filename.endswith(".npy")]
    max_bytes = max(_SMALL_BYTES, _MAX_GROWTH * path.stat().st_size)
    bounds.check_zip_members(infos, path, max_bytes=max_bytes)
    tensors: dict[str, np.ndarray] = {}
    for info in infos:
        name, where = info.filename.removesuffix(".npy"), f"{path}:{info.filename}"
        if name in tensors:
            raise errors.CorruptCheckpoint(f"{where}: two arrays have this name")
        tensors[name] = parse_values(bounds.read_zip_member(file, info), where)
    return tensors


def _parse_header(
    data: bytes, where: str
) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Return type, shape, whether it is Fortran's order, and where values begin."""
    file = io.BytesIO(data)
    try:
        with warnings.catch_warnings(action="ignore"):  # of headers of Python 2
            read = _HEADERS[np.lib.format.read_magic(file)]
            shape, fortran, dtype = read(file)
    except Exception as error:  # NumPy parses Python syntax here
        raise _corrupt(where, "a header that cannot be parsed") from error
    if not bounds.is_possible_shape(shape):
        raise _corrupt(where, f"an array of shape {bounds.brief(shape)}")
    return dtype, shape, fortran, file.tell()


def parse_values(data: bytes, where: str) -> np.ndarray:
    """Return the array of an .npy of numbers or text, a view of its bytes."""
    dtype, shape, fortran, start = _parse_header(data, where)
    if dtype.kind not in _KINDS + "U" or not dtype.itemsize:
        raise _corrupt(where, f"an array of {dtype}, expected numbers or text")
    size, expected = len(data) - start, math.prod(shape) * dtype.itemsize
    if size != expected:
        raise _corrupt(where, f"{size:,} bytes of values, expected {expected:,}")
    values = np.frombuffer(data, dtype, offset=start)
    return values.reshape(shape, order="F" if fortran else "C")


def _parse(data: bytes, where: str) -> tuple[Any, bytes]:
    """Return the array or pickled object of an .npy, and the bytes after it."""
    dtype, shape, _, start = _parse_header(data, where)
    if dtype.kind in _KINDS:
        return parse_values(data, where), b""
    if dtype.kind != "O":
        raise _corrupt(where, f"an array of {dtype}, expected numbers")
    if (count := math.prod(shape)) != 1:
        raise _corrupt(where, f"an array of {count:,} objects, expected one dict")
    value, size = unpickle.loads(data, where, start=start)
    return value, data[start + size :]


def _corrupt(where: str, problem: str) -> errors.CorruptCheckpoint:
    return errors.CorruptCheckpoint(
        f"{where}: {problem}; the file is damaged or cut off; download or copy it again"
    )


def flatten(value: Any, where: str) -> dict[str, np.ndarray]:
    """Turn nested dicts and lists of arrays into {"outer/inner": array}.

    A list [kernel, bias] under a layer gets the names "layer/0" and "layer/1". Values
    that are not arrays are left out.
    """
    tensors: dict[str, np.ndarray] = {}
    steps = itertools.count()

    def visit(prefix: str, value: Any) -> None:
        if next(steps) > unpickle.MAX_ENTRIES or len(prefix) > _MAX_NAME:
            raise errors.CorruptCheckpoint(
                f"{where}: more than {unpickle.MAX_ENTRIES:,} entries, or names longer "
                f"than {_MAX_NAME} characters; this is not a dict of arrays"
            )
        if isinstance(value, np.ndarray):
            tensors[prefix] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}/{key}" if prefix else str(key), inner)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                visit(f"{prefix}/{number}", inner)

    if isinstance(value, dict):
        visit("", value)
    if not tensors:
        raise errors.CorruptCheckpoint(
            f"{where}: expected a dict of arrays, found {type(value).__name__}"
        )
    return tensors
