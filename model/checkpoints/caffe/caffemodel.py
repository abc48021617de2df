"""Read Caffe's .caffemodel as {name: array}, from protobuf's wire format.

The protobuf runtime would make an object of each of 60 million numbers; here they are
views of the file's bytes. Only fields that hold weights are read.

Sources: caffe/src/caffe/proto/caffe.proto (field numbers, layer types);
protobuf.dev/programming-guides/encoding.
"""

import math
from pathlib import Path

import numpy as np

from model.checkpoints import bounds, errors, protobuf_fields

# Fields of NetParameter; of a layer, new and of version 1; of a blob.
_NET_NAME, _NET_LAYERS_V1, _NET_LAYERS = 1, 2, 100
_NET_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 100}
_LAYER_NAME, _LAYER_TYPE, _LAYER_BLOBS = 1, 2, 7
_V1_V0_LAYER, _V1_NAME, _V1_TYPE, _V1_BLOBS = 1, 4, 5, 6
_BLOB_AXES, _BLOB_DATA, _BLOB_SHAPE, _BLOB_DOUBLES = (1, 2, 3, 4), 5, 7, 8
_BLOB_DIFF, _BLOB_DOUBLE_DIFF = 6, 9
_SHAPE_DIM = 1
# How numbers are stored: their type, and the wire type of one that is not packed.
_NUMBERS = {
    _BLOB_DATA: ("<f4", protobuf_fields.FIXED32),
    _BLOB_DIFF: ("<f4", protobuf_fields.FIXED32),
    _BLOB_DOUBLES: ("<f8", protobuf_fields.FIXED64),
    _BLOB_DOUBLE_DIFF: ("<f8", protobuf_fields.FIXED64),
}
_MAX_AXES = 32  # kMaxBlobAxes, caffe/blob.hpp
# Fields of a file, where a run of numbers counts as one. Networks of 1,500 layers have
# some 30,000.
_MAX_FIELDS = 500_000
_MAX_NAME_BYTES = 1000
_BEGINNING = 1 << 20  # bytes that show whether a file is one
# Axes of a layer's first blob, the kernel; other blobs are biases and have one.
_KERNEL_AXES = {"Convolution": 4, "Deconvolution": 4, "InnerProduct": 2}
# V1LayerParameter.LayerType, from 1 on.
_V1_TYPES = dict(enumerate((
    "Accuracy", "BNLL", "Concat", "Convolution", "Data", "Dropout", "EuclideanLoss",
    "Flatten", "HDF5Data", "HDF5Output", "Im2col", "ImageData", "InfogainLoss",
    "InnerProduct", "LRN", "MultinomialLogisticLoss", "Pooling", "ReLU", "Sigmoid",
    "Softmax", "SoftmaxWithLoss", "Split", "TanH", "WindowData", "Eltwise", "Power",
    "SigmoidCrossEntropyLoss", "HingeLoss", "MemoryData", "ArgMax", "Threshold",
    "DummyData", "Slice", "MVN", "AbsVal", "Silence", "ContrastiveLoss", "Exp",
    "Deconvolution",
), start=1))  # fmt: skip


class Message(protobuf_fields.Wire):
    """A file as protobuf messages, with limits that every network observes."""

    def __init__(self, data: bytes, where: str) -> None:
        """Take the file's bytes, without a copy, and its name for errors."""
        super().__init__(data, where)
        self._fields_left = _MAX_FIELDS

    def field(self, at: int, end: int) -> protobuf_fields.Field:
        """Return the field that begins at `at`, in a message that ends at `end`."""
        if not self._fields_left:
            raise self.corrupt(f"more than {_MAX_FIELDS:,} fields", at)
        self._fields_left -= 1
        return super().field(at, end)

    def text(self, field: protobuf_fields.Field) -> str:
        """Return the value of a text field, a name."""
        size = field.end - field.start
        if size > _MAX_NAME_BYTES:
            raise self.corrupt(f"a name of {size:,} bytes", field.start)
        return super().text(field)


def recognises(path: Path) -> bool:
    """Return whether a file begins like a NetParameter, which has no signature."""
    size = path.stat().st_size
    with path.open("rb") as file:
        message = Message(file.read(_BEGINNING), str(path))
    at = layers = 0
    try:
        while at < min(size, len(message.data) - 20):
            field = message.field(at, size)
            if field.number not in _NET_FIELDS:
                return False
            is_layer = field.number in (_NET_LAYERS, _NET_LAYERS_V1)
            if is_layer and field.kind != protobuf_fields.BYTES:
                return False
            layers += is_layer
            at = field.end
    except errors.CorruptCheckpoint:
        pass  # if layers came before, `read` says what is wrong
    return layers > 0


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a network's weights.

    Returns:
        {"layer/number of the blob": float32 or float64 array}, as the file has them: a
        convolution's kernel "conv1/0" is OIHW, a dense layer's "fc6/0" [out, in]. And
        metadata: "name" of the network, and "layers", a line "name Type" for each layer
        in the file's order.
    """
    message = Message(path.read_bytes(), str(path))
    tensors: dict[str, np.ndarray] = {}
    name = ""
    layers: list[str] = []
    for field in message.fields(0, len(message.data)):
        if field.number == _NET_NAME and field.kind == protobuf_fields.BYTES:
            name = message.text(field)
        elif field.number in (_NET_LAYERS, _NET_LAYERS_V1):
            layer, kind, blobs = _layer(message, field)
            layers.append(f"{_as_word(layer)} {_as_word(kind)}")
            for number, values in enumerate(blobs):
                key = f"{layer}/{number}"
                if key in tensors:
                    raise message.corrupt(
                        f"a second layer {layer!r} with weights", field.start
                    )
                axes = _KERNEL_AXES.get(kind, 1) if number == 0 else 1
                tensors[key] = _without_leading_ones(values, axes)
    if not tensors:
        raise errors.UnknownFormat(
            f"{path}: a Caffe network without weights; expected a .caffemodel as "
            "training writes it"
        )
    return tensors, {"name": name, "layers": "\n".join(layers)}


def _as_word(text: str) -> str:
    """Replace spaces, so that a line of two names has two words."""
    return "_".join(text.split()) or "?"


def _layer(
    message: Message, field: protobuf_fields.Field
) -> tuple[str, str, list[np.ndarray]]:
    """Return name, type and blobs of a layer, of the new version or version 1."""
    old = field.number == _NET_LAYERS_V1
    if field.kind != protobuf_fields.BYTES:
        raise message.corrupt("a layer that is no message", field.start)
    name = kind = ""
    blobs: list[np.ndarray] = []
    for part in message.fields(field.start, field.end):
        if old and part.number == _V1_V0_LAYER and part.kind == protobuf_fields.BYTES:
            raise errors.UnknownFormat(
                f"{message.where}: of Caffe's version 0; convert it with Caffe's "
                "upgrade_net_proto_binary and try the result"
            )
        if part.number == (_V1_NAME if old else _LAYER_NAME):
            name = message.text(part)
        elif part.number == (_V1_TYPE if old else _LAYER_TYPE):
            kind = _V1_TYPES.get(part.value, "") if old else message.text(part)
        elif part.number == (_V1_BLOBS if old else _LAYER_BLOBS):
            if part.kind != protobuf_fields.BYTES:
                raise message.corrupt("a blob that is no message", part.start)
            blobs.append(blob(message, part.start, part.end))
    return name, kind, blobs


def blob(message: Message, start: int, end: int) -> np.ndarray:
    """Return the BlobProto in [start, end) as an array in the file's own shape.

    It is float32 or float64, a view of the file's bytes unless they are in pieces.
    """
    axes, shape = [1, 1, 1, 1], None
    pieces: dict[int, list[np.ndarray]] = {number: [] for number in _NUMBERS}
    at = start
    while at < end:
        field = message.field(at, end)
        if field.number in _BLOB_AXES and field.kind == protobuf_fields.VARINT:
            axes[field.number - 1] = field.value
        elif field.number == _BLOB_SHAPE:
            shape = _shape(message, field)
        elif field.number in _NUMBERS:
            piece, at = _numbers(message, field, at, end)
            pieces[field.number].append(piece)
            continue
        at = field.end
    parts = pieces[_BLOB_DOUBLES] or pieces[_BLOB_DATA] or [np.empty(0, "<f4")]
    values = parts[0] if len(parts) == 1 else np.concatenate(parts)
    shape = tuple(axes) if shape is None else shape
    if not bounds.is_possible_shape(shape) or math.prod(shape) != values.size:
        raise message.corrupt(
            f"a blob of shape {list(shape)} with {values.size:,} numbers", start
        )
    return values.reshape(shape)


def _shape(message: Message, field: protobuf_fields.Field) -> tuple[int, ...]:
    """Return a BlobShape, packed or not."""
    if field.kind != protobuf_fields.BYTES:
        raise message.corrupt("a shape that is no message", field.start)
    sizes: list[int] = []
    for part in message.fields(field.start, field.end):
        if part.number != _SHAPE_DIM:
            continue
        at = part.start
        while (
            part.kind == protobuf_fields.BYTES
            and at < part.end
            and len(sizes) <= _MAX_AXES
        ):
            size, at = message.varint(at, part.end)
            sizes.append(size)
        if part.kind == protobuf_fields.VARINT:
            sizes.append(part.value)
        if len(sizes) > _MAX_AXES:
            raise message.corrupt(f"a shape of more than {_MAX_AXES} axes", field.start)
    return tuple(sizes)


def _numbers(
    message: Message, field: protobuf_fields.Field, at: int, end: int
) -> tuple[np.ndarray, int]:
    """Return numbers that begin with a field at `at`, and the byte after them.

    Packed numbers are one field. Others are a field each, with a tag of one byte; a run
    of such fields is read as a structured array, without a loop.
    """
    code, kind = _NUMBERS[field.number]
    dtype = np.dtype(code)
    if field.kind == protobuf_fields.BYTES:
        count, rest = divmod(field.end - field.start, dtype.itemsize)
        if rest:
            raise message.corrupt(
                f"{field.end - field.start:,} bytes of {dtype} numbers", field.start
            )
        return np.frombuffer(message.data, dtype, count, field.start), field.end
    if field.kind != kind or field.start != at + 1:
        raise message.corrupt("numbers of another kind", field.start)
    pair = np.dtype([("tag", "u1"), ("value", dtype)])
    pairs = np.frombuffer(message.data, pair, (end - at) // pair.itemsize, at)
    count = _run_length(pairs["tag"])
    return pairs["value"][:count], at + count * pair.itemsize


def _run_length(tags: np.ndarray) -> int:
    """Return how many tags at the beginning equal the first.

    Tags far behind the run are not read: a hostile blob is a million short runs.
    """
    count, block = 0, 1024
    while count < len(tags):
        others = np.flatnonzero(tags[count : count + block] != tags[0])
        if len(others):
            return count + int(others[0])
        count, block = count + block, 2 * block
    return len(tags)


def _without_leading_ones(values: np.ndarray, axes: int) -> np.ndarray:
    """Drop axes of size 1, of which blobs of old versions have up to four."""
    while values.ndim > axes and values.shape[0] == 1:
        values = values[0]
    return values
