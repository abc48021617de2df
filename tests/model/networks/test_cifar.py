"""The networks for CIFAR-10 against NumPy, with weights as other tools keep them."""

import numpy as np
import pytest

from model.checkpoints import errors, reading
from model.networks import registry
from model.weights import restore
from tests import numpy_networks as ref

COUNTS = {
    # 5x5x3x32, 5x5x32x32, 5x5x32x64, 1024x64, 64x10, and a bias for each filter
    "cifar10_quick": 145_578,
    # 3x3x3x32, 3x3x32x32, 3x3x32x64, 3x3x64x64, 2304x512, 512x10, and biases
    "cifar_cnn": 1_250_858,
    "cifar_cnn_avg": 1_250_858,
}
STEPS = {
    "cifar10_quick": {
        "conv1": (32, 32, 32),
        "pool1": (16, 16, 32),
        "relu1": (16, 16, 32),
        "conv2": (16, 16, 32),
        "pool2": (8, 8, 32),
        "conv3": (8, 8, 64),
        "pool3": (4, 4, 64),
        "flatten": (1024,),
        "ip1": (64,),
        "ip2": (10,),
    },
    "cifar_cnn": {
        "block_1_0": (32, 32, 32),
        "block_1_1": (30, 30, 32),
        "pool_1": (15, 15, 32),
        "drop_1": (15, 15, 32),
        "block_2_0": (15, 15, 64),
        "block_2_1": (13, 13, 64),
        "pool_2": (6, 6, 64),
        "drop_2": (6, 6, 64),
        "flatten": (2304,),
        "dense_1": (512,),
        "drop_3": (512,),
        "dense_2": (10,),
    },
}
STEPS["cifar_cnn_avg"] = STEPS["cifar_cnn"]
RANDOM = np.random.default_rng(3)
IMAGE = RANDOM.integers(0, 256, (32, 32, 3)).astype(np.float32)


def weights(shapes):
    """{layer: (kernel, bias)}; kernels are [out, in, ...]."""
    return {
        layer: (
            ref.draw(RANDOM, shape, np.prod(shape[1:])),
            RANDOM.standard_normal(shape[0], np.float32),
        )
        for layer, shape in shapes.items()
    }


QUICK = weights(
    {
        "conv1": (32, 3, 5, 5),
        "conv2": (32, 32, 5, 5),
        "conv3": (64, 32, 5, 5),
        "ip1": (64, 1024),
        "ip2": (10, 64),
    }
)
CNN = weights(
    {
        "block_1_0": (32, 3, 3, 3),
        "block_1_1": (32, 32, 3, 3),
        "block_2_0": (64, 32, 3, 3),
        "block_2_1": (64, 64, 3, 3),
        "dense_1": (512, 2304),  # of [height, width, channels]
        "dense_2": (10, 512),
    }
)


def forward_quick():
    """As in Caffe's cifar10_quick.prototxt; the data are red, green, blue."""
    found, how = {}, {"border": (2, 2)}
    x = ref.chw(IMAGE - [125.307, 122.950, 113.865])
    found["conv1"] = x = ref.convolution(x, *QUICK["conv1"], **how)
    found["pool1"] = x = ref.caffe_pool(x, 3, 2, np.max)
    found["relu1"] = x = ref.relu(x)
    found["conv2"] = x = ref.relu(ref.convolution(x, *QUICK["conv2"], **how))
    found["pool2"] = x = ref.caffe_pool(x, 3, 2, np.mean)
    found["conv3"] = x = ref.relu(ref.convolution(x, *QUICK["conv3"], **how))
    found["pool3"] = x = ref.caffe_pool(x, 3, 2, np.mean)
    found["ip1"] = x = ref.dense(x.ravel(), *QUICK["ip1"])
    found["ip2"] = ref.dense(x, *QUICK["ip2"])
    return found


def forward_cnn(reduce):
    x, found = ref.chw(IMAGE / np.float64(255)), {}
    for number in (1, 2):
        first, second = f"block_{number}_0", f"block_{number}_1"
        x = ref.relu(ref.convolution(x, *CNN[first], border=(1, 1)))
        found[first] = x
        found[second] = x = ref.relu(ref.convolution(x, *CNN[second]))
        found[f"pool_{number}"] = x = ref.pool(x, 2, 2, reduce)
    x = ref.relu(ref.dense(ref.hwc(x).ravel(), *CNN["dense_1"]))
    return found | {"dense_1": x, "dense_2": ref.dense(x, *CNN["dense_2"])}


def caffe_file(arrays=QUICK):
    tensors = {
        f"{layer}/{number}": array
        for layer, pair in arrays.items()
        for number, array in enumerate(pair)
    }
    return reading.Checkpoint(tensors=tensors, format="Caffe")


def keras_file(names):
    """Keras' [height, width, in, out] and [in, out], by names for CNN's layers."""
    tensors = {}
    for name, (kernel, bias) in zip(names, CNN.values(), strict=True):
        axes = (2, 3, 1, 0) if kernel.ndim == 4 else (1, 0)
        tensors |= {f"{name}/kernel": kernel.transpose(axes), f"{name}/bias": bias}
    return reading.Checkpoint(tensors=tensors, format="Keras 2 HDF5 weights")


def filled(checkpoint, arch=""):
    found = restore.restore_checkpoint(checkpoint, "file", arch=arch)
    model = ref.every_step(found.network, found.spec)
    ref.fill(model, found)
    return found.network.name, model


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_steps(name):
    assert ref.num_parameters(name) == COUNTS[name]
    assert list(ref.shapes(name, 32).items()) == list(STEPS[name].items())
    assert registry.NETWORKS[name].num_classes == 10


@pytest.mark.parametrize(
    ("size", "places"), [(32, 16), (16, 8), (8, 4)], ids=["32", "16", "8"]
)
def test_caffes_pooling_rounds_up(size, places):
    """Else "SAME" would not be it: without the rounding there is one place less."""
    image = RANDOM.standard_normal((2, size, size))
    found = ref.caffe_pool(image, 3, 2, np.mean)
    assert found.shape == (2, places, places)
    assert found[1, -1, -1] == pytest.approx(image[1, -2:, -2:].mean())
    inside = ref.pool(image, 3, 2, np.mean)
    np.testing.assert_allclose(found[:, :-1, :-1], inside, atol=1e-12)


def test_quick_of_caffe():
    name, model = filled(caffe_file())
    assert name == "cifar10_quick"
    ref.check(model, IMAGE, forward_quick())


def test_quick_is_not_blue_first():
    kernel, bias = QUICK["conv1"]
    wrong = QUICK | {"conv1": (kernel[:, ::-1], bias)}
    with pytest.raises(AssertionError, match="step conv1"):
        ref.check(filled(caffe_file(wrong))[1], IMAGE, forward_quick())


def test_quick_with_ip1_flattened_the_other_way():
    kernel, bias = QUICK["ip1"]
    other = kernel.reshape(64, 64, 16).transpose(0, 2, 1).reshape(64, 1024)
    wrong = QUICK | {"ip1": (other, bias)}
    with pytest.raises(AssertionError, match="step ip1"):
        ref.check(filled(caffe_file(wrong))[1], IMAGE, forward_quick())


def test_keras_example_by_keras_automatic_names():
    names = [*(f"conv2d_{n}" for n in (1, 2, 3, 4)), "dense_1", "dense_2"]
    name, model = filled(keras_file(names))
    assert name == "cifar_cnn"
    ref.check(model, IMAGE, forward_cnn(np.max))


@pytest.mark.parametrize(
    ("name", "reduce"), [("cifar_cnn", np.max), ("cifar_cnn_avg", np.mean)]
)
def test_weights_by_layer_name_need_the_networks_name(name, reduce):
    """Both have the same layers; which pooling they were trained with is not said."""
    checkpoint = keras_file(CNN)
    with pytest.raises(
        errors.MismatchedCheckpoint,
        match=r"fit cifar_cnn and cifar_cnn_avg equally well.*--arch",
    ):
        restore.restore_checkpoint(checkpoint, "file")
    found, model = filled(checkpoint, arch=name)
    assert found == name
    ref.check(model, IMAGE, forward_cnn(reduce))


def test_the_other_pooling_is_noticed():
    _, model = filled(keras_file(CNN), arch="cifar_cnn")
    with pytest.raises(AssertionError, match="step pool_1"):
        ref.check(model, IMAGE, forward_cnn(np.mean))
