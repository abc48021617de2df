"""TensorFlow checkpoints (.index and .data files) -> {variable name: array}.

The index is a sorted table of LevelDB's kind, whose values are protobuf messages; the
data files are the numbers, one tensor after the other. Both are read here and not by
TensorFlow, whose own reader ends the process at some damaged indices.

Sources: tensorflow/core/util/tensor_bundle/tensor_bundle.h and
core/protobuf/tensor_bundle.proto.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from model.checkpoints import errors, shapes, wire
from model.checkpoints.tensorflow import leveldb, object_graph

# What optimizers and savers keep beside the weights. Source: tf.compat.v1.train's slot
# names, tf.train.Checkpoint's bookkeeping.
_NOT_WEIGHTS = re.compile(
    r"(^|/)(Momentum|RMSProp|RMSProp_1|Adam|Adam_1|Adagrad|Adadelta|Adadelta_1|Ftrl"
    r"|ExponentialMovingAverage|global_step|beta[12]_power|save_counter"
    r"|_CHECKPOINTABLE_OBJECT_GRAPH)(:|/|$)|\.OPTIMIZER_SLOT|(^|/)_?optimizer/"
)
# What Keras' optimizers have of their own; the variables that they train may stand
# below them and nowhere else.
_OPTIMIZER = re.compile(r"(.+)/(?:_iterations|_learning_rate|iter)")
_TRAINED = re.compile(r"_trainable_variables/\d+")
IN_PARTS = " (a variable in parts)"
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_INDEX_LIMIT = 256 << 20
_MAX_ENTRIES, _MAX_SHARDS = 100_000, 100_000
_MAX_GRAPH_BYTES = 64 << 20
_STATE_NAME = "checkpoint"
_STATE_PATH = re.compile(r'^\s*model_checkpoint_path:\s*"([^"]*)"', re.MULTILINE)
# tensorflow/core/framework/types.proto
_DTYPES: Mapping[int, np.dtype[Any]] = {
    number: np.dtype(kind)
    for number, kind in {
        1: np.float32,
        2: np.float64,
        3: np.int32,
        4: np.uint8,
        5: np.int16,
        6: np.int8,
        9: np.int64,
        10: np.bool_,
        14: ml_dtypes.bfloat16,
        17: np.uint16,
        19: np.float16,
        22: np.uint32,
        23: np.uint64,
    }.items()
}
_STRING = 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entry:
    """Where a tensor lies.

    Attributes:
        dtype: number of its type.
        shape: of the tensor.
        shard: number of the data file.
        offset: in bytes.
        size: in bytes.
        crc: masked CRC32C of its bytes.
        sliced: its parts are entries of their own.
    """

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    sliced: bool = False


def prefix_of(path: Path) -> Path | None:
    """The checkpoint prefix that a prefix, one of its files or a folder stands for."""
    if path.name == _STATE_NAME and path.is_file():
        return _newest(path.parent)
    for ending in (r"\.index", r"\.meta", r"\.data-\d{5}-of-\d{5}"):
        prefix = (
            path.with_name(re.sub(f"{ending}$", "", path.name)) if path.name else path
        )
        if prefix != path and (ending == r"\.index" or _index(prefix).exists()):
            return prefix
    if path.name and _index(path).exists():
        return path
    return _newest(path) if path.is_dir() else None


def _index(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".index")


def _newest(folder: Path) -> Path | None:
    """The checkpoint that the folder's state file names, or else the only one."""
    state = folder / _STATE_NAME
    if state.is_file():
        with state.open("rb") as file:
            found = _STATE_PATH.search(file.read(1 << 20).decode("utf-8", "replace"))
        # Its path may be of the place where it was written; the name still holds.
        name = re.split(r"[/\\]", found[1])[-1] if found else ""
        if name and _exists(folder / name):
            return folder / name
    indices = sorted(folder.glob("*.index"))
    return prefix_of(indices[0]) if len(indices) == 1 else None


def _exists(prefix: Path) -> bool:
    """Whether an index is there; a stranger's name may be one that no file can have."""
    try:
        return _index(prefix).exists()
    except (ValueError, OSError):
        return False


def is_v1(path: Path) -> bool:
    """Whether a file is a checkpoint of version 1: one table that holds the numbers."""
    size = path.stat().st_size
    if size < leveldb.FOOTER_BYTES:
        return False
    with path.open("rb") as file:
        file.seek(size - len(leveldb.MAGIC))
        return file.read() == leveldb.MAGIC


def read(prefix: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Reads a checkpoint, TF1 or TF2.

    Returns:
        The variables, those of a TF2 checkpoint by their full names where it has them;
        and the names of what is no weight (optimizer slots, counters, strings, parts of
        variables).

    Raises:
        errors.MissingCheckpoint: the index or a data file is not there.
        errors.CorruptCheckpoint: damaged, or not a checkpoint.
    """
    index = _index(prefix)
    if not index.exists():
        raise errors.MissingCheckpoint(f"{index}: no such file")
    num_shards, entries = _read_index(index, prefix)
    files = [
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{num_shards:05d}")
        for shard in range(num_shards)
    ]
    for file in files:
        if not file.exists():
            raise errors.MissingCheckpoint(
                f"{prefix}: the index is there, but no data file ({file.name}); copy "
                "it beside the index"
            )
    full_names = _full_names(entries.get(_OBJECT_GRAPH), files, prefix)
    optimizers = {
        found[1] for name in entries if (found := _OPTIMIZER.fullmatch(_short(name)))
    }
    wanted = {
        name: entry
        for name, entry in entries.items()
        if entry.dtype in _DTYPES
        and not entry.sliced
        and _is_weight(name, optimizers, full_names)
    }
    expected = sum(_num_bytes(entry) for entry in wanted.values())
    available = sum(file.stat().st_size for file in files)
    if expected > available:
        raise errors.CorruptCheckpoint(
            f"{prefix}: its variables have {expected:,} bytes, its data files only "
            f"{available:,}; copy them again, all of them and in full"
        )
    tensors: dict[str, np.ndarray] = {}
    by_shard: dict[int, list[str]] = collections.defaultdict(list)
    for name, entry in wanted.items():
        by_shard[entry.shard].append(name)
    for shard, names in by_shard.items():
        with files[shard].open("rb") as data:
            for name in names:
                entry = wanted[name]
                content = _content(data, entry, f"{prefix}: {name}")
                values = np.frombuffer(content, _DTYPES[entry.dtype])
                tensors[name] = values.reshape(entry.shape)
    tensors = _renamed(tensors, full_names)
    aside = (
        _short(name) + IN_PARTS * entries[name].sliced
        for name in entries.keys() - wanted.keys()
    )
    return tensors, tuple(sorted(aside))


def _is_weight(
    name: str, optimizers: Collection[str], full_names: Mapping[str, str]
) -> bool:
    parts = name.split("/")
    for number in range(1, len(parts)):
        if "/".join(parts[:number]) in optimizers:
            below = _short("/".join(parts[number:]))
            return bool(_TRAINED.fullmatch(below)) and name in full_names
    return not _NOT_WEIGHTS.search(name)


def _short(name: str) -> str:
    return name.removesuffix(_VALUE_SUFFIX)


def _renamed(
    tensors: dict[str, np.ndarray], full_names: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """By layer and variable, as Keras' full names end; else by keys, shortened.

    A name that two tensors would have is nobody's.
    """
    ends = {
        key: "/".join(full_names.get(key, "").split("/")[-2:]) or _short(key)
        for key in tensors
    }
    counts = collections.Counter(ends.values())
    names = {key: end if counts[end] == 1 else _short(key) for key, end in ends.items()}
    if len({*names.values()}) < len(names):
        names = {key: key for key in tensors}
    return {names[key]: tensor for key, tensor in sorted(tensors.items())}


def _num_bytes(entry: _Entry) -> int:
    return math.prod(entry.shape) * _DTYPES[entry.dtype].itemsize


def _content(file: Any, entry: _Entry, where: str) -> bytes:
    """A tensor's bytes, its checksum verified."""
    size = file.seek(0, 2)
    if entry.offset + entry.size > size:
        raise errors.CorruptCheckpoint(
            f"{where} ends at byte {entry.offset + entry.size:,} of a data file of "
            f"{size:,}; copy the data files again, in full"
        )
    file.seek(entry.offset)
    content: bytes = file.read(entry.size)
    if leveldb.masked_crc(content) != entry.crc:
        raise errors.CorruptCheckpoint(
            f"{where} is damaged (checksum); not a readable TensorFlow checkpoint, "
            "copy the data files again"
        )
    return content


def _read_index(index: Path, prefix: Path) -> tuple[int, dict[str, _Entry]]:
    """The number of data files, and {name: entry}."""
    size = index.stat().st_size
    if size > _INDEX_LIMIT:
        raise leveldb.unreadable(prefix, f"an index of {size:,} bytes")
    table = leveldb.Table(index.read_bytes(), prefix)
    num_shards, entries = 0, {}
    for key, value in table.items():
        message = wire.Wire(value, str(index))
        if not key:
            num_shards = _num_shards(message, prefix)
        elif not key.startswith(b"\0"):  # parts of sliced variables, by ordered codes
            entries[key.decode("utf-8", "replace")] = _entry(message, prefix)
        if len(entries) > _MAX_ENTRIES:
            raise leveldb.unreadable(prefix, f"more than {_MAX_ENTRIES:,} entries")
    if not 1 <= num_shards <= _MAX_SHARDS:
        raise leveldb.unreadable(prefix, f"{num_shards} data files")
    for name, entry in entries.items():
        if entry.shard >= num_shards:
            raise leveldb.unreadable(prefix, f"{name[:80]} in data file {entry.shard}")
    return num_shards, entries


def _num_shards(message: wire.Wire, prefix: Path) -> int:
    """Of a BundleHeaderProto."""
    found = 0
    for field in message.fields(0, len(message.data)):
        if field.number == 1 and field.kind == wire.VARINT:
            found = field.value
        elif field.number == 2 and field.kind == wire.VARINT and field.value:
            raise leveldb.unreadable(prefix, "written on a big-endian machine")
    return found


def _entry(message: wire.Wire, prefix: Path) -> _Entry:
    """A BundleEntryProto."""
    numbers = dict.fromkeys((1, 3, 4, 5), 0)
    shape: tuple[int, ...] = ()
    crc, sliced = 0, False
    for field in message.fields(0, len(message.data)):
        if field.number in numbers and field.kind == wire.VARINT:
            numbers[field.number] = field.value
        elif field.number == 2 and field.kind == wire.BYTES:
            shape = _shape(message, field, prefix)
        elif field.number == 6 and field.kind == wire.FIXED32:
            crc = int.from_bytes(message.data[field.start : field.end], "little")
        elif field.number == 7:
            sliced = True
    dtype, shard, offset, size = numbers.values()
    found = _Entry(
        dtype=dtype,
        shape=shape,
        shard=shard,
        offset=offset,
        size=size,
        crc=crc,
        sliced=sliced,
    )
    if dtype in _DTYPES and not sliced and size != _num_bytes(found):
        raise leveldb.unreadable(
            prefix, f"a tensor of shape {list(shape)} in {size:,} bytes"
        )
    return found


def _shape(message: wire.Wire, field: wire.Field, prefix: Path) -> tuple[int, ...]:
    """A TensorShapeProto."""
    sizes: list[int] = []
    for dim in message.fields(field.start, field.end):
        if dim.number != 2 or dim.kind != wire.BYTES:
            continue
        size = 0
        for part in message.fields(dim.start, dim.end):
            if part.number == 1 and part.kind == wire.VARINT:
                size = part.value
        sizes.append(size)
        if not shapes.is_possible(sizes):
            raise leveldb.unreadable(prefix, f"a shape that begins with {sizes[:8]}")
    return tuple(sizes)


def _full_names(
    entry: _Entry | None, files: list[Path], prefix: Path
) -> dict[str, str]:
    """{checkpoint key: full name} of a TF2 checkpoint's object graph."""
    if entry is None or entry.dtype != _STRING or entry.shape:
        return {}
    if entry.size > _MAX_GRAPH_BYTES:
        raise leveldb.unreadable(prefix, f"an object graph of {entry.size:,} bytes")
    with files[entry.shard].open("rb") as file:
        size = file.seek(0, 2)
        if entry.offset + entry.size > size:
            return {}
        file.seek(entry.offset)
        content = file.read(entry.size)
    # One string: its length, a checksum of the lengths, its bytes.
    message = wire.Wire(content, f"{prefix}: {_OBJECT_GRAPH}")
    length, at = message.varint(0, len(content))
    graph = wire.Wire(content[at + 4 :], message.where)
    if length != len(graph.data):
        raise leveldb.unreadable(prefix, "an object graph of another length")
    return object_graph.full_names(graph)
