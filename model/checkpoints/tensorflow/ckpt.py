"""Read TensorFlow checkpoints (.index and .data files) as {variable name: array}.

TensorFlow's own reader ends the process at some damaged indices, so it is not used.
The data files are the numbers, one tensor after another. A TF2 checkpoint also holds
the graph of its objects, which says what its variables are called.

Source of the graph: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

import collections
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.checkpoints import errors
from model.checkpoints.checkpoint import Checkpoint
from model.checkpoints.protobuf_fields import BYTES, Wire
from model.checkpoints.tensorflow import bundle_index
from model.checkpoints.tensorflow.bundle_index import Entry
from pipeline.records import tfrecord
from pipeline.system import file_system

# What optimizers and savers store in addition to weights. Source: tf.compat.v1.train's
# slot names, tf.train.Checkpoint's bookkeeping.
_NOT_WEIGHTS = re.compile(
    r"(^|/)(Momentum|RMSProp|RMSProp_1|Adam|Adam_1|Adagrad|Adadelta|Adadelta_1|Ftrl"
    r"|ExponentialMovingAverage|global_step|beta[12]_power|save_counter"
    r"|_CHECKPOINTABLE_OBJECT_GRAPH)(:|/|$)|\.OPTIMIZER_SLOT|(^|/)_?optimizer/"
    r"|^keras_api/metrics/"
)
# Variables that only Keras' optimizers have. The variables that an optimizer trains may
# stand below it and nowhere else.
_OPTIMIZER = re.compile(r"(.+)/(?:_iterations|_learning_rate|iter)")
_TRAINED = re.compile(r"_trainable_variables/\d+")
IN_PARTS = " (a variable in parts)"
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_MAX_GRAPH_BYTES = 64 << 20  # no model has a graph as large
# Numbers of fields: of the graph, of a node, of its children and of its attributes.
_NODES, _CHILDREN, _ATTRIBUTES = 1, 1, 2
_NODE_ID, _LOCAL_NAME, _FULL_NAME, _CHECKPOINT_KEY = 1, 2, 2, 3
_ENDING = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_STATE_NAME = "checkpoint"
_STATE_PATH = re.compile(r'^\s*model_checkpoint_path:\s*"([^"]*)"', re.MULTILINE)

LayerPaths = Mapping[tuple[str, ...], str]  # {attributes from the root on: layer}


def prefix_of(path: Path) -> Path | None:
    """Return the prefix of a checkpoint, or None if there is no checkpoint.

    `path` is the prefix, one of the checkpoint's files, or a folder with a checkpoint.
    """
    if path.name == _STATE_NAME and path.is_file():
        return _newest(path.parent)
    match = _ENDING.search(path.name)
    if match and match.start():
        prefix = path.with_name(path.name[: match.start()])
        if match[0] == ".index" or _index(prefix).exists() or path.is_file():
            return prefix
    if path.name and _index(path).exists():
        return path
    return _newest(path) if path.is_dir() else None


def _index(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".index")


def _newest(folder: Path) -> Path | None:
    """Return the checkpoint that the folder's state file names, or the only one."""
    names = {index.name.removesuffix(".index") for index in folder.glob("?*.index")}
    state = folder / _STATE_NAME
    if state.is_file():
        with state.open("rb") as file:
            match = _STATE_PATH.search(file.read(1 << 20).decode("utf-8", "replace"))
        # The path may be that of the folder where it was written; the name still holds.
        name = re.split(r"[/\\]", match[1])[-1] if match else ""
        if name in names:
            return folder / name
    return folder / names.pop() if len(names) == 1 else None


def read(prefix: Path, *, layers: LayerPaths | None = None) -> Checkpoint:
    """Read a checkpoint of TF1 or TF2.

    `layers` help to name the variables of a TF2 checkpoint. Optimizer slots, counters,
    strings and parts of variables are not read as weights.
    """
    index = _index(prefix)
    if not index.exists():
        raise errors.MissingCheckpoint(
            f"{index}: no such file; a TensorFlow checkpoint consists of an .index and "
            "its .data files: copy all of them into one folder"
        )
    file_system.refuse_lfs_pointer(index)
    num_shards, entries = bundle_index.read(index, prefix)
    files = _data_files(prefix, num_shards)
    names = _names(entries.get(_OBJECT_GRAPH), files, prefix, layers or {})
    optimizers = {
        match[1] for name in entries if (match := _OPTIMIZER.fullmatch(_short(name)))
    }
    weights = {
        name: entry
        for name, entry in entries.items()
        if entry.dtype in bundle_index.DTYPES
        and not entry.sliced
        and _is_weight(name, optimizers, names)
    }
    expected = sum(entry.num_bytes for entry in weights.values())
    available = sum(file.stat().st_size for file in files)
    if expected > available:
        raise errors.CorruptCheckpoint(
            f"{prefix}: its variables have {expected:,} bytes, its data files only "
            f"{available:,}; copy them again, all of them and in full"
        )
    tensors = {
        name: _read_tensor(entry, files, f"{prefix}: {name}")
        for name, entry in weights.items()
    }
    ignored = (
        _short(name) + IN_PARTS * entries[name].sliced
        for name in entries.keys() - weights.keys()
    )
    return Checkpoint(
        tensors=_rename(tensors, names),
        format="TensorFlow checkpoint",
        ignored_entries=tuple(sorted(ignored)),
    )


def _data_files(prefix: Path, num_shards: int) -> list[Path]:
    """Return the data files, all of which exist."""
    files = [
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{num_shards:05d}")
        for shard in range(num_shards)
    ]
    for file in files:
        if not file.exists():
            raise errors.MissingCheckpoint(
                f"{prefix}: no data file {file.name}; copy it beside the index"
            )
        file_system.refuse_lfs_pointer(file)
    return files


def _is_weight(
    name: str, optimizers: Collection[str], names: Mapping[str, str]
) -> bool:
    parts = name.split("/")
    for number in range(1, len(parts)):
        if "/".join(parts[:number]) in optimizers:
            below = _short("/".join(parts[number:]))
            return bool(_TRAINED.fullmatch(below)) and name in names
    return not _NOT_WEIGHTS.search(name)


def _short(name: str) -> str:
    return name.removesuffix(_VALUE_SUFFIX)


def _read_tensor(entry: Entry, files: Sequence[Path], where: str) -> np.ndarray:
    """Read a tensor and verify its checksum."""
    data = _read_bytes(entry, files, where)
    if tfrecord.masked_crc(data) != entry.crc:
        raise errors.CorruptCheckpoint(
            f"{where} is damaged (checksum); not a readable TensorFlow checkpoint, "
            "copy the data files again"
        )
    return np.frombuffer(data, bundle_index.DTYPES[entry.dtype]).reshape(entry.shape)


def _read_bytes(entry: Entry, files: Sequence[Path], where: str) -> bytes:
    with files[entry.shard].open("rb") as file:
        end, size = entry.offset + entry.size, file.seek(0, 2)
        if end > size:
            raise errors.CorruptCheckpoint(
                f"{where} ends at byte {end:,} of a data file of {size:,}; copy the "
                "data files again, in full"
            )
        file.seek(entry.offset)
        return file.read(entry.size)


def _rename(
    tensors: dict[str, np.ndarray], names: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Name tensors by layer and variable.

    A tensor without a name, or with the same name as another, is called by its key
    without the suffix. If two names are then the same, all keep their whole keys.
    """
    ends = {key: names.get(key) or _short(key) for key in tensors}
    counts = collections.Counter(ends.values())
    new = {key: end if counts[end] == 1 else _short(key) for key, end in ends.items()}
    if len({*new.values()}) < len(new):
        new = {key: key for key in tensors}
    return {new[key]: tensor for key, tensor in sorted(tensors.items())}


def _names(
    entry: Entry | None, files: Sequence[Path], prefix: Path, layers: LayerPaths
) -> dict[str, str]:
    """Return {checkpoint key: name} of a TF2 checkpoint's object graph."""
    if entry is None or entry.dtype != bundle_index.STRING or entry.shape:
        return {}
    if entry.size > _MAX_GRAPH_BYTES:
        raise bundle_index.unreadable(prefix, f"an object graph of {entry.size} bytes")
    where = f"{prefix}: {_OBJECT_GRAPH}"
    data = _read_bytes(entry, files, where)
    # One string: its length, a checksum of the lengths, its bytes.
    length, at = Wire(data, where).varint(0, len(data))
    graph = Wire(data[at + 4 :], where)
    if length != len(graph.data):
        raise bundle_index.unreadable(prefix, "an object graph of another length")
    return _variable_names(graph, layers)


class _Node(NamedTuple):
    """An object; `key` and `full_name` are those of a variable, or ""."""

    children: dict[str, int]  # {attribute: index of the node}
    key: str
    full_name: str


def _variable_names(graph: Wire, layers: LayerPaths) -> dict[str, str]:
    """Return {checkpoint key: name} of the variables in a TrackableObjectGraph.

    A variable of one of `layers` is called "layer/attribute". Others are called by the
    last two parts of their full name in the graph: layer and variable.
    """
    nodes = list(_nodes(graph))
    names = {
        node.key: "/".join(node.full_name.split("/")[-2:])
        for node in nodes
        if node.key and node.full_name
    }
    nothing = _Node({}, "", "")
    by_index = dict(enumerate(nodes))
    for path, layer in layers.items():
        node = by_index.get(0, nothing)
        for attribute in path:
            node = by_index.get(node.children.get(attribute, -1), nothing)
        for attribute, index in node.children.items():
            if key := by_index.get(index, nothing).key:
                names[key] = f"{layer}/{attribute}"
    return names


def _nodes(graph: Wire) -> Iterator[_Node]:
    for field in graph.fields():
        if field.number != _NODES:
            continue
        children, key, full_name = dict[str, int](), "", ""
        for part in graph.fields(field):
            if part.number not in (_CHILDREN, _ATTRIBUTES):
                continue
            values = graph.by_number(part)
            texts = {n: graph.text(f) for n, f in values.items() if f.kind == BYTES}
            if part.number == _ATTRIBUTES:
                key = texts.get(_CHECKPOINT_KEY, "")
                full_name = texts.get(_FULL_NAME, "")
            else:
                index = values[_NODE_ID].value if _NODE_ID in values else 0
                children[texts.get(_LOCAL_NAME, "")] = index
        yield _Node(children, key, full_name)
