"""Translate one tool's names and layout of a network's weights to Graft's.

Graft's kernels are [height, width, in, out] (HWIO) for convolutions, [height, width,
channels, 1] for depthwise ones and [in, out] for dense layers. The input of the first
dense layer is flattened as [height, width, channels]; images are RGB.
"""

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from model.checkpoints.checkpoint import Checkpoint
from model.networks import layers
from model.networks.pytorch_models import dinov2
from pipeline.batches.input_spec import InputSpec

Layout = Literal["tensorflow", "caffe"]
# Types of Caffe's layers that change what a network computes. Of these, the networks
# that Graft knows have only LRN.
_CAFFE_TYPES = {
    *("LRN", "BatchNorm", "Scale", "Bias", "Eltwise", "Concat", "PReLU", "ELU"),
    *("Power", "Exp", "Log", "AbsVal", "BNLL", "MVN", "Sigmoid", "TanH", "Slice"),
    *("SPP", "Reduction", "Deconvolution", "Embed", "LSTM", "RNN", "Crop", "Tile"),
}
# Number of inputs of a dense layer -> side of the window that it sees as a convolution.
_WINDOW_SIDES = {7 * 7 * 512: 7}


@dataclasses.dataclass(frozen=True)
class LayerNaming:
    """One tool's naming convention and layout for one network."""

    source: str  # name of the tool or file, for people
    network: str
    layers: Mapping[str, str]  # {Graft's layer: its name in the file}
    variables: Mapping[str, str]  # {Graft's variable: its name, with {} for the layer}
    _: dataclasses.KW_ONLY
    # "caffe" (also PyTorch) if kernels are OIHW and [out, in] and the input of dense
    # layers is flattened as CHW; "tensorflow" for Graft's layout.
    layout: Layout = "tensorflow"
    # {dense layer: (channels, height, width) of the feature map before it}.
    flattened_from: Mapping[str, tuple[int, int, int]] = dataclasses.field(
        default_factory=dict
    )
    bgr: bool = False  # whether the channels of the input are blue, green, red
    spec: InputSpec | None = None  # of the input; None for the network's own
    formats: tuple[str, ...] = ()  # beginnings of the file's format; empty for any
    # Two layers: in a file that lists its layers, the first one comes before the
    # second. It distinguishes networks with equal tensors.
    layer_order: tuple[str, str] | None = None
    # Types of Caffe's layers without weights that this network has and most lack.
    caffe_types: frozenset[str] = frozenset()
    dense_as_conv: bool = False  # dense layers are convolutions over their whole input
    ignored_prefixes: tuple[str, ...] = ()  # of the names of other tensors
    is_automatic: bool = False  # Keras made up the names; all but the last must fit
    keeps_variables: bool = False  # variables that are not listed have Graft's names
    # {Graft's "layer/variable": its name in the file}, in place of `layers` and
    # `variables`; empty to use these.
    tensors: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def tensor_name(self, layer: str, variable: str) -> str:
        """Return the variable's name in the file; "" if the convention has none."""
        if self.tensors:
            return self.tensors.get(f"{layer}/{variable}", "")
        other = f"{{}}/{variable}" if self.keeps_variables else ""
        pattern = self.variables.get(variable, other)
        return pattern.format(self.layers[layer]) if layer in self.layers else ""

    def shapes_in_file(
        self, shape: tuple[int, ...], variable: str = ""
    ) -> list[tuple[int, ...]]:
        """Return the shapes that a variable of Graft's `shape` may have in the file."""
        if variable.endswith("embeddings"):
            return [(1, *shape)]
        if self.dense_as_conv and len(shape) == 2:
            side = _WINDOW_SIDES.get(shape[0], 1)
            return [(side, side, shape[0] // side**2, shape[1])]
        if self.layout == "tensorflow" or len(shape) < 2:
            if len(shape) == 4 and shape[3] == 1:
                # A depthwise convolution may be stored as one in groups.
                return [shape, (*shape[:2], 1, shape[2])]
            return [shape]
        if len(shape) == 2:
            return [shape[::-1]]
        height, width, channels, filters = shape
        shapes: list[tuple[int, ...]] = [(filters, channels, height, width)]
        if filters == 1:  # it may be depthwise
            shapes.append((channels, filters, height, width))
        return shapes

    def fits(
        self, layer: str, variable: str, found: tuple[int, ...], shape: tuple[int, ...]
    ) -> bool:
        """Return whether a tensor of the shape `found` can be the variable of a layer.

        The rows of a table may be a tensor of any shape, and position embeddings those
        of another number of patches.
        """
        if variable != "embeddings":
            return found in self.shapes_in_file(shape)
        num_rows, excess = divmod(math.prod(found), shape[1])
        if layer == dinov2.POSITIONS and num_rows > 1:
            return not excess and math.isqrt(num_rows - 1) ** 2 == num_rows - 1
        return not excess and num_rows == shape[0]

    def to_graft(
        self, layer: str, variable: str, tensor: np.ndarray, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Bring a tensor that `fits` to Graft's layout and `shape`.

        Position embeddings keep their number.
        """
        if variable == "embeddings":
            return tensor.reshape(-1, shape[1])
        if self.layout == "tensorflow" or tensor.ndim < 2:
            return tensor.reshape(shape)
        if tensor.ndim == 2:
            if layer in self.flattened_from:
                parts = tensor.reshape(-1, *self.flattened_from[layer])
                tensor = parts.transpose(0, 2, 3, 1).reshape(tensor.shape)
            return tensor.T
        array = tensor.transpose(2, 3, 1, 0)
        return array if array.shape == shape else array.swapaxes(2, 3)

    def is_possible_in(self, checkpoint: Checkpoint) -> bool:
        """Return whether a file may have its tensors in this convention.

        Its format and list of layers allow that, and it has any tensor of the layers,
        whatever its shape.
        """
        if self.formats and not checkpoint.format.startswith(self.formats):
            return False
        listed = [name for name, _ in checkpoint.layers]
        if self.layer_order and {*self.layer_order} <= {*listed}:
            first, second = map(listed.index, self.layer_order)
            if first > second:
                return False
        return any(
            self.tensor_name(layer, variable) in checkpoint.tensors
            for layer in self.layers
            for variable in self.variables
        )

    def unexplained_layers(
        self, checkpoint: Checkpoint, shapes: Mapping[str, Mapping[str, Any]]
    ) -> list[str]:
        """List the layers of a file that belong to another network, with their kinds.

        `shapes` is {layer: {variable: shape}} of the network.

        A new final layer with any name is explained, and so are biases, numbers and
        copies of the network's weights. Further convolutions and normalisations are
        not, nor are layers that compute without weights, if the file lists its layers.
        """
        names = {
            self.tensor_name(layer, variable)
            for layer in self.layers
            for variable in (*self.variables, *shapes.get(layer, ()))
        }
        dimensions: dict[str, list[int]] = collections.defaultdict(list)
        for name in sorted(checkpoint.tensors.keys() - names):
            layer, separator, _ = name.rpartition("/" if "/" in name else ".")
            if not separator and name[-2:-1] == "_":  # conv1_1_W
                layer = name[:-2]
            # A tensor below another one is a copy, such as a moving average.
            if layer not in names and not name.startswith(self.ignored_prefixes):
                dimensions[layer or name].append(checkpoint.tensors[name].ndim)
        unexplained = []
        for layer, ndims in dimensions.items():
            if max(ndims) == 3:
                unexplained.append(f"{layer} (a table)")
            elif max(ndims) > 3:
                unexplained.append(f"{layer} (a convolution)")
            elif ndims.count(1) > 1 and 2 not in ndims:
                unexplained.append(f"{layer} (a normalisation)")
        if "Pooling" in {kind for _, kind in checkpoint.layers}:  # the list is complete
            unexplained += [
                f"{name} ({kind})"
                for name, kind in checkpoint.layers
                if kind in _CAFFE_TYPES - self.caffe_types
            ]
        return unexplained


def unify_keras_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename Keras' kernels of depthwise convolutions, and join groups of kernels."""
    unified = {}
    for name, array in tensors.items():
        layer, _, variable = name.rpartition("/")
        # Keras 2's name in a DepthwiseConv2D; a SeparableConv2D has two kernels.
        others = {f"{layer}/pointwise_kernel", f"{layer}/kernel"}
        is_depthwise = variable == "depthwise_kernel" and not tensors.keys() & others
        unified[f"{layer}/kernel" if is_depthwise else name] = array
    groups: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for name in sorted(unified):
        layer, _, variable = name.rpartition("/")
        if group := layers.group_of(layer):
            groups[f"{group[0]}/{variable}"].append(unified[name])
    for name, arrays in groups.items():
        shapes = {array.shape for array in arrays}
        if name not in unified and len(shapes) == 1 and arrays[0].ndim:
            unified[name] = np.concatenate(arrays, axis=-1)
            layer, _, variable = name.rpartition("/")
            for number in range(len(arrays)):
                unified.pop(f"{layer}_group{number + 1}/{variable}", None)
    return unified
