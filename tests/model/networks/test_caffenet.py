"""CaffeNet and Caffe's AlexNet against NumPy, with weights as Caffe's files have them.

Both have the same weights; the order of pooling and normalisation tells them apart.
"""

import keras
import numpy as np
import pytest

from model.checkpoints import errors, reading
from model.networks import registry
from model.weights import restore
from tests import numpy_networks as ref

COUNT = 60_965_224
# Conv2, conv4 and conv5 have two groups: half of the input for each filter.
KERNELS = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 48, 5, 5),
    "conv3": (384, 256, 3, 3),
    "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3),
    "fc6": (4096, 9216),
    "fc7": (4096, 4096),
    "fc8": (1000, 4096),
}
# The layers that a .caffemodel lists, as far as they matter.
LISTED = {
    "caffenet": ("conv1 Convolution", "relu1 ReLU", "pool1 Pooling", "norm1 LRN"),
    "bvlc_alexnet": ("conv1 Convolution", "relu1 ReLU", "norm1 LRN", "pool1 Pooling"),
}
BLUE, GREEN, RED = 104.00698793, 116.66876762, 122.67891434
SHAPES = {
    "conv1": (55, 55, 96),
    "conv2": (27, 27, 256),
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
}
FIRST_STEPS = {
    "caffenet": ["conv1", "pool1", "norm1", "conv2", "pool2", "norm2", "conv3"],
    "bvlc_alexnet": ["conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3"],
}
BOTH = pytest.mark.parametrize("name", LISTED)


@pytest.fixture(scope="module")
def tensors():
    """As a .caffemodel has them: layer/0 is the kernel, layer/1 the bias."""
    random = np.random.default_rng(7)
    found = {}
    for layer, shape in KERNELS.items():
        found[f"{layer}/0"] = ref.draw(random, shape, np.prod(shape[1:]))
        found[f"{layer}/1"] = random.standard_normal(shape[0], np.float32)
    return found


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(8).integers(0, 256, (227, 227, 3)).astype(np.float32)


def forward(name, tensors, image):
    """As in train_val.prototxt; image is [height, width, RGB]."""
    x = ref.chw(image[:, :, ::-1] - [BLUE, GREEN, RED])
    found = {}
    for layer, groups, how in (
        ("conv1", 1, {"stride": 4}),
        ("conv2", 2, {"border": (2, 2)}),
        ("conv3", 1, {"border": (1, 1)}),
        ("conv4", 2, {"border": (1, 1)}),
        ("conv5", 2, {"border": (1, 1)}),
    ):
        kernel, bias = tensors[f"{layer}/0"], tensors[f"{layer}/1"]
        x = ref.relu(ref.convolution(x, kernel, bias, groups=groups, **how))
        found[layer] = x
        number = layer[-1]
        for kind in {"caffenet": ("pool", "norm"), "bvlc_alexnet": ("norm", "pool")}[
            name
        ]:
            if kind == "norm" and layer in ("conv1", "conv2"):
                found[f"norm{number}"] = x = ref.local_response_norm(x)
            if kind == "pool" and layer in ("conv1", "conv2", "conv5"):
                found[f"pool{number}"] = x = ref.caffe_pool(x, 3, 2, np.max)
    x = x.ravel()  # channels, height, width
    for layer in ("fc6", "fc7", "fc8"):
        x = ref.dense(x, tensors[f"{layer}/0"], tensors[f"{layer}/1"])
        found[layer] = x = x if layer == "fc8" else ref.relu(x)
    return found


def caffe_file(tensors, layers=()):
    return reading.Checkpoint(tensors=tensors, format="Caffe", layers=layers)


@BOTH
def test_parameters_and_steps(name):
    assert ref.num_parameters(name) == COUNT
    shapes = ref.shapes(name, 227)
    assert list(shapes)[:7] == FIRST_STEPS[name]
    assert list(shapes)[6:] == list(SHAPES)[2:]
    for number, size in (("1", 27), ("2", 13)):
        conv = SHAPES[f"conv{number}"]
        assert shapes[f"pool{number}"] == (size, size, conv[-1])
        before = "pool" if name == "caffenet" else "conv"
        assert shapes[f"norm{number}"] == shapes[before + number]
    assert {layer: shapes[layer] for layer in SHAPES} == SHAPES


# Restoring a tensor with one of these in its place must be noticed.
def blue_last(kernel):
    return kernel[:, ::-1]


def groups_exchanged(kernel):
    return np.roll(kernel, 128, axis=0)


def flattened_as_hwc(kernel):
    return kernel.reshape(4096, 256, 36).transpose(0, 2, 1).reshape(4096, 9216)


def transposed(kernel):
    return kernel.T


WRONG = {
    "conv1": blue_last,
    "conv2": groups_exchanged,
    "fc6": flattened_as_hwc,
    "fc7": transposed,
}


def filled(name, tensors):
    found = restore.restore_checkpoint(caffe_file(tensors, LISTED[name]), "file")
    assert found.network.name == name
    assert found.naming.bgr
    model = ref.every_step(found.network, found.spec)
    ref.fill(model, found)
    return model


@BOTH
def test_every_step(name, tensors, image):
    expected = forward(name, tensors, image)
    assert set(expected) == set(ref.shapes(name, 227)) - {"flatten", "drop6", "drop7"}
    ref.check(filled(name, tensors), image, expected)


def test_wrong_layouts_are_noticed(tensors, image):
    """From the last layer to the first, for each error hides those after it."""
    model = filled("caffenet", tensors)
    expected = forward("caffenet", tensors, image)
    for layer, change in reversed(WRONG.items()):
        kernel = tensors[f"{layer}/0"]
        wrong = np.ascontiguousarray(change(kernel))
        assert wrong.shape == kernel.shape
        one = caffe_file({f"{layer}/0": wrong})
        ref.fill(model, restore.restore_checkpoint(one, "file", arch="caffenet"))
        with pytest.raises(AssertionError, match=f"step {layer};"):
            ref.check(model, image, expected)


def test_normalisation_matters(tensors, image):
    """Else the test above would say nothing of it: it halves the largest outputs."""
    found = forward("bvlc_alexnet", tensors, image)
    assert found["norm1"].max() < 0.5 * found["conv1"].max()


def test_an_unlisted_order_is_ambiguous(tensors):
    small = {name: tensors[name] for name in ("conv1/0", "conv1/1", "conv2/0")}
    with pytest.raises(
        errors.MismatchedCheckpoint,
        match=r"fit bvlc_alexnet and caffenet equally well.*--arch",
    ):
        restore.restore_checkpoint(caffe_file(small), "file")
    for name, layers in LISTED.items():
        assert (
            restore.restore_checkpoint(caffe_file(small), "f", arch=name).network.name
            == name
        )
        assert (
            restore.restore_checkpoint(caffe_file(small, layers), "f").network.name
            == name
        )


def hwio(kernel):
    """[out, in, height, width] or [out, in] as TensorFlow has it."""
    return kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T


@pytest.mark.parametrize(
    ("variables", "form"),
    [
        ("{}/weights {}/biases", "NumPy"),
        ("{}/0 {}/1", "NumPy"),
        ("{}/0 {}/1", "pickled dict of arrays"),
    ],
    ids=["caffe-tensorflow", "toronto", "toronto-pickle"],
)
def test_converted_files_give_what_caffes_give(variables, form, tensors):
    """Kernels turned, channels still blue first; and fc7, which is square."""
    kernel, bias = variables.split()
    turned = {}
    for layer in ("conv1", "conv2", "fc7"):
        turned[kernel.format(layer)] = hwio(tensors[f"{layer}/0"])
        turned[bias.format(layer)] = tensors[f"{layer}/1"]
    checkpoint = reading.Checkpoint(tensors=turned, format=form)
    with pytest.raises(errors.MismatchedCheckpoint, match="bvlc_alexnet and caffenet"):
        restore.restore_checkpoint(checkpoint, "file")
    for name in LISTED:
        found = restore.restore_checkpoint(checkpoint, "file", arch=name)
        assert {entry.status for entry in found.entries} == {"restored"}
        for layer, values in found.values.items():
            expected = hwio(tensors[f"{layer}/0"])
            if layer == "conv1":
                expected = expected[:, :, ::-1]  # red first
            np.testing.assert_array_equal(values["kernel"], expected)
            np.testing.assert_array_equal(values["bias"], tensors[f"{layer}/1"])


def test_a_saved_network_needs_nothing_of_ours(tmp_path, image):
    """Groups and normalisation are built-in operations alone."""
    chosen = registry.NETWORKS["bvlc_alexnet"]
    model = chosen.build(chosen.input_spec, last="norm2")
    model.save(tmp_path / "part.keras")
    loaded = keras.models.load_model(tmp_path / "part.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(image[None]), model(image[None]))
