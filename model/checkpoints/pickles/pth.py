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

from model.checkpoints import bounds, errors
from model.checkpoints.pickles import unpickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Tensors may share a storage, as tied weights do; each may take memory of its own.
_MAX_SHARING = 10

_STORAGE_DTYPES: dict[str, Any] = {
    "Double": np.float64, "Float": np.float32, "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16, "Long": np.int64, "Int": np.int32,
    "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _StorageKind:
    """Stands in for torch.FloatStorage and the other classes of storages."""

    dtype: np.dtype[Any]


@dataclasses.dataclass
class _Storage:
    """A flat piece of memory that tensors are views of; `values` comes later."""

    key: str
    dtype: np.dtype[Any]
    num_elements: int
    values: Any = None

    @property
    def size_bytes(self) -> int:
        return self.num_elements * self.dtype.itemsize

    def set_values(self, data: bytes | memoryview, path: Path) -> None:
        if len(data) != self.size_bytes:
            problem = f"has {len(data)} bytes, expected {self.size_bytes}"
            raise _damaged(path, self.key, problem)
        self.values = np.frombuffer(data, self.dtype)


@dataclasses.dataclass(frozen=True)
class _Tensor:
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
        dtype = self.storage.dtype
        if not math.prod(self.shape):
            return np.empty(self.shape, dtype)
        view = np.lib.stride_tricks.as_strided(
            self.storage.values[self.offset :],
            self.shape,
            [stride * dtype.itemsize for stride in self.strides],
            writeable=False,
        )
        return view if view.flags.c_contiguous else view.copy()


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without storage")
    shape, strides = tuple(shape), tuple(strides)
    are_possible = all(
        type(n) is int and 0 <= n < bounds.MAX_NUMBERS for n in (*strides, offset)
    ) and bounds.is_possible_shape(shape)
    if not are_possible or len(strides) != len(shape):
        raise pickle.UnpicklingError("a tensor with impossible sizes or strides")
    steps = ((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    end = offset + sum(steps) + 1
    if math.prod(shape) and max(end, math.prod(shape)) > storage.num_elements:
        raise pickle.UnpicklingError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} in a "
            f"storage of {storage.num_elements} numbers"
        )
    return _Tensor(storage, offset, shape, strides)


_NAMES: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    **{
        f"torch.{name}Storage": _StorageKind(np.dtype(dtype))
        for name, dtype in _STORAGE_DTYPES.items()
    },
}


def _loads(
    data: bytes, where: str, storages: dict[str, _Storage], start: int = 0
) -> tuple[Any, int]:
    """Read one pickle, and add the storages that it refers to; return its length."""

    def load(reference: Any) -> _Storage:
        """("storage", kind, key, location, number of elements[, view]) -> storage."""
        match reference:
            case ["storage", kind, str() | int() as key, _, size, *view] if view in (
                [],
                [None],
            ):
                name = str(key)
            case _:
                raise pickle.UnpicklingError("a reference to storage of unknown kind")
        label = f"storage {bounds.brief(name)}"
        if not isinstance(kind, _StorageKind) or type(size) is not int:
            raise pickle.UnpicklingError(f"{label} without a kind")
        if not 0 <= size < bounds.MAX_NUMBERS:
            raise pickle.UnpicklingError(f"{label} with an impossible size")
        storage = storages.setdefault(name, _Storage(name, kind.dtype, size))
        if (storage.dtype, storage.num_elements) != (kind.dtype, size):
            raise pickle.UnpicklingError(f"{label} with two kinds")
        return storage

    return unpickle.loads(data, where, start=start, names=_NAMES, persistent_load=load)


def _damaged(path: Path, key: Any, problem: str) -> errors.CorruptCheckpoint:
    return errors.CorruptCheckpoint(f"{path}: storage {bounds.brief(key)} {problem}")


def read_zip(path: Path) -> dict[str, np.ndarray]:
    """Read a file that torch.save wrote since PyTorch 1.6."""
    with bounds.open_zip(path) as file:
        members = {info.filename: info for info in file.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise errors.UnknownFormat(
                f"{path}: a zip file, but not of torch.save (no data.pkl)"
            )
        prefix = pickles[0].removesuffix("data.pkl")
        order = f"{prefix}byteorder"
        used = [
            info
            for name, info in members.items()
            if name in (*pickles, order) or name.startswith(f"{prefix}data/")
        ]
        # torch.save never compresses, so what it writes is not larger than the file.
        size, methods = path.stat().st_size, [zipfile.ZIP_STORED]
        bounds.check_zip_members(used, path, max_bytes=size, methods=methods)
        if order in members and file.read(order) != b"little":
            raise errors.CorruptCheckpoint(f"{path}: big-endian data are not read")
        storages: dict[str, _Storage] = {}
        value, _ = _loads(file.read(pickles[0]), f"{path}:{pickles[0]}", storages)
        for key, storage in storages.items():
            name = f"{prefix}data/{key}"
            if name not in members:
                raise _damaged(path, key, "is missing")
            storage.set_values(file.read(name), path)
    return _state_dict(value, path)


def read_legacy(path: Path) -> dict[str, np.ndarray]:
    """Read a file that torch.save wrote before 1.6: five pickles, then the storages."""
    data, where = path.read_bytes(), str(path)
    storages: dict[str, _Storage] = {}
    position = 0
    values = []
    for _ in range(5):
        value, length = _loads(data, where, storages, position)
        values.append(value)
        position += length
    magic, _, _, saved, keys = values
    if magic != LEGACY_MAGIC or not isinstance(keys, list):
        raise errors.CorruptCheckpoint(f"{path}: not the parts that torch.save writes")
    for key in keys:
        storage = storages.get(str(key)) if isinstance(key, str | int) else None
        count = data[position : position + 8]
        if storage is None or len(count) < 8:
            raise _damaged(path, key, "is missing")
        if int.from_bytes(count, "little") != storage.num_elements:
            raise _damaged(path, key, "has another size")
        begin, position = position + 8, position + 8 + storage.size_bytes
        storage.set_values(memoryview(data)[begin:position], path)
    for name, storage in storages.items():
        if storage.values is None:
            raise _damaged(path, name, "is missing")
    return _state_dict(saved, path)


def _state_dict(saved: Any, path: Path) -> dict[str, np.ndarray]:
    """Take the tensors out of the usual wrappers, and off the prefix "module."."""
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(saved, Mapping) and isinstance(saved.get(wrapper), Mapping):
            saved = saved[wrapper]
    by_name = {
        str(name): value
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
