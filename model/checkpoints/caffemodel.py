"""Read Caffe's .caffemodel as {name: array}, and mean images, from protobuf.

The protobuf runtime would make an object of each of 60 million numbers; here they are
views of the file's bytes. Only fields that hold weights are read.

Sources: caffe/src/caffe/proto/caffe.proto (field numbers, layer types);
protobuf.dev/programming-guides/encoding.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoints import bounds, errors, npy
from model.checkpoints.checkpoint import Checkpoint
from model.checkpoints.protobuf_fields import BYTES, Field, Wire
from pipeline.system import file_system

# Fields of NetParameter, its layers and their blobs.
_NET_NAME, _NET_LAYERS_V1, _NET_LAYERS = 1, 2, 100
_NET_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 100}
# {kind of layer: fields of its name, type and blobs}.
_LAYER_FIELDS = {_NET_LAYERS: (1, 2, 7), _NET_LAYERS_V1: (4, 5, 6)}
_BLOB_AXES, _BLOB_DATA, _BLOB_SHAPE, _BLOB_DOUBLES = (1, 2, 3, 4), 5, 7, 8
_DTYPES: dict[int, np.dtype[Any]] = {
    _BLOB_DATA: np.dtype("<f4"),
    _BLOB_DOUBLES: np.dtype("<f8"),
}
_MAX_MEAN_BYTES = 64 << 20  # 1536 x 1536 pixels of double precision
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


def recognises(path: Path) -> bool:
    """Return whether a file begins like a NetParameter, which has no signature."""
    size = path.stat().st_size
    with path.open("rb") as file:
        message = Wire(file.read(_BEGINNING), str(path))
    at = layers = 0
    try:
        while at < min(size, len(message.data) - 20):
            field = message.field(at, size)
            is_layer = field.number in _LAYER_FIELDS
            is_message = field.kind == BYTES
            if field.number not in _NET_FIELDS or (is_layer and not is_message):
                return False
            layers += is_layer
            at = field.end
    except errors.CorruptCheckpoint:
        pass  # if layers came before, `read` says what is wrong
    return layers > 0


def read(path: Path) -> Checkpoint:
    """Read a network's weights as {"layer/number of the blob": array}.

    Arrays are as the file has them, float32 or float64: a convolution's kernel
    "conv1/0" is OIHW, a dense layer's "fc6/0" is [out, in]. Metadata have the "name" of
    the network.
    """
    message = Wire(path.read_bytes(), str(path))
    tensors: dict[str, np.ndarray] = {}
    name = ""
    layers: list[tuple[str, str]] = []
    for field in message.fields():
        if field.number == _NET_NAME:
            name = message.text(field)
        elif field.number in _LAYER_FIELDS:
            layer, kind, blobs = _layer(message, field)
            layers.append((layer, kind))
            for number, values in enumerate(blobs):
                key = f"{layer}/{number}"
                if key in tensors:
                    problem = f"a second layer {layer!r} with weights"
                    raise message.corrupt(problem, field.start)
                axes = 1 if number else _KERNEL_AXES.get(kind, 1)
                tensors[key] = _drop_leading_ones(values, axes)
    if not tensors:
        raise errors.UnknownFormat(
            f"{path}: a Caffe network without weights, or of Caffe's version 0; "
            "expected a .caffemodel as training writes it"
        )
    return Checkpoint(
        tensors=tensors, format="Caffe", metadata={"name": name}, layers=tuple(layers)
    )


def _layer(message: Wire, field: Field) -> tuple[str, str, list[np.ndarray]]:
    """Return name, type and blobs of a layer, of the new version or version 1."""
    is_v1 = field.number == _NET_LAYERS_V1
    name_field, type_field, blob_field = _LAYER_FIELDS[field.number]
    name = kind = ""
    blobs: list[np.ndarray] = []
    for part in message.fields(field):
        if part.number == name_field:
            name = message.text(part)
        elif part.number == type_field:
            kind = _V1_TYPES.get(part.value, "") if is_v1 else message.text(part)
        elif part.number == blob_field:
            blobs.append(_blob(message, part))
    return name, kind, blobs


def _blob(message: Wire, blob_field: Field | None = None) -> np.ndarray:
    """Return a BlobProto, a field or the whole file, as an array in its own shape.

    It is float32 or float64, a view of the file's bytes unless they are in pieces.
    Caffe packs the numbers of a blob into one field.
    """
    shape = [1, 1, 1, 1]
    pieces: dict[int, list[np.ndarray]] = {number: [] for number in _DTYPES}
    for field in message.fields(blob_field):
        if field.number in _BLOB_AXES:
            shape[field.number - 1] = field.value
        elif field.number == _BLOB_SHAPE:
            shape = [n for part in message.fields(field) for n in message.numbers(part)]
        elif field.number in _DTYPES:
            start, end = message.span(field)
            dtype = _DTYPES[field.number]
            count, rest = divmod(end - start, dtype.itemsize)
            if rest:
                problem = f"{end - start:,} bytes of {dtype} numbers"
                raise message.corrupt(problem, start)
            piece = np.frombuffer(message.data, dtype, count, start)
            pieces[field.number].append(piece)
    parts = pieces[_BLOB_DOUBLES] or pieces[_BLOB_DATA] or [np.empty(0, "<f4")]
    values = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if not bounds.is_possible_shape(shape) or math.prod(shape) != values.size:
        problem = f"a blob of shape {shape[:9]} with {values.size:,} numbers"
        raise message.corrupt(problem, message.span(blob_field)[0])
    return values.reshape(shape)


def _drop_leading_ones(values: np.ndarray, axes: int) -> np.ndarray:
    """Drop axes of size 1 in front of the last `axes`; old blobs have up to four."""
    while values.ndim > axes and values.shape[0] == 1:
        values = values[0]
    return values


def read_mean(path: Path) -> np.ndarray:
    """Read a mean image (.binaryproto, .npy), which is subtracted from every image.

    It is float32 [height, width, 3], or [3] for one value per channel, in units of
    pixels, 0..255; the channels are in the file's own order.
    """
    if not path.is_file():
        raise errors.MissingCheckpoint(f"{path}: no such file; expected a mean image")
    file_system.refuse_lfs_pointer(path)
    size = path.stat().st_size
    if size > _MAX_MEAN_BYTES:
        raise errors.CorruptCheckpoint(
            f"{path}: {size:,} bytes; a mean image has at most {_MAX_MEAN_BYTES:,}"
        )
    data, where = path.read_bytes(), str(path)
    is_npy = data.startswith(npy.SIGNATURE)
    values = npy.parse_values(data, where) if is_npy else _blob(Wire(data, where))
    values = _drop_leading_ones(values, 1)
    if values.ndim == 3 and values.shape[0] == 3:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[:2] == (1, 1):
        values = values[0, 0]
    is_mean = values.ndim in (1, 3) and values.shape[-1] == 3 and values.size
    if not is_mean or values.dtype.kind not in "fiu":
        raise errors.CorruptCheckpoint(
            f"{path}: holds {values.dtype} {list(values.shape)}; expected a mean of "
            "three channels, as [3], [3, height, width] or [height, width, 3]"
        )
    with np.errstate(over="ignore"):
        mean = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(mean).all():
        raise errors.CorruptCheckpoint(f"{path}: holds numbers that are not finite")
    return mean
