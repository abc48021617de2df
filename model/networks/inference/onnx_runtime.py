"""Compute a frozen convolutional network with ONNX Runtime, where it is installed.

The network is written as an ONNX graph in memory, from its layers and weights, in the
protobuf wire format; no converter is needed.
"""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from model.networks.inference import batch_norm_folding
from pipeline.system import command_line

ENGINES = ("auto", "tensorflow", "onnxruntime")
# Source: onnx/onnx.proto3 (numbers of fields and types), onnx/docs/Operators.md.
_IR_VERSION, _OPSET = 8, 18
_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 7}
_UINT8 = 2


def is_installed() -> bool:
    """Return whether the package onnxruntime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def engine_for(model: Any, engine: str, precision: str) -> str:
    """Return name and version of what computes a network's features.

    ONNX Runtime computes networks in float32 whose batch normalisation folds and whose
    layers have a translation; TensorFlow all others. `engine` is the one to try.
    """
    if engine == "onnxruntime" and precision == "float32" and is_installed():
        import onnxruntime

        if batch_norm_folding.parts(model)[0] and to_onnx(model):
            return f"onnxruntime {onnxruntime.__version__}"
    return "tensorflow"


def compute(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function uint8 [batch, height, width, 3] -> output of a network.

    `model` is one for which `engine_for` names ONNX Runtime.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = command_line.available_cpus()
    options.log_severity_level = 3  # errors, which are raised as well
    # Threads that wait busily would take the cores from the decoder.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        to_onnx(model), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: np.asarray(session.run(None, {"image": images})[0])


def to_onnx(model: Any) -> bytes:
    """Return a network uint8 [batch, height, width, 3] -> output as an ONNX file.

    It is empty if a layer has no translation here.
    """
    try:
        return _Graph(model).encoded
    except _UnsupportedLayer:
        return b""


class _UnsupportedLayer(ValueError):
    """A layer has no translation here."""


class _Graph:
    """An ONNX graph; its tensors of rank 4 are [batch, channels, height, width]."""

    def __init__(self, model: Any) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._parts, self._removed = batch_norm_folding.parts(model)
        x = self.add("Cast", "image", to=_TYPES[np.dtype(np.float32)])
        x = self.add("Transpose", x, perm=[0, 3, 1, 2])
        # In place of tensors, their names pass through the network.
        x = model._run_through_graph(
            x, operation_fn=lambda operation: operation, call_fn=self._translate
        )
        if len(model.output.shape) == 4:
            x = self.add("Transpose", x, perm=[0, 2, 3, 1])
        x = self.add("Identity", x)
        graph = (
            _field(1, *self._nodes)
            + _field(2, b"network")
            + _field(5, *self._constants)
            + _field(11, _description("image", _UINT8, model.input.shape[1:]))
            + _field(12, _description(x, 1, model.output.shape[1:]))
        )
        version = _field(1, _IR_VERSION) + _field(8, _field(2, _OPSET))
        self.encoded = version + _field(7, graph)

    def add(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node whose inputs are names or arrays; return its output's name."""
        names = [x if isinstance(x, str) else self._constant(x) for x in inputs]
        output = f"t{len(self._nodes)}"
        self._nodes.append(
            _field(1, *map(str.encode, names))
            + _field(2, output.encode())
            + _field(4, kind.encode())
            + _field(5, *(_attribute(*item) for item in attributes.items()))
        )
        return output

    def _constant(self, array: Any) -> str:
        array = np.asarray(array)
        name = f"c{len(self._constants)}"
        values = _field(8, name.encode()) + _field(9, array.tobytes())
        kind = _field(2, _TYPES[array.dtype])
        self._constants.append(_field(1, *array.shape) + kind + values)
        return name

    def _translate(self, layer: Any, x: Any, *_: Any, **__: Any) -> str:
        """Add a layer; return the name of its output. `x` is a name or several."""
        kind = next((kind for kind in _TRANSLATIONS if type(layer) is kind), None)
        is_last = getattr(layer, "data_format", "channels_last") == "channels_last"
        if layer.name in self._removed:
            return str(x)
        if kind is None or not is_last:
            raise _UnsupportedLayer(layer.name)
        return _TRANSLATIONS[kind](self, layer, x)

    def convolution(self, layer: Any, x: str) -> str:
        """Add a convolution, depthwise or not."""
        kernel, bias = self._parts.get(layer.name, (layer.kernel, layer.bias))
        # [height, width, in, out]; depthwise: [height, width, in, out for each input]
        kernel, groups = keras.ops.convert_to_numpy(kernel), getattr(layer, "groups", 0)
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            groups = int(kernel.shape[2])
            kernel = kernel.reshape((*kernel.shape[:2], 1, -1))
        x = self.add(
            "Conv",
            x,
            np.transpose(kernel, (3, 2, 0, 1)),
            *([] if bias is None else [keras.ops.convert_to_numpy(bias)]),
            group=groups,
            auto_pad=_padding(layer),
            strides=list(layer.strides),
            dilations=list(layer.dilation_rate),
        )
        return self.activation(layer, x)

    def activation(self, layer: Any, x: str) -> str:
        """Add the activation of a layer."""
        if layer.activation is keras.activations.linear:
            return x
        if layer.activation is keras.activations.relu:
            return self.add("Relu", x)
        raise _UnsupportedLayer(layer.name)

    def relu(self, layer: Any, x: str) -> str:
        """Add a ReLU, with a limit or without."""
        if layer.negative_slope or layer.threshold:
            raise _UnsupportedLayer(layer.name)
        if layer.max_value is None:
            return self.add("Relu", x)
        return self.add("Clip", x, np.float32(0), np.float32(layer.max_value))

    def rescaling(self, layer: Any, x: str) -> str:
        """Add a scale and an offset: of all, of channels, or of [column, channel]."""
        scale, offset = (
            np.atleast_2d(np.array(values, np.float32)).T[:, None]
            for values in (layer.scale, layer.offset)
        )
        return self.add("Add", self.add("Mul", x, scale), offset)

    def zero_padding(self, layer: Any, x: str) -> str:
        """Add a frame of zeros."""
        (top, bottom), (left, right) = layer.padding
        pads = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
        return self.add("Pad", x, pads)

    def pooling(self, layer: Any, x: str) -> str:
        """Add a pooling by the maximum or the average."""
        is_max = isinstance(layer, keras.layers.MaxPooling2D)
        return self.add(
            "MaxPool" if is_max else "AveragePool",
            x,
            kernel_shape=list(layer.pool_size),
            strides=list(layer.strides),
            auto_pad=_padding(layer),
        )

    def global_average(self, layer: Any, x: str) -> str:
        """Add the average of each channel."""
        x = self.add("GlobalAveragePool", x)
        return x if layer.keepdims else self.add("Flatten", x)

    def concatenation(self, layer: Any, x: Sequence[str]) -> str:
        """Add a concatenation of channels."""
        if layer.axis not in (-1, len(layer.output.shape) - 1):
            raise _UnsupportedLayer(layer.name)
        return self.add("Concat", *x, axis=1)


# {class of Keras: its translation}; other classes, also subclasses, have none.
_TRANSLATIONS: dict[Any, Callable[[_Graph, Any, Any], str]] = {
    keras.layers.Conv2D: _Graph.convolution,
    keras.layers.DepthwiseConv2D: _Graph.convolution,
    keras.layers.Activation: _Graph.activation,
    keras.layers.ReLU: _Graph.relu,
    keras.layers.Rescaling: _Graph.rescaling,
    keras.layers.ZeroPadding2D: _Graph.zero_padding,
    keras.layers.MaxPooling2D: _Graph.pooling,
    keras.layers.AveragePooling2D: _Graph.pooling,
    keras.layers.GlobalAveragePooling2D: _Graph.global_average,
    keras.layers.Concatenate: _Graph.concatenation,
    keras.layers.Add: lambda graph, _, x: graph.add("Sum", *x),
    keras.layers.Dropout: lambda graph, _, x: str(x),
    keras.layers.Identity: lambda graph, _, x: str(x),
}


def _padding(layer: Any) -> str:
    return {"same": "SAME_UPPER", "valid": "VALID"}[layer.padding]


def _attribute(name: str, value: Any) -> bytes:
    if isinstance(value, int):
        return _field(1, name.encode()) + _field(3, value) + _field(20, 2)
    if isinstance(value, str):
        return _field(1, name.encode()) + _field(4, value.encode()) + _field(20, 3)
    return _field(1, name.encode()) + _field(8, *value) + _field(20, 7)


def _description(name: str, kind: int, shape: Sequence[int]) -> bytes:
    """Return name, type and shape of an input or output; the batch has any size."""
    sizes = [_field(2, b"batch"), *(_field(1, size) for size in shape)]
    tensor = _field(1, kind) + _field(2, _field(1, *sizes))
    return _field(1, name.encode()) + _field(2, _field(1, tensor))


def _field(number: int, *values: int | bytes) -> bytes:
    """Encode a repeated field of protobuf's wire format."""
    encoded = []
    for value in values:
        if isinstance(value, bytes):
            encoded += [_varint(number << 3 | 2), _varint(len(value)), value]
        else:
            encoded += [_varint(number << 3), _varint(value)]
    return b"".join(encoded)


def _varint(value: int) -> bytes:
    """Encode a number of 0 or more, seven bits a byte."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
