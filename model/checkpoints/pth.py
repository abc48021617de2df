"""PyTorch files (.pth, .pt), zip and legacy -> {name: array}, without PyTorch.

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

from model.checkpoints import archive, errors, shapes, unpickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Tensors may share a storage, as tied weights do; each may take memory of its own.
_SHARING_LIMIT = 10

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
    """What a pickle gets hold of and must not change."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"a change of {type(self).__name__}")


@dataclasses.dataclass(frozen=True)
class _StorageKind(_Sealed):
    """Stands in for torch.FloatStorage and its like."""

    dtype: np.dtype[Any]


@dataclasses.dataclass
class _Storage(_Sealed):
    """A flat piece of memory that tensors are views of; filled when it is read."""

    key: str
    dtype: np.dtype[Any]
    num_elements: int
    values: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class _Tensor(_Sealed):
    """A tensor whose storage may still be unread; its sizes lie within the storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def read(self) -> np.ndarray:
        """Returns it, read-only where it lies in the storage as NumPy would have it."""
        values = self.storage.values
        if values is None:
            raise ValueError(f"storage {self.storage.key!r} is unread")
        if not math.prod(self.shape):
            return np.empty(self.shape, values.dtype)
        if self.strides == _strides(self.shape):
            count = math.prod(self.shape)
            return values[self.offset : self.offset + count].reshape(self.shape)
        view = np.lib.stride_tricks.as_strided(
            values[self.offset :],
            self.shape,
            [stride * values.itemsize for stride in self.strides],
            writeable=False,
        )
        return np.array(view)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of an array in C order, in numbers."""
    found = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return tuple(found)


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without storage")
    shape, strides = tuple(shape), tuple(strides)
    if (
        not shapes.is_possible(shape)
        or len(strides) > len(shape)
        or not all(type(n) is int and 0 <= n < shapes.LIMIT for n in (*strides, offset))
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
    """Answers the pickle's references; remembers which storages it named."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: dict[str, _Storage] = {}

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
            raise pickle.UnpicklingError(f"storage {shapes.brief(name)} of no kind")
        if not 0 <= size < shapes.LIMIT:
            raise pickle.UnpicklingError(
                f"storage {shapes.brief(name)} with an impossible size"
            )
        storage = self.found.setdefault(name, _Storage(name, kind.dtype, size))
        if (storage.dtype, storage.num_elements) != (kind.dtype, size):
            raise pickle.UnpicklingError(
                f"storage {shapes.brief(name)} is of two kinds"
            )
        return storage


def read_zip(path: Path) -> dict[str, np.ndarray]:
    """Reads a file of torch.save since PyTorch 1.6.

    Raises:
        errors.CheckpointError: damaged, unsafe, or not a state dict.
    """
    try:
        with zipfile.ZipFile(path) as opened:
            return _read_archive(opened, path)
    except errors.CheckpointError:
        raise
    except archive.FAULTS as error:
        raise errors.CorruptCheckpoint(f"{path}: damaged zip file ({error})") from error


def _read_archive(opened: zipfile.ZipFile, path: Path) -> dict[str, np.ndarray]:
    members = {info.filename: info for info in opened.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise errors.UnknownFormat(
            f"{path}: a zip file, but not of torch.save (no data.pkl)"
        )
    # torch.save never compresses; so no member can grow, nor all of them together.
    for info in members.values():
        if info.compress_type != zipfile.ZIP_STORED:
            raise errors.CorruptCheckpoint(
                f"{path}: {info.filename} is compressed; torch.save never does that"
            )
    total = sum(info.file_size for info in members.values())
    if (
        total > path.stat().st_size
        or min(i.header_offset for i in members.values()) < 0
    ):
        raise errors.CorruptCheckpoint(
            f"{path}: its members overlap or reach beyond the file"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{prefix}byteorder")
    if order is not None and opened.read(order) != b"little":
        raise errors.CorruptCheckpoint(f"{path}: big-endian data are not read")
    storages = _Storages(str(path))
    found, _ = unpickle.loads(
        opened.read(pickles[0]),
        f"{path}:{pickles[0]}",
        names=_NAMES,
        persistent_load=storages.load,
    )
    for storage in storages.found.values():
        name = f"{prefix}data/{storage.key}"
        if name not in members:
            raise errors.CorruptCheckpoint(f"{path}: {shapes.brief(name)} is missing")
        storage.values = _storage_values(opened.read(name), storage, path)
    return _state_dict(found, path)


def _storage_values(
    data: bytes | memoryview, storage: _Storage, path: Path
) -> np.ndarray:
    expected = storage.num_elements * storage.dtype.itemsize
    if len(data) != expected:
        raise errors.CorruptCheckpoint(
            f"{path}: storage {shapes.brief(storage.key)} has {len(data)} bytes, "
            f"expected {expected}"
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
            data,
            where,
            start=position,
            names=_NAMES,
            persistent_load=storages.load,
        )
        parts.append(part)
        position += length
    magic, _, _, found, keys = parts
    if magic != LEGACY_MAGIC or not isinstance(keys, list):
        raise errors.CorruptCheckpoint(f"{path}: not the parts that torch.save writes")
    for key in keys:
        name = unpickle.key_text(key, where)
        storage = storages.found.get(name)
        count = data[position : position + 8]
        if storage is None or len(count) < 8:
            raise errors.CorruptCheckpoint(
                f"{path}: storage {shapes.brief(name)} is missing"
            )
        if int.from_bytes(count, "little") != storage.num_elements:
            raise errors.CorruptCheckpoint(
                f"{path}: storage {shapes.brief(name)} has another size"
            )
        position += 8
        size = storage.num_elements * storage.dtype.itemsize
        available = min(size, len(data) - position)
        content = memoryview(data)[position : position + available]
        storage.values = _storage_values(content, storage, path)
        position += size
    for storage in storages.found.values():
        if storage.values is None:
            raise errors.CorruptCheckpoint(
                f"{path}: storage {shapes.brief(storage.key)} is missing"
            )
    return _state_dict(found, path)


def _state_dict(found: Any, path: Path) -> dict[str, np.ndarray]:
    """Tensors by name, out of the usual wrappers, without "module." prefixes."""
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    unread = {
        unpickle.key_text(name, str(path)): value
        for name, value in (found.items() if isinstance(found, Mapping) else ())
        if isinstance(value, _Tensor)
    }
    total = sum(tensor.size_bytes for tensor in unread.values())
    if total > _SHARING_LIMIT * path.stat().st_size:
        raise errors.CorruptCheckpoint(
            f"{path}: {len(unread)} tensors share storages, {total:,} bytes in all, "
            f"more than {_SHARING_LIMIT} times the file"
        )
    tensors = {name: tensor.read() for name, tensor in unread.items()}
    if not tensors:
        raise errors.UnknownFormat(
            f"{path}: holds no state dict; save model.state_dict() and try that file"
        )
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): t for name, t in tensors.items()}
    return tensors
