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

from model.checkpoints import bounds
from model.checkpoints.protobuf_fields import Wire
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
        message = Wire(value, str(index))
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


def _parse_num_shards(message: Wire, prefix: Path) -> int:
    """Return the number of data files in a BundleHeaderProto."""
    fields = message.by_number()
    if 2 in fields and fields[2].value:
        raise leveldb.unreadable(prefix, "written on a big-endian machine")
    return fields[1].value if 1 in fields else 0


def _parse_entry(message: Wire, prefix: Path) -> Entry:
    """Parse a BundleEntryProto."""
    fields = message.by_number()
    dtype, shard, offset, size, crc = (
        fields[number].value if number in fields else 0 for number in (1, 3, 4, 5, 6)
    )
    shape: list[int] = []  # in a TensorShapeProto
    for dim in message.fields(fields[2]) if 2 in fields else ():
        if dim.number == 2:
            size_field = message.by_number(dim).get(1)
            shape.append(size_field.value if size_field else 0)
    if not bounds.is_possible_shape(shape):
        raise leveldb.unreadable(prefix, f"a shape that begins with {shape[:8]}")
    entry = Entry(dtype, tuple(shape), shard, offset, size, crc, sliced=7 in fields)
    if dtype in DTYPES and not entry.sliced and size != entry.num_bytes:
        problem = f"a tensor of shape {shape} in {size:,} bytes"
        raise leveldb.unreadable(prefix, problem)
    return entry
