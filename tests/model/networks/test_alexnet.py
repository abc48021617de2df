"""Both AlexNets against a forward pass in NumPy that is written out here.

The weights go in as a file names and lays them out, so that layout, padding, order of
flattening and names are all judged by the numbers that come out.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest

from model.checkpoints import reading
from model.networks import registry
from model.weights import model_variables, restore

COUNTS = {"alexnet": 62_378_344, "alexnet_owt": 61_100_840}
# Of the networks' own layers: output without the batch.
SHAPES = {
    "alexnet": {
        "conv1": (56, 56, 96),
        "pool1": (27, 27, 96),
        "conv2": (27, 27, 256),
        "pool2": (13, 13, 256),
        "conv3": (13, 13, 384),
        "conv4": (13, 13, 384),
        "conv5": (13, 13, 256),
        "pool5": (6, 6, 256),
        "flatten": (9216,),
        "fc6": (4096,),
        "drop6": (4096,),
        "fc7": (4096,),
        "drop7": (4096,),
        "fc8": (1000,),
    },
    "alexnet_owt": {
        "pad1": (228, 228, 3),
        "conv1": (55, 55, 64),
        "pool1": (27, 27, 64),
        "conv2": (27, 27, 192),
        "pool2": (13, 13, 192),
        "conv3": (13, 13, 384),
        "conv4": (13, 13, 256),
        "conv5": (13, 13, 256),
        "pool5": (6, 6, 256),
        "flatten": (9216,),
        "drop6": (9216,),
        "fc6": (4096,),
        "drop7": (4096,),
        "fc7": (4096,),
        "fc8": (1000,),
    },
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with the weights of a file, and what NumPy makes of them."""

    name: str
    tensors: dict[str, np.ndarray]  # as the file has them
    whole: Any
    image: np.ndarray
    expected: dict[str, np.ndarray]

    def outputs(self):
        """{layer: its output for the image}."""
        layers = [layer for layer in self.whole.layers if layer.name in self.expected]
        every = keras.Model(self.whole.input, [layer.output for layer in layers])
        found = every(self.image[None], training=False)
        return {
            layer.name: np.asarray(values)[0]
            for layer, values in zip(layers, found, strict=True)
        }

    def names(self, layer):
        """{variable: name in the file} of a layer."""
        habit = self.restore()
        return {v: habit.tensor_name(layer, v) for v in ("kernel", "bias")}

    def restore(self, changed=None):
        """Puts the file's tensors, or some changed ones, into the network."""
        checkpoint = reading.Checkpoint(
            tensors=changed or self.tensors, format="PyTorch (zip)"
        )
        found = restore.restore_checkpoint(checkpoint, "file")
        assert found.network.name == self.name
        assert all(entry.status == "restored" for entry in found.entries)
        model_variables.assign(self.whole, found.values)
        return found.naming


def check(found, expected):
    """Fails at the first layer that differs by more than float32's rounding."""
    assert found.keys() == expected.keys()
    for layer, values in expected.items():
        largest = np.abs(values).max()
        assert largest > 0.1
        np.testing.assert_allclose(
            found[layer], values, rtol=0, atol=1e-5 * largest, err_msg=layer
        )


def max_pool(image, axes):
    """3 x 3 windows at every second place, none across the border."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axes)
    every_second = tuple(
        slice(None, None, 2 if axis in axes else None) for axis in range(3)
    )
    return windows[every_second].max(axis=(3, 4))


def draw(random, fan_in, shape):
    """A kernel that neither dampens nor amplifies."""
    kernel = random.standard_normal(shape, np.float32)
    kernel *= np.float32(np.sqrt(2 / fan_in))
    return kernel


# AlexNet as the 2018 checkpoints have it: [height, width, channels] throughout.


def same_convolution(image, kernel, bias, stride):
    """TensorFlow's SAME: ceil(size / stride) places, the odd pixel of zeros last."""
    size, width = image.shape[0], kernel.shape[0]
    missing = max((-(-size // stride) - 1) * stride + width - size, 0)
    border = (missing // 2, missing - missing // 2)
    padded = np.pad(image, (border, border, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (width, width), (0, 1))
    windows = windows[::stride, ::stride]  # [y, x, in, kernel y, kernel x]
    return np.tensordot(windows, kernel, ([3, 4, 2], [0, 1, 2])) + bias


def tensors_of_2018(random):
    tensors = {}
    for name, shape in {
        "conv1": (11, 11, 3, 96),
        "conv2": (5, 5, 96, 256),
        "conv3": (3, 3, 256, 384),
        "conv4": (3, 3, 384, 384),
        "conv5": (3, 3, 384, 256),
        "local1": (9216, 4096),
        "local2": (4096, 4096),
        "local3": (4096, 1000),
    }.items():
        tensors[f"{name}/weights"] = draw(random, np.prod(shape[:-1]), shape)
        tensors[f"{name}/biases"] = random.standard_normal(shape[-1], np.float32)
    return tensors


def forward_of_2018(tensors, image):
    x = image - np.array([123.68, 116.78, 103.94])
    found = {}
    for number, stride, pooled in (
        (1, 4, True),
        (2, 1, True),
        (3, 1, False),
        (4, 1, False),
        (5, 1, True),
    ):
        name = f"conv{number}"
        kernel, bias = tensors[f"{name}/weights"], tensors[f"{name}/biases"]
        x = np.maximum(same_convolution(x, kernel, bias, stride), 0)
        found[name] = x
        if pooled:
            x = max_pool(x, (0, 1))
            found[f"pool{number}"] = x
    x = x.ravel().astype(np.float32)
    for name, local in (("fc6", "local1"), ("fc7", "local2"), ("fc8", "local3")):
        x = x @ tensors[f"{local}/weights"] + tensors[f"{local}/biases"]
        if name != "fc8":
            x = np.maximum(x, 0)
        found[name] = x
    return found


# AlexNet as torchvision has it: [channels, height, width] throughout.


def padded_convolution(image, kernel, bias, stride, border):
    padded = np.pad(image, ((0, 0), (border, border), (border, border)))
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, kernel.shape[2:], (1, 2)
    )[:, ::stride, ::stride]  # [in, y, x, kernel y, kernel x]
    sums = np.tensordot(kernel, windows, ([1, 2, 3], [0, 3, 4]))
    return sums + bias[:, None, None]


def tensors_of_torchvision(random):
    tensors = {}
    for name, shape in {
        "features.0": (64, 3, 11, 11),
        "features.3": (192, 64, 5, 5),
        "features.6": (384, 192, 3, 3),
        "features.8": (256, 384, 3, 3),
        "features.10": (256, 256, 3, 3),
        "classifier.1": (4096, 9216),
        "classifier.4": (4096, 4096),
        "classifier.6": (1000, 4096),
    }.items():
        tensors[f"{name}.weight"] = draw(random, np.prod(shape[1:]), shape)
        tensors[f"{name}.bias"] = random.standard_normal(shape[0], np.float32)
    return tensors


def forward_of_torchvision(tensors, image):
    x = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = x.transpose(2, 0, 1)
    found = {}
    for name, place, stride, border, pool in (
        ("conv1", "features.0", 4, 2, "pool1"),
        ("conv2", "features.3", 1, 2, "pool2"),
        ("conv3", "features.6", 1, 1, ""),
        ("conv4", "features.8", 1, 1, ""),
        ("conv5", "features.10", 1, 1, "pool5"),
    ):
        kernel, bias = tensors[f"{place}.weight"], tensors[f"{place}.bias"]
        x = np.maximum(padded_convolution(x, kernel, bias, stride, border), 0)
        found[name] = x.transpose(1, 2, 0)
        if pool:
            x = max_pool(x, (1, 2))
            found[pool] = x.transpose(1, 2, 0)
    x = x.ravel().astype(np.float32)  # channels, height, width
    for name, place in (
        ("fc6", "classifier.1"),
        ("fc7", "classifier.4"),
        ("fc8", "classifier.6"),
    ):
        x = tensors[f"{place}.weight"] @ x + tensors[f"{place}.bias"]
        if name != "fc8":
            x = np.maximum(x, 0)
        found[name] = x
    return found


FILES = {
    "alexnet": (tensors_of_2018, forward_of_2018),
    "alexnet_owt": (tensors_of_torchvision, forward_of_torchvision),
}


@pytest.fixture(scope="module", params=FILES)
def case(request):
    make, forward = FILES[request.param]
    random = np.random.default_rng(5)
    tensors = make(random)
    image = random.integers(0, 256, (224, 224, 3)).astype(np.float32)
    chosen = registry.NETWORKS[request.param]
    found = Case(
        name=request.param,
        tensors=tensors,
        whole=chosen.build(chosen.input_spec, last="fc8"),
        image=image,
        expected=forward(tensors, image),
    )
    found.restore()
    return found


def test_every_network_is_in_the_tables():
    ours = {name for name in registry.NETWORKS if name.startswith("alexnet")}
    assert ours == COUNTS.keys() == SHAPES.keys() == FILES.keys()


def test_parameters(case):
    assert case.whole.count_params() == COUNTS[case.name]
    chosen = registry.NETWORKS[case.name]
    shapes = chosen.variable_shapes(chosen.input_spec)
    sizes = [np.prod(shape) for pair in shapes.values() for shape in pair.values()]
    assert sum(sizes) == COUNTS[case.name]


def test_shapes(case):
    found = {layer.name: layer.output.shape[1:] for layer in case.whole.layers}
    assert found.pop("image") == found.pop("normalize") == (224, 224, 3)
    assert found == SHAPES[case.name]
    assert list(found) == list(SHAPES[case.name])


def test_every_layer_gives_what_numpy_gives(case):
    check(case.outputs(), case.expected)


def swap_fc7(tensor):
    return tensor.T.copy()


def swap_fc6(tensor):
    """The kernel for an input flattened in the other order of the two."""
    if tensor.shape == (4096, 9216):  # channels first -> channels last
        return tensor.reshape(4096, 256, 36).transpose(0, 2, 1).reshape(4096, 9216)
    return tensor.reshape(36, 256, 4096).transpose(1, 0, 2).reshape(9216, 4096)


@pytest.mark.parametrize(
    ("layer", "swap"), [("fc6", swap_fc6), ("fc7", swap_fc7)], ids=["fc6", "fc7"]
)
def test_a_wrong_layout_of_the_same_shape_is_noticed(case, layer, swap):
    """The comparison above would not pass if restoring confused the layouts."""
    names = case.names(layer)
    kernel = case.tensors[names["kernel"]]
    assert swap(kernel).shape == kernel.shape
    part = {name: case.tensors[name] for name in names.values()}
    case.restore(part | {names["kernel"]: swap(kernel)})
    try:
        with pytest.raises(AssertionError, match=layer):
            check(case.outputs(), case.expected)
    finally:
        case.restore(part)


def test_a_wrong_bias_is_noticed(case):
    layer = case.whole.get_layer("conv3")
    bias = layer.bias.numpy()
    layer.bias.assign(np.roll(bias, 1))
    try:
        with pytest.raises(AssertionError, match="conv3"):
            check(case.outputs(), case.expected)
    finally:
        layer.bias.assign(bias)
