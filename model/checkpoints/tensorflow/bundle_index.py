"""Read the index of a TensorFlow checkpoint: where each of its tensors lies.

The index is a sorted table of LevelDB's kind, with protobuf messages as values.

Sources: tensorflow/core/util/tensor_bundle/tensor_bundle.h, core/lib/io/format.cc,
core/protobuf/tensor_bundle.proto; leveldb/doc/table_format.md.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from model.checkpoints import bounds, errors
from model.checkpoints.protobuf_fields import Wire
from pipeline.records import tfrecord

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")  # ends the file
_FOOTER_BYTES, _TRAILER_BYTES = 48, 5
_MAX_KEY_BYTES, _MAX_KEYS_BYTES = 4096, 64 << 20  # of one key, of a block's keys
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


def unreadable(prefix: Path, problem: str) -> errors.CorruptCheckpoint:
    """Return the error for a damaged index."""
    return errors.CorruptCheckpoint(
        f"{prefix}: not a readable TensorFlow checkpoint ({problem}); copy it again"
    )


def read(index: Path, prefix: Path) -> tuple[int, dict[str, Entry]]:
    """Return the number of data files, and {name of a tensor: entry}."""
    size = index.stat().st_size
    if size > _MAX_INDEX_BYTES:
        raise unreadable(prefix, f"an index of {size:,} bytes")
    num_shards, entries = 0, {}
    for key, value in _read_table(index.read_bytes(), prefix):
        message = Wire(value, str(index))
        if not key:  # a BundleHeaderProto
            fields = message.by_number()
            if 2 in fields and fields[2].value:
                raise unreadable(prefix, "written on a big-endian machine")
            num_shards = fields[1].value if 1 in fields else 0
        elif not key.startswith(b"\0"):  # parts of sliced variables, by ordered codes
            entries[key.decode("utf-8", "replace")] = _parse_entry(message, prefix)
        if len(entries) > _MAX_ENTRIES:
            raise unreadable(prefix, f"more than {_MAX_ENTRIES:,} entries")
    if not 1 <= num_shards <= _MAX_SHARDS:
        raise unreadable(prefix, f"{num_shards} data files")
    for name, entry in entries.items():
        if entry.shard >= num_shards:
            raise unreadable(prefix, f"{name[:80]} in data file {entry.shard}")
    return num_shards, entries


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
        raise unreadable(prefix, f"a shape that begins with {shape[:8]}")
    entry = Entry(dtype, tuple(shape), shard, offset, size, crc, sliced=7 in fields)
    if dtype in DTYPES and not entry.sliced and size != entry.num_bytes:
        raise unreadable(prefix, f"a tensor of shape {shape} in {size:,} bytes")
    return entry


def _read_table(data: bytes, prefix: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield all keys and values; `prefix` names the checkpoint in errors."""
    if len(data) < _FOOTER_BYTES or data[-8:] != MAGIC:
        raise unreadable(prefix, "its index does not end like an index")
    # The first of the footer's two blocks is not used here.
    wire = Wire(data, str(prefix))
    footer = len(data) - _FOOTER_BYTES
    (_, _, offset, size), _ = wire.varints(footer, len(data) - 8, 4)
    blocks = []
    for _, value in _table_entries(_block(data, offset, size, prefix), prefix):
        wire = Wire(value, str(prefix))
        blocks.append(wire.varints(0, len(value), 2)[0])
    if sum(size for _, size in blocks) > len(data):
        raise unreadable(prefix, "blocks that overlap")
    for offset, size in blocks:
        yield from _table_entries(_block(data, offset, size, prefix), prefix)


def _block(data: bytes, offset: int, size: int, prefix: Path) -> bytes:
    end = offset + size
    if end + _TRAILER_BYTES > len(data) - _FOOTER_BYTES + 1:
        raise unreadable(prefix, "a block outside the index")
    block = data[offset : end + 1]
    crc = int.from_bytes(data[end + 1 : end + _TRAILER_BYTES], "little")
    if tfrecord.masked_crc(block) != crc:
        raise unreadable(prefix, "a block's checksum is wrong")
    if block[-1] != 0:
        raise unreadable(prefix, "a compressed block, which TensorFlow never writes")
    return block[:-1]


def _table_entries(block: bytes, prefix: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a block, where a key may share the start of the last."""
    if len(block) < 4:
        raise unreadable(prefix, "an empty block")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise unreadable(prefix, f"a block with {restarts:,} restarts")
    message = Wire(block, str(prefix))
    at, key, total = 0, b"", 0
    while at < end:
        (shared, added, length), at = message.varints(at, end, 3)
        if shared > len(key) or at + added + length > end:
            raise unreadable(prefix, "a key that runs past its block")
        total += shared + added
        if shared + added > _MAX_KEY_BYTES or total > _MAX_KEYS_BYTES:
            raise unreadable(prefix, "keys longer than any variable's name")
        key = key[:shared] + block[at : at + added]
        at += added
        yield key, block[at : at + length]
        at += length
