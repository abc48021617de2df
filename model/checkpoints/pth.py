"""PyTorch files (.pth, .pt), zip and legacy -> {name: array}, without PyTorch.

Sources: torch/serialization.py (`_save`, `_legacy_save`) and, for the zip layout,
torch/csrc/jit/docs/serialization.md.
"""

import dataclasses
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from model.checkpoints import errors, unpickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_STORAGE_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclasses.dataclass
class _StorageKind:
    """Stands in for torch.FloatStorage and its like."""

    dtype: np.dtype[Any]


@dataclasses.dataclass
class _Storage:
    """A flat piece of memory that tensors are views of; filled when it is read."""

    key: str
    dtype: np.dtype[Any]
    num_elements: int
    values: np.ndarray | None = None


@dataclasses.dataclass
class _Tensor:
    """A tensor whose storage may still be unread."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Returns a copy of the view, after checking that it lies in the storage."""
        values = self.storage.values
        if values is None:
            raise errors.CorruptCheckpoint(f"storage {self.storage.key} has no data")
        sizes = (*self.shape, *self.strides, self.offset)
        if not all(isinstance(n, int) and n >= 0 for n in sizes):
            raise errors.CorruptCheckpoint(f"a tensor with sizes {sizes}")
        if len(self.strides) != len(self.shape):
            raise errors.CorruptCheckpoint(
                f"a tensor of shape {self.shape} with strides {self.strides}"
            )
        if math.prod(self.shape) > len(values):
            raise errors.CorruptCheckpoint(
                f"a tensor of shape {self.shape} in {len(values)} stored numbers"
            )
        if not math.prod(self.shape):
            return np.empty(self.shape, values.dtype)
        last = self.offset + sum(
            (size - 1) * stride
            for size, stride in zip(self.shape, self.strides, strict=True)
        )
        if last >= len(values):
            raise errors.CorruptCheckpoint(
                f"a tensor of shape {self.shape} reaches beyond its storage"
            )
        view = np.lib.stride_tricks.as_strided(
            values[self.offset :],
            self.shape,
            [stride * values.itemsize for stride in self.strides],
            writeable=False,
        )
        return np.array(view)


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


_NAMES: dict[str, Any] = {
    "collections.OrderedDict": unpickle.PLAIN_NAMES["collections.OrderedDict"],
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    **{
        f"torch.{name}": _StorageKind(np.dtype(dtype))
        for name, dtype in _STORAGE_DTYPES.items()
    },
}


class _Storages:
    """Answers the pickle's references; remembers which storages it named."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: dict[str, _Storage] = {}

    def load(self, reference: Any) -> _Storage:
        """("storage", kind, key, location, number of elements[, view]) -> storage."""
        if len(reference) < 5 or reference[0] != "storage":
            raise pickle.UnpicklingError("a reference to something unknown")
        _, kind, key, _, size = reference[:5]
        if len(reference) > 5 and reference[5] is not None:
            raise pickle.UnpicklingError("a view of a storage, as of PyTorch 0.1")
        if not isinstance(kind, _StorageKind) or not isinstance(size, int) or size < 0:
            raise pickle.UnpicklingError(f"storage {key!r} of {kind!r}, {size!r}")
        return self.found.setdefault(str(key), _Storage(str(key), kind.dtype, size))


def read_zip(path: Path) -> dict[str, np.ndarray]:
    """Reads a file of torch.save since PyTorch 1.6.

    Raises:
        errors.CheckpointError: damaged, unsafe, or not a state dict.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, path)
    except (zipfile.BadZipFile, EOFError, struct.error, NotImplementedError) as error:
        raise errors.CorruptCheckpoint(f"{path}: damaged zip file ({error})") from error


def _read_archive(archive: zipfile.ZipFile, path: Path) -> dict[str, np.ndarray]:
    size = path.stat().st_size
    members = {info.filename: info for info in archive.infolist()}
    for info in members.values():
        # torch.save never compresses; so no member can grow beyond the file.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
            raise errors.CorruptCheckpoint(
                f"{path}: {info.filename} is compressed or larger than the file; "
                "torch.save does neither"
            )
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise errors.UnknownFormat(
            f"{path}: a zip file, but not of torch.save (no data.pkl)"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{prefix}byteorder")
    if order is not None and archive.read(order) != b"little":
        raise errors.CorruptCheckpoint(f"{path}: big-endian data are not read")
    storages = _Storages(str(path))
    found, _ = unpickle.loads(
        archive.read(pickles[0]),
        f"{path}:{pickles[0]}",
        names=_NAMES,
        persistent_load=storages.load,
    )
    for storage in storages.found.values():
        name = f"{prefix}data/{storage.key}"
        if name not in members:
            raise errors.CorruptCheckpoint(f"{path}: {name} is missing")
        storage.values = _storage_values(archive.read(name), storage, path)
    return _state_dict(found, path)


def _storage_values(data: bytes, storage: _Storage, path: Path) -> np.ndarray:
    expected = storage.num_elements * storage.dtype.itemsize
    if len(data) != expected:
        raise errors.CorruptCheckpoint(
            f"{path}: storage {storage.key} has {len(data)} bytes, expected {expected}"
        )
    return np.frombuffer(data, storage.dtype)


def read_legacy(path: Path) -> dict[str, np.ndarray]:
    """Reads a file of torch.save before PyTorch 1.6: five pickles, then raw storages.

    Raises:
        errors.CheckpointError: damaged, unsafe, or not a state dict.
    """
    data = path.read_bytes()
    where = str(path)
    storages = _Storages(where)
    position = 0
    parts = []
    for _ in range(5):
        part, length = unpickle.loads(
            data[position:],
            where,
            names=_NAMES,
            persistent_load=storages.load,
        )
        parts.append(part)
        position += length
    magic, _, _, found, keys = parts
    if magic != LEGACY_MAGIC or not isinstance(keys, list):
        raise errors.CorruptCheckpoint(f"{path}: not the parts that torch.save writes")
    file = io.BytesIO(data)
    file.seek(position)
    for key in keys:
        storage = storages.found.get(str(key))
        count = file.read(8)
        if storage is None or len(count) < 8:
            raise errors.CorruptCheckpoint(f"{path}: storage {key!r} is missing")
        if int.from_bytes(count, "little") != storage.num_elements:
            raise errors.CorruptCheckpoint(f"{path}: storage {key!r} has another size")
        size = storage.num_elements * storage.dtype.itemsize
        storage.values = _storage_values(file.read(size), storage, path)
    return _state_dict(found, path)


def _state_dict(found: Any, path: Path) -> dict[str, np.ndarray]:
    """Tensors by name, out of the usual wrappers, without "module." prefixes."""
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    tensors = {
        str(name): value.read()
        for name, value in (found.items() if isinstance(found, Mapping) else ())
        if isinstance(value, _Tensor)
    }
    if not tensors:
        raise errors.UnknownFormat(
            f"{path}: holds no state dict; save model.state_dict() and try that file"
        )
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): t for name, t in tensors.items()}
    return tensors
