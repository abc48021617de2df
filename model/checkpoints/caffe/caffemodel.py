"""Caffe's .caffemodel -> {name: array}, straight from protobuf's wire format.

The protobuf runtime would make an object of each of 60 million numbers; here they are
views of the file's bytes. Only the fields that hold weights are looked at.

Sources: caffe/src/caffe/proto/caffe.proto (field numbers, layer types);
protobuf.dev/programming-guides/encoding.
"""

import math
from pathlib import Path

import numpy as np

from model.checkpoints import errors, wire

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
    _BLOB_DATA: ("<f4", wire.FIXED32),
    _BLOB_DIFF: ("<f4", wire.FIXED32),
    _BLOB_DOUBLES: ("<f8", wire.FIXED64),
    _BLOB_DOUBLE_DIFF: ("<f8", wire.FIXED64),
}
_MAX_AXES = 32  # kMaxBlobAxes, caffe/blob.hpp
# Of a file, a run of numbers being one; networks of 1,500 layers have some 30,000.
_MAX_FIELDS = 500_000
_MAX_NAME_BYTES = 1000
_BEGINNING = 1 << 20  # bytes that tell whether a file is one
# V1LayerParameter.LayerType.
_V1_TYPES = {
    1: "Accuracy",
    2: "BNLL",
    3: "Concat",
    4: "Convolution",
    5: "Data",
    6: "Dropout",
    7: "EuclideanLoss",
    8: "Flatten",
    9: "HDF5Data",
    10: "HDF5Output",
    11: "Im2col",
    12: "ImageData",
    13: "InfogainLoss",
    14: "InnerProduct",
    15: "LRN",
    16: "MultinomialLogisticLoss",
    17: "Pooling",
    18: "ReLU",
    19: "Sigmoid",
    20: "Softmax",
    21: "SoftmaxWithLoss",
    22: "Split",
    23: "TanH",
    24: "WindowData",
    25: "Eltwise",
    26: "Power",
    27: "SigmoidCrossEntropyLoss",
    28: "HingeLoss",
    29: "MemoryData",
    30: "ArgMax",
    31: "Threshold",
    32: "DummyData",
    33: "Slice",
    34: "MVN",
    35: "AbsVal",
    36: "Silence",
    37: "ContrastiveLoss",
    38: "Exp",
    39: "Deconvolution",
}


class Message(wire.Wire):
    """A file as protobuf messages, with no more in it than a network has."""

    def __init__(self, data: bytes, where: str) -> None:
        """Looks at the file's bytes; makes no copy."""
        super().__init__(data, where)
        self._fields_left = _MAX_FIELDS

    def field(self, at: int, end: int) -> wire.Field:
        """The field that starts at `at`, inside a message that ends at `end`."""
        if not self._fields_left:
            raise self.corrupt(f"more than {_MAX_FIELDS:,} fields", at)
        self._fields_left -= 1
        return super().field(at, end)

    def text(self, field: wire.Field) -> str:
        """The value of a string field, a name."""
        size = field.end - field.start
        if size > _MAX_NAME_BYTES:
            raise self.corrupt(f"a name of {size:,} bytes", field.start)
        return super().text(field)


def recognises(path: Path) -> bool:
    """Whether a file begins like a NetParameter: it has no mark of its own."""
    size = path.stat().st_size
    with path.open("rb") as file:
        message = Message(file.read(_BEGINNING), str(path))
    at = layers = 0
    try:
        while at < min(size, len(message.data) - 20):
            field = message.field(at, size)
            if field.number not in _NET_FIELDS:
                return False
            if field.number in (_NET_LAYERS, _NET_LAYERS_V1):
                if field.kind != wire.BYTES:
                    return False
                layers += 1
            at = field.end
    except errors.CorruptCheckpoint:
        pass  # if it has begun as one, the reader says what is wrong
    return layers > 0


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a network's weights.

    Returns:
        {"layer/number of the blob": float32 or float64 array}, as the file has them: a
        convolution's kernel "conv1/0" is OIHW, a dense layer's "fc6/0" [out, in]; and
        what the file says of itself: "name", and "layers" with a line "name Type" for
        each layer, in its order.

    Raises:
        errors.UnknownFormat: of Caffe's oldest version.
        errors.CorruptCheckpoint: cut off or damaged.
    """
    message = Message(path.read_bytes(), str(path))
    tensors: dict[str, np.ndarray] = {}
    name = ""
    layers: list[str] = []
    for field in message.fields(0, len(message.data)):
        if field.number == _NET_NAME and field.kind == wire.BYTES:
            name = message.text(field)
        elif field.number in (_NET_LAYERS, _NET_LAYERS_V1):
            layer, kind, blobs = _layer(message, field)
            layers.append(f"{_word(layer)} {_word(kind)}")
            for number, values in enumerate(blobs):
                key = f"{layer}/{number}"
                if key in tensors:
                    raise message.corrupt(
                        f"a second layer {layer!r} with weights", field.start
                    )
                tensors[key] = _of_layer(values, kind, number)
    if not tensors:
        raise errors.UnknownFormat(
            f"{path}: a Caffe network without weights; expected a .caffemodel as "
            "training writes it"
        )
    return tensors, {"name": name, "layers": "\n".join(layers)}


def _word(text: str) -> str:
    """A name without space, so that a line of two stays one of two."""
    return "_".join(text.split()) or "?"


def _layer(message: Message, field: wire.Field) -> tuple[str, str, list[np.ndarray]]:
    """Name, type and blobs of a layer of either version."""
    old = field.number == _NET_LAYERS_V1
    if field.kind != wire.BYTES:
        raise message.corrupt("a layer that is no message", field.start)
    name = kind = ""
    blobs: list[np.ndarray] = []
    for part in message.fields(field.start, field.end):
        if old and part.number == _V1_V0_LAYER and part.kind == wire.BYTES:
            raise errors.UnknownFormat(
                f"{message.where}: of Caffe's version 0; turn it with Caffe's "
                "upgrade_net_proto_binary and try the result"
            )
        if part.number == (_V1_NAME if old else _LAYER_NAME):
            name = message.text(part)
        elif part.number == (_V1_TYPE if old else _LAYER_TYPE):
            kind = _V1_TYPES.get(part.value, "") if old else message.text(part)
        elif part.number == (_V1_BLOBS if old else _LAYER_BLOBS):
            if part.kind != wire.BYTES:
                raise message.corrupt("a blob that is no message", part.start)
            blobs.append(blob(message, part.start, part.end))
    return name, kind, blobs


def blob(message: Message, start: int, end: int) -> np.ndarray:
    """A BlobProto as an array, float32 or float64, in the file's own shape.

    Args:
        message: the file.
        start: where the BlobProto begins in it.
        end: where it ends.

    Returns:
        A view of the file's bytes, read-only; a copy if its numbers are in pieces.

    Raises:
        errors.CorruptCheckpoint: damaged, or of another number of numbers.
    """
    axes, shape = [1, 1, 1, 1], None
    pieces: dict[int, list[np.ndarray]] = {number: [] for number in _NUMBERS}
    at = start
    while at < end:
        field = message.field(at, end)
        if field.number in _BLOB_AXES and field.kind == wire.VARINT:
            axes[field.number - 1] = field.value
        elif field.number == _BLOB_SHAPE:
            shape = _shape(message, field)
        elif field.number in _NUMBERS:
            piece, at = _numbers(message, field, at, end)
            pieces[field.number].append(piece)
            continue
        at = field.end
    found = pieces[_BLOB_DOUBLES] or pieces[_BLOB_DATA] or [np.empty(0, "<f4")]
    values = np.concatenate(found) if len(found) > 1 else found[0]
    wanted = tuple(axes) if shape is None else shape
    # NumPy counts what an array would have without its axes of size 0.
    if math.prod(wanted) != values.size or math.prod(filter(None, wanted)) >= 1 << 48:
        raise message.corrupt(
            f"a blob of shape {list(wanted)} with {values.size:,} numbers", start
        )
    return values.reshape(wanted)


def _shape(message: Message, field: wire.Field) -> tuple[int, ...]:
    """A BlobShape, packed or not."""
    if field.kind != wire.BYTES:
        raise message.corrupt("a shape that is no message", field.start)
    sizes: list[int] = []
    for part in message.fields(field.start, field.end):
        if part.number != _SHAPE_DIM:
            continue
        at = part.start
        while part.kind == wire.BYTES and at < part.end and len(sizes) <= _MAX_AXES:
            size, at = message.varint(at, part.end)
            sizes.append(size)
        if part.kind == wire.VARINT:
            sizes.append(part.value)
        if len(sizes) > _MAX_AXES:
            raise message.corrupt(f"a shape of more than {_MAX_AXES} axes", field.start)
    return tuple(sizes)


def _numbers(
    message: Message, field: wire.Field, at: int, end: int
) -> tuple[np.ndarray, int]:
    """Numbers that begin with a field at `at`, and where they end.

    Packed, they are one field. Else each is a field of its own, with a tag of one byte;
    a run of such is a structured array, and needs no loop.
    """
    code, kind = _NUMBERS[field.number]
    dtype = np.dtype(code)
    if field.kind == wire.BYTES:
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
    """How many tags are like the first.

    Looks no further than about twice that far: a hostile blob is a million short runs.
    """
    count, block = 0, 1024
    while count < len(tags):
        others = np.flatnonzero(tags[count : count + block] != tags[0])
        if len(others):
            return count + int(others[0])
        count, block = count + block, 2 * block
    return len(tags)


def _of_layer(values: np.ndarray, kind: str, number: int) -> np.ndarray:
    """Drops the leading ones that blobs of old versions have, four axes being theirs.

    A kernel of a dense layer has two axes, one of a convolution four, a bias one.
    """
    wanted = {("Convolution", 0): 4, ("Deconvolution", 0): 4, ("InnerProduct", 0): 2}
    axes = wanted.get((kind, number), 1)
    while values.ndim > axes and values.shape[0] == 1:
        values = values[0]
    return values
