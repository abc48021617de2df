"""Every network against a forward pass in NumPy, with the weights of a foreign file.

The weights go in as a file names and lays them out, so the outputs show whether layout,
padding, order of flattening, channels and names are right.
"""

import dataclasses
import re
from typing import Any

import keras
import numpy as np
import pytest

from model.networks import registry
from model.weights import model_variables, restore, weight_settings
from tests.support.weights import foreign_weights
from tests.support.weights import numpy_networks as ref

# Those of keras.applications are compared with Keras' own models.
NETWORKS = tuple(n for n, network in registry.NETWORKS.items() if not network.landmark)
# Sums of kernels and biases; of networks with batch normalisation, of what is trained.
PARAMETERS = {
    "alexnet": 62_378_344,
    "alexnet_owt": 61_100_840,
    "bvlc_alexnet": 60_965_224,
    "caffenet": 60_965_224,
    "vgg16": 138_357_544,
    "cifar10_quick": 145_578,
    "cifar_cnn": 1_250_858,
    "cifar_cnn_avg": 1_250_858,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50_torch": 25_557_032,
    "mobilenet_v2_torch": 3_504_872,
    "efficientnet_b0_torch": 5_288_548,
    "convnext_tiny_torch": 28_589_128,
    # Without a mask token, and with the position embeddings of 224 instead of 518 px.
    "dinov2_small": 22_056_576 - 384 - (37**2 - 16**2) * 384,
    "dinov2_base": 86_580_480 - 768 - (37**2 - 16**2) * 768,
}


# {step: shape of its output} for an input of the usual size.
FROM_CONV3 = (
    "conv3 13x13x384, conv4 13x13x384, conv5 13x13x256, pool5 6x6x256, flatten 9216, "
    "fc6 4096, drop6 4096, fc7 4096, drop7 4096, fc8 1000"
)
CIFAR_CNN = (
    "block_1_0 32x32x32, block_1_1 30x30x32, pool_1 15x15x32, drop_1 15x15x32, "
    "block_2_0 15x15x64, block_2_1 13x13x64, pool_2 6x6x64, drop_2 6x6x64, "
    "flatten 2304, dense_1 512, drop_3 512, dense_2 10"
)
SHAPES = {
    "alexnet": "conv1 56x56x96, pool1 27x27x96, conv2 27x27x256, pool2 13x13x256, "
    + FROM_CONV3,
    "alexnet_owt": "pad1 228x228x3, conv1 55x55x64, pool1 27x27x64, conv2 27x27x192, "
    "pool2 13x13x192, conv3 13x13x384, conv4 13x13x256, conv5 13x13x256, "
    "pool5 6x6x256, flatten 9216, drop6 9216, fc6 4096, drop7 4096, fc7 4096, fc8 1000",
    "bvlc_alexnet": "conv1 55x55x96, norm1 55x55x96, pool1 27x27x96, conv2 27x27x256, "
    "norm2 27x27x256, pool2 13x13x256, " + FROM_CONV3,
    "caffenet": "conv1 55x55x96, pool1 27x27x96, norm1 27x27x96, conv2 27x27x256, "
    "pool2 13x13x256, norm2 13x13x256, " + FROM_CONV3,
    "vgg16": "block1_conv1 224x224x64, block1_conv2 224x224x64, block1_pool 112x112x64,"
    "block2_conv1 112x112x128, block2_conv2 112x112x128, block2_pool 56x56x128, "
    "block3_conv1 56x56x256, block3_conv2 56x56x256, block3_conv3 56x56x256, "
    "block3_pool 28x28x256, block4_conv1 28x28x512, block4_conv2 28x28x512, "
    "block4_conv3 28x28x512, block4_pool 14x14x512, block5_conv1 14x14x512, "
    "block5_conv2 14x14x512, block5_conv3 14x14x512, block5_pool 7x7x512, "
    "flatten 25088, fc1 4096, drop1 4096, fc2 4096, drop2 4096, predictions 1000",
    "cifar10_quick": "conv1 32x32x32, pool1 16x16x32, relu1 16x16x32, conv2 16x16x32, "
    "pool2 8x8x32, conv3 8x8x64, pool3 4x4x64, flatten 1024, ip1 64, ip2 10",
    "cifar_cnn": CIFAR_CNN,
    "cifar_cnn_avg": CIFAR_CNN,
    "efficientnet_lite0": "stem 112x112x32, block_0 112x112x16, block_1 56x56x24, "
    "block_2 56x56x24, block_3 28x28x40, block_4 28x28x40, block_5 14x14x80, "
    "block_6 14x14x80, block_7 14x14x80, block_8 14x14x112, block_9 14x14x112, "
    "block_10 14x14x112, block_11 7x7x192, block_12 7x7x192, block_13 7x7x192, "
    "block_14 7x7x192, block_15 7x7x320, head 7x7x1280, pool 1280, drop 1280, fc 1000",
}
# [out, in / groups, height, width] and [out, in]; vgg16's fc1 for images of 50 pixels.
KERNELS = {
    "alexnet": "conv1 96x3x11x11, conv2 256x96x5x5, conv3 384x256x3x3, "
    "conv4 384x384x3x3, conv5 256x384x3x3, fc6 4096x9216, fc7 4096x4096, fc8 1000x4096",
    "alexnet_owt": "conv1 64x3x11x11, conv2 192x64x5x5, conv3 384x192x3x3, "
    "conv4 256x384x3x3, conv5 256x256x3x3, fc6 4096x9216, fc7 4096x4096, fc8 1000x4096",
    **dict.fromkeys(
        ("bvlc_alexnet", "caffenet"),
        "conv1 96x3x11x11, conv2 256x48x5x5, conv3 384x256x3x3, conv4 384x192x3x3, "
        "conv5 256x192x3x3, fc6 4096x9216, fc7 4096x4096, fc8 1000x4096",
    ),
    "vgg16": "block1_conv1 64x3x3x3, block1_conv2 64x64x3x3, block2_conv1 128x64x3x3, "
    "block2_conv2 128x128x3x3, block3_conv1 256x128x3x3, block3_conv2 256x256x3x3, "
    "block3_conv3 256x256x3x3, block4_conv1 512x256x3x3, block4_conv2 512x512x3x3, "
    "block4_conv3 512x512x3x3, block5_conv1 512x512x3x3, block5_conv2 512x512x3x3, "
    "block5_conv3 512x512x3x3, fc1 4096x512, fc2 4096x4096, predictions 1000x4096",
    "cifar10_quick": "conv1 32x3x5x5, conv2 32x32x5x5, conv3 64x32x5x5, ip1 64x1024, "
    "ip2 10x64",
    **dict.fromkeys(
        ("cifar_cnn", "cifar_cnn_avg"),
        "block_1_0 32x3x3x3, block_1_1 32x32x3x3, block_2_0 64x32x3x3, "
        "block_2_1 64x64x3x3, dense_1 512x2304, dense_2 10x512",
    ),
}


def conv(*, stride=1, border=None, groups=1, relu=True):
    """A convolution; `border` zeros on each side, None for TensorFlow's SAME."""

    def step(x, kernel, bias):
        same = ref.same_border(x.shape[1], kernel.shape[-1], stride)
        edge = same if border is None else (border, border)
        x = ref.convolution(x, kernel, bias, stride=stride, border=edge, groups=groups)
        return ref.relu(x) if relu else x

    return step


def dense(*, relu=True):
    def step(x, kernel, bias):
        x = ref.dense(x.ravel(), kernel, bias)  # channels, height, width
        return ref.relu(x) if relu else x

    return step


def pool(size, reduce=np.max, function=ref.pool):
    return lambda x: function(x, size, 2, reduce)


# What each step computes, by its name or by its kind: fc7 is the fc.
ALEXNET = {"pool": pool(3), "fc": dense(), "fc8": dense(relu=False)}
CAFFE_ALEXNET = {
    **ALEXNET,
    "pool": pool(3, function=ref.caffe_pool),
    "conv1": conv(stride=4, border=0),
    "norm": ref.local_response_norm,
    "conv3": conv(border=1),
    "conv": conv(groups=2),
}
KERAS_EXAMPLE = {
    **{f"block_{number}_0": conv(border=1) for number in (1, 2)},
    **{f"block_{number}_1": conv(border=0) for number in (1, 2)},
    "dense_1": dense(),
    "dense_2": dense(relu=False),
}
FUNCTIONS = {
    "alexnet": {**ALEXNET, "conv1": conv(stride=4), "conv": conv()},
    "alexnet_owt": {
        **ALEXNET,
        "conv1": conv(stride=4, border=2),
        "conv2": conv(border=2),
        "conv": conv(border=1),
    },
    "bvlc_alexnet": CAFFE_ALEXNET,
    "caffenet": CAFFE_ALEXNET,
    "vgg16": {
        "conv": conv(border=1),
        "pool": pool(2),
        "fc": dense(),
        "predictions": dense(relu=False),
    },
    "cifar10_quick": {
        "conv1": conv(border=2, relu=False),
        "pool1": pool(3, np.max, ref.caffe_pool),
        "relu": ref.relu,
        "conv": conv(border=2),
        "pool": pool(3, np.mean, ref.caffe_pool),
        "ip": dense(relu=False),
    },
    "cifar_cnn": {**KERAS_EXAMPLE, "pool": pool(2, np.max)},
    "cifar_cnn_avg": {**KERAS_EXAMPLE, "pool": pool(2, np.mean)},
}
WITHOUT_EFFECT = ("flatten", "drop", "pad")


def forward(network, arrays, image):
    """{step: its output} in NumPy."""
    functions = FUNCTIONS[network]
    mean, deviation = foreign_weights.form_of(SOURCES[network], network).norm
    x = ref.chw((image - np.array(mean)) / np.array(deviation))
    outputs = {}
    for step in ref.sizes(SHAPES[network]):
        if not step.startswith(WITHOUT_EFFECT):
            kind = re.sub(r"block\d|[\d_]", "", step)
            function = functions.get(step) or functions[kind]
            weights = [a for n, a in arrays.items() if n.split("/")[0] == step]
            outputs[step] = x = function(x, *weights)
    return outputs


# The form of the file in which the weights go in.
SOURCES = {
    "alexnet": "TensorFlow AlexNet of 2018",
    "alexnet_owt": "torchvision",
    "bvlc_alexnet": "Caffe",
    "caffenet": "Caffe",
    "vgg16": "Keras applications",
    "cifar10_quick": "Caffe",
    "cifar_cnn": "Keras' automatic names",
    "cifar_cnn_avg": "layer names",
}
# Side of the image in pixels. With 50, each pooling of vgg16 but one drops a row. With
# 199, bvlc_alexnet pools 48, 24 and 12 rows, so that Caffe's rounding up adds one each
# time; cifar10_quick pools 34 and 17.
SIDES = {"caffenet": 227, "bvlc_alexnet": 199, "vgg16": 50}
SIDES |= {"cifar10_quick": 34, "cifar_cnn": 32, "cifar_cnn_avg": 32}


def restore_all(network, arrays, arch=""):
    file = foreign_weights.file_of(arrays, SOURCES[network], network)
    size = weight_settings.Overrides(image_size=SIDES.get(network, 224))
    restored = restore.restore_checkpoint(file, arch=arch, overrides=size)
    assert restored.network is registry.NETWORKS[network]
    assert {entry.status for entry in restored.entries} == {"restored"}
    assert len(restored.entries) == len(arrays)
    return restored


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with weights, and what NumPy makes of them."""

    network: str
    image: np.ndarray
    expected: dict[str, np.ndarray]
    model: Any


def draw(network):
    """Random weights, an image, and what NumPy makes of them."""
    random, side = np.random.default_rng(5), SIDES.get(network, 224)
    image = random.integers(0, 256, (side, side, 3)).astype(np.float32)
    arrays = {}
    for layer, shape in ref.sizes(KERNELS[network]).items():
        arrays[f"{layer}/kernel"] = ref.draw(random, shape, np.prod(shape[1:]))
        arrays[f"{layer}/bias"] = random.standard_normal(shape[0], np.float32)
    return arrays, image, forward(network, arrays, image)


@pytest.fixture(scope="module", params=KERNELS)
def case(request):
    network = request.param
    arrays, image, expected = draw(network)
    arch = network if network == "cifar_cnn_avg" else ""  # else it would be ambiguous
    restored = restore_all(network, arrays, arch)
    model = ref.every_step(restored.network, restored.spec)
    model_variables.assign(model, restored.values)
    return Case(network, image, expected, model)


def test_every_network_is_in_the_tables():
    assert PARAMETERS.keys() == set(NETWORKS)
    assert KERNELS.keys() | {"efficientnet_lite0"} == SHAPES.keys()


@pytest.mark.parametrize("network", NETWORKS)
def test_number_of_parameters_is_the_published_one(network):
    assert ref.num_parameters(network) == PARAMETERS[network]


@pytest.mark.parametrize("network", SHAPES)
def test_steps_have_the_published_order_and_shapes(network):
    side = 227 if network in ("caffenet", "bvlc_alexnet") else 224
    side = 32 if "cifar" in network else side
    expected = ref.sizes(SHAPES[network])
    shapes = ref.shapes(network, side)
    assert [(n, shape) for n, shape in shapes.items() if n in expected] == [
        *expected.items()
    ]


def test_built_variables_have_the_computed_shapes(case):
    spec = registry.NETWORKS[case.network].input_spec
    spec = dataclasses.replace(spec, size_px=len(case.image), short_side_px=300)
    shapes = registry.NETWORKS[case.network].variable_shapes(spec)
    assert {e.variable: e.shape for e in restore.complete_ledger((), case.model)} == {
        f"{layer}/{variable}": shape
        for layer, variables in shapes.items()
        for variable, shape in variables.items()
    }


def test_every_step_gives_what_numpy_gives(case):
    computed = {
        step
        for step in ref.sizes(SHAPES[case.network])
        if not step.startswith(WITHOUT_EFFECT)
    }
    assert case.expected.keys() == computed
    ref.check(case.model, case.image, case.expected)


def test_convolutions_of_vgg16_take_any_size():
    vgg16 = registry.NETWORKS["vgg16"]
    spec = dataclasses.replace(vgg16.input_spec, size_px=150, short_side_px=150)
    base = vgg16.build(spec, last="block5_pool")
    assert base.output.shape == (None, 4, 4, 512)
    assert base.count_params() == 14_714_688


def test_a_saved_network_loads_in_plain_keras(tmp_path):
    """Groups and local normalisation consist of built-in operations."""
    network = registry.NETWORKS["bvlc_alexnet"]
    model = network.build(network.input_spec, last="norm2")
    model.save(tmp_path / "part.keras")
    loaded = keras.models.load_model(tmp_path / "part.keras", safe_mode=True)
    image = np.random.default_rng(8).integers(0, 256, (1, 227, 227, 3))
    np.testing.assert_array_equal(loaded(image), model(image))


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("alexnet_owt", {"conv1": True, "pool5": True, "fc7": True, "fc8": False}),
        ("caffenet", {"pool5": True, "fc6": True}),
        ("efficientnet_lite0", {"pool": True, "head": True, "block_3": False}),
    ],
)
def test_a_network_tells_which_features_are_never_negative(name, positions):
    network = registry.NETWORKS[name]
    assert {n: network.is_non_negative(n) for n in positions} == positions
