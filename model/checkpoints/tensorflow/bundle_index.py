"""Read the index of a TensorFlow checkpoint: where each of its tensors lies.

The index is a table of LevelDB's kind, with protobuf messages as values.

Sources: tensorflow/core/util/tensor_bundle/tensor_bundle.h and
core/protobuf/tensor_bundle.proto.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from model.checkpoints import bounds, protobuf_fields
from model.checkpoints.tensorflow import leveldb

_MAX_INDEX_BYTES = 256 << 20
_MAX_ENTRIES, _MAX_SHARDS = 100_000, 100_000
# tensorflow/core/framework/types.proto
STRING = 7
_TYPES = {
    1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16, 6: np.int8,
    9: np.int64, 10: np.bool_, 14: ml_dtypes.bfloat16, 17: np.uint16, 19: np.float16,
    22: np.uint32, 23: np.uint64,
}  # fmt: skip
DTYPES: Mapping[int, np.dtype[Any]] = {n: np.dtype(kind) for n, kind in _TYPES.items()}


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor lies."""

    dtype: int  # number of the type; DTYPES has those of numbers
    shape: tuple[int, ...]
    shard: int  # number of the data file
    offset: int  # first byte in the data file
    size: int  # number of bytes
    crc: int  # masked CRC32C of the bytes
    sliced: bool  # whether the tensor's parts are entries of their own

    @property
    def num_bytes(self) -> int:
        """Number of bytes that shape and type require."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def read(index: Path, prefix: Path) -> tuple[int, dict[str, Entry]]:
    """Return the number of data files, and {name of a tensor: entry}.

    Errors name the checkpoint by its prefix.
    """
    size = index.stat().st_size
    if size > _MAX_INDEX_BYTES:
        raise leveldb.unreadable(prefix, f"an index of {size:,} bytes")
    num_shards, entries = 0, {}
    for key, value in leveldb.read(index.read_bytes(), prefix):
        message = protobuf_fields.Wire(value, str(index))
        if not key:
            num_shards = _parse_num_shards(message, prefix)
        elif not key.startswith(b"\0"):  # parts of sliced variables, by ordered codes
            entries[key.decode("utf-8", "replace")] = _parse_entry(message, prefix)
        if len(entries) > _MAX_ENTRIES:
            raise leveldb.unreadable(prefix, f"more than {_MAX_ENTRIES:,} entries")
    if not 1 <= num_shards <= _MAX_SHARDS:
        raise leveldb.unreadable(prefix, f"{num_shards} data files")
    for name, entry in entries.items():
        if entry.shard >= num_shards:
            raise leveldb.unreadable(prefix, f"{name[:80]} in data file {entry.shard}")
    return num_shards, entries


def _parse_num_shards(message: protobuf_fields.Wire, prefix: Path) -> int:
    """Return the number of data files in a BundleHeaderProto."""
    num_shards = 0
    for field in message.fields():
        if field.number == 1:
            num_shards = field.value
        elif field.number == 2 and field.value:
            raise leveldb.unreadable(prefix, "written on a big-endian machine")
    return num_shards


def _parse_entry(message: protobuf_fields.Wire, prefix: Path) -> Entry:
    """Parse a BundleEntryProto."""
    numbers = dict.fromkeys((1, 3, 4, 5, 6), 0)
    shape: tuple[int, ...] = ()
    sliced = False
    for field in message.fields():
        if field.number in numbers:
            numbers[field.number] = field.value
        elif field.number == 2:
            shape = _parse_shape(message, field, prefix)
        elif field.number == 7:
            sliced = True
    dtype, shard, offset, size, crc = numbers.values()
    entry = Entry(dtype, shape, shard, offset, size, crc, sliced)
    if dtype in DTYPES and not sliced and size != entry.num_bytes:
        problem = f"a tensor of shape {list(shape)} in {size:,} bytes"
        raise leveldb.unreadable(prefix, problem)
    return entry


def _parse_shape(
    message: protobuf_fields.Wire, field: protobuf_fields.Field, prefix: Path
) -> tuple[int, ...]:
    """Parse a TensorShapeProto."""
    sizes: list[int] = []
    for dim in message.fields(field):
        if dim.number == 2:
            parts = message.fields(dim)
            sizes.append(next((part.value for part in parts if part.number == 1), 0))
            if not bounds.is_possible_shape(sizes):
                problem = f"a shape that begins with {sizes[:8]}"
                raise leveldb.unreadable(prefix, problem)
    return tuple(sizes)
