"""Read PyTorch files (.pth, .pt), zip and legacy, as {name: array}, without PyTorch.

Sources: torch/serialization.py (`_save`, `_legacy_save`) and, for the zip layout,
torch/csrc/jit/docs/serialization.md.
"""

import dataclasses
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from model.checkpoints import archive, bounds, errors
from model.checkpoints.pickles import unpickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Tensors may share a storage, as tied weights do; each may take memory of its own.
_MAX_SHARING = 10

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


class _Sealed:
    """An object that a pickle gets but must not change."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"a change of {type(self).__name__}")


@dataclasses.dataclass(frozen=True)
class _StorageKind(_Sealed):
    """Stands in for torch.FloatStorage and the other classes of storages."""

    dtype: np.dtype[Any]


@dataclasses.dataclass
class _Storage(_Sealed):
    """A flat piece of memory that tensors are views of; `values` comes later."""

    key: str
    dtype: np.dtype[Any]
    num_elements: int
    values: np.ndarray | None = None

    def set_values(self, data: bytes | memoryview, path: Path) -> None:
        """Take the storage's bytes.

        Raises:
            errors.CorruptCheckpoint: there are too few or too many.
        """
        expected = self.num_elements * self.dtype.itemsize
        if len(data) != expected:
            raise errors.CorruptCheckpoint(
                f"{path}: storage {bounds.brief(self.key)} has {len(data)} bytes, "
                f"expected {expected}"
            )
        self.values = np.frombuffer(data, self.dtype)


@dataclasses.dataclass(frozen=True)
class _Tensor(_Sealed):
    """A tensor that lies within its storage, which may still be without values."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def read(self) -> np.ndarray:
        """Return the array, a read-only view of the storage if it is in C order."""
        values = self.storage.values
        if values is None:
            raise ValueError(f"storage {self.storage.key!r} has no values")
        count = math.prod(self.shape)
        if not count:
            return np.empty(self.shape, values.dtype)
        axes = range(len(self.shape))
        if self.strides == tuple(math.prod(self.shape[axis + 1 :]) for axis in axes):
            return values[self.offset : self.offset + count].reshape(self.shape)
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
    shape, strides = tuple(shape), tuple(strides)
    if (
        not bounds.is_possible_shape(shape)
        or len(strides) > len(shape)
        or not all(
            type(n) is int and 0 <= n < bounds.MAX_NUMBERS for n in (*strides, offset)
        )
    ):
        raise pickle.UnpicklingError("a tensor with impossible sizes")
    if len(strides) != len(shape):
        raise pickle.UnpicklingError(
            f"a tensor of shape {shape} with strides {strides}"
        )
    if math.prod(shape):
        last = offset + sum(
            (n - 1) * step for n, step in zip(shape, strides, strict=True)
        )
        if max(last + 1, math.prod(shape)) > storage.num_elements:
            raise pickle.UnpicklingError(
                f"a tensor of shape {shape}, strides {strides} and offset {offset} in "
                f"a storage of {storage.num_elements} numbers"
            )
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


_NAMES: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    **{
        f"torch.{name}": _StorageKind(np.dtype(dtype))
        for name, dtype in _STORAGE_DTYPES.items()
    },
}


class _Storages:
    """Resolves a pickle's references to storages, and collects these by key."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.by_key: dict[str, _Storage] = {}

    def load(self, reference: Any) -> _Storage:
        """("storage", kind, key, location, number of elements[, view]) -> storage."""
        if (
            not isinstance(reference, tuple | list)
            or len(reference) < 5
            or reference[0] != "storage"
        ):
            raise pickle.UnpicklingError("a reference to something unknown")
        _, kind, key, _, size = reference[:5]
        if len(reference) > 5 and reference[5] is not None:
            raise pickle.UnpicklingError("a view of a storage, as of PyTorch 0.1")
        name = unpickle.key_text(key, self.where)
        if not isinstance(kind, _StorageKind) or type(size) is not int:
            raise pickle.UnpicklingError(f"storage {bounds.brief(name)} of no kind")
        if not 0 <= size < bounds.MAX_NUMBERS:
            raise pickle.UnpicklingError(
                f"storage {bounds.brief(name)} with an impossible size"
            )
        storage = self.by_key.setdefault(name, _Storage(name, kind.dtype, size))
        if (storage.dtype, storage.num_elements) != (kind.dtype, size):
            raise pickle.UnpicklingError(
                f"storage {bounds.brief(name)} is of two kinds"
            )
        return storage


def read_zip(path: Path) -> dict[str, np.ndarray]:
    """Read a file that torch.save wrote since PyTorch 1.6.

    Raises:
        errors.CheckpointError: the file is damaged, unsafe, or not a state dict.
    """
    with archive.opened(path) as file:
        members = {info.filename: info for info in file.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise errors.UnknownFormat(
                f"{path}: a zip file, but not of torch.save (no data.pkl)"
            )
        prefix = pickles[0].removesuffix("data.pkl")
        order = f"{prefix}byteorder"
        # torch.save never compresses, so what it writes is not larger than the file.
        archive.check_members(
            [
                info
                for name, info in members.items()
                if name in (*pickles, order) or name.startswith(f"{prefix}data/")
            ],
            path,
            max_bytes=path.stat().st_size,
            methods=[zipfile.ZIP_STORED],
        )
        if order in members and file.read(order) != b"little":
            raise errors.CorruptCheckpoint(f"{path}: big-endian data are not read")
        storages = _Storages(str(path))
        value, _ = unpickle.loads(
            file.read(pickles[0]),
            f"{path}:{pickles[0]}",
            names=_NAMES,
            persistent_load=storages.load,
        )
        for storage in storages.by_key.values():
            name = f"{prefix}data/{storage.key}"
            if name not in members:
                raise errors.CorruptCheckpoint(
                    f"{path}: {bounds.brief(name)} is missing"
                )
            storage.set_values(file.read(name), path)
    return _state_dict(value, path)


def read_legacy(path: Path) -> dict[str, np.ndarray]:
    """Read a file that torch.save wrote before PyTorch 1.6.

    It is five pickles, then the storages.

    Raises:
        errors.CheckpointError: the file is damaged, unsafe, or not a state dict.
    """
    data = path.read_bytes()
    storages = _Storages(str(path))
    position = 0
    values = []
    for _ in range(5):
        value, length = unpickle.loads(
            data,
            str(path),
            start=position,
            names=_NAMES,
            persistent_load=storages.load,
        )
        values.append(value)
        position += length
    magic, _, _, saved, keys = values
    if magic != LEGACY_MAGIC or not isinstance(keys, list):
        raise errors.CorruptCheckpoint(f"{path}: not the parts that torch.save writes")
    for key in keys:
        name = unpickle.key_text(key, str(path))
        storage = storages.by_key.get(name)
        count = data[position : position + 8]
        if storage is None or len(count) < 8:
            raise errors.CorruptCheckpoint(
                f"{path}: storage {bounds.brief(name)} is missing"
            )
        if int.from_bytes(count, "little") != storage.num_elements:
            raise errors.CorruptCheckpoint(
                f"{path}: storage {bounds.brief(name)} has another size"
            )
        position += 8
        size = storage.num_elements * storage.dtype.itemsize
        storage.set_values(memoryview(data)[position : position + size], path)
        position += size
    for storage in storages.by_key.values():
        if storage.values is None:
            raise errors.CorruptCheckpoint(
                f"{path}: storage {bounds.brief(storage.key)} is missing"
            )
    return _state_dict(saved, path)


def _state_dict(saved: Any, path: Path) -> dict[str, np.ndarray]:
    """Take the tensors out of the usual wrappers, and off the prefix "module."."""
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(saved, Mapping) and isinstance(saved.get(wrapper), Mapping):
            saved = saved[wrapper]
    by_name = {
        unpickle.key_text(name, str(path)): value
        for name, value in (saved.items() if isinstance(saved, Mapping) else ())
        if isinstance(value, _Tensor)
    }
    total = sum(tensor.size_bytes for tensor in by_name.values())
    if total > _MAX_SHARING * path.stat().st_size:
        raise errors.CorruptCheckpoint(
            f"{path}: {len(by_name)} tensors share storages, {total:,} bytes in all, "
            f"more than {_MAX_SHARING} times the file"
        )
    tensors = {name: tensor.read() for name, tensor in by_name.items()}
    if not tensors:
        raise errors.UnknownFormat(
            f"{path}: holds no state dict; save model.state_dict() and try that file"
        )
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): t for name, t in tensors.items()}
    return tensors
