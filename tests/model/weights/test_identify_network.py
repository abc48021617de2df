"""Files of every habit, of none, of several, and of other networks."""

import dataclasses
import json

import numpy as np
import pytest

from model.checkpoints import errors, reading
from model.networks import registry
from model.weights import identify_network, layer_naming, unexplained_tensors
from pipeline.batches.input_spec import InputSpec
from tests.model.weights.test_naming_conventions import ALL, BLUE_FIRST, file_of


@ALL
def test_recognised_among_other_tensors(habit):
    checkpoint = file_of(habit)
    checkpoint.tensors.update(
        {"step": np.array(7), "optimizer/conv1/weights/m": np.zeros(3)}
    )
    arch = habit[1] if habit[0] in BLUE_FIRST else ""
    found = identify_network.identify(checkpoint, "file", arch=arch)
    assert (found.naming.source, found.network.name) == habit
    assert found.num_tensors == len(checkpoint.tensors) - 2


@pytest.mark.parametrize(
    "kind", ["caffe-tensorflow", "Toronto's list [weights, biases]"]
)
def test_caffenet_and_alexnet_have_the_same_weights(kind):
    """A file without a list of layers fits both; the user has to say."""
    with pytest.raises(
        errors.MismatchedCheckpoint,
        match=r"file: its 16 known tensors fit bvlc_alexnet and caffenet equally well",
    ):
        identify_network.identify(file_of((kind, "caffenet")), "file")


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
            for match in identify_network.find_candidates(
                reading.Checkpoint(tensors=tensors, format=name), "file"
            ).matches
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
    found = identify_network.identify(checkpoint_of({name: empty(*shape)}), "file")
    assert found.network.name == expected


def test_names_alone_are_not():
    with pytest.raises(
        errors.MismatchedCheckpoint,
        match=r"file: it does not fit any network.*nearest is alexnet_owt, but "
        r".*features\.0\.weight is \[9, 9\], expected \[64, 3, 11, 11\]",
    ):
        identify_network.identify(
            checkpoint_of({"features.0.weight": empty(9, 9)}), "file"
        )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"some\.file: none of its 0 tensors \(\) has a name"),
        (["b", "a"], r"none of its 2 tensors \(a, b\) has a name"),
        (list("fedcba"), r"none of its 6 tensors \(a, b, c, d, \.\.\.\) has a name"),
        (["conv1/weight"], r"as conv1/weights or features\.0\.weight"),
        (["conv1/weights/Adam"], r"may belong to another network"),
        (["module.features.0.weight"], r"python -m model\.inspect"),
    ],
)
def test_unknown_names(names, message):
    with pytest.raises(errors.MismatchedCheckpoint, match=message):
        identify_network.identify(
            checkpoint_of({n: empty(1) for n in names}), "some.file"
        )


class TestArch:
    FILE = file_of(("torchvision", "alexnet_owt"))

    @pytest.mark.parametrize(
        ("arch", "message"),
        [
            ("alexnett", r"--arch=alexnett: .*Did you mean alexnet\?"),
            ("resnet50", r"--arch=resnet50: .*one of alexnet, alexnet_owt"),
            ("caffenet", r"by which Graft knows the layers of caffenet"),
        ],
    )
    def test_another(self, arch, message):
        with pytest.raises(errors.MismatchedCheckpoint, match=message):
            identify_network.identify(self.FILE, "file", arch=arch)

    def test_of_the_same_names(self):
        conv1 = {"features.0.weight": empty(64, 3, 11, 11)}
        with pytest.raises(
            errors.MismatchedCheckpoint,
            match=r"does not fit vgg16\..* \[64, 3, 11, 11\], expected \[64, 3, 3, 3\]",
        ):
            identify_network.identify(checkpoint_of(conv1), "file", arch="vgg16")

    def test_the_same(self):
        found = identify_network.identify(self.FILE, "file", arch="alexnet_owt")
        assert found.naming.source == "torchvision"


class TestOwnFiles:
    SPEC = InputSpec(size_px=96, short_side_px=100, source="mine")

    def file(self, **about):
        names = {"conv1/kernel": empty(11, 11, 3, 96)}
        return checkpoint_of(names, metadata={"network": "alexnet", **about})

    def test_say_what_they_are(self):
        text = json.dumps(dataclasses.asdict(self.SPEC))
        found = identify_network.identify(self.file(input_spec=text), "file")
        assert found.network.name == "alexnet"
        assert found.naming.spec == self.SPEC

    def test_of_a_size_that_the_network_does_not_take(self):
        text = json.dumps(dataclasses.asdict(self.SPEC))
        with pytest.raises(errors.MismatchedCheckpoint, match="images of 9 pixels"):
            identify_network.identify(
                self.file(input_spec=text.replace("96", "9")), "file"
            )

    def test_without_preprocessing(self):
        found = identify_network.identify(self.file(), "file")
        assert found.naming.spec == registry.NETWORKS["alexnet"].input_spec

    @pytest.mark.parametrize("text", ["{", "[]", "3", '{"a": 1}', '{"size_px": "x"}'])
    def test_damaged(self, text):
        with pytest.raises(
            errors.CorruptCheckpoint, match="input_spec in its metadata"
        ):
            identify_network.identify(self.file(input_spec=text), "file")


class TestGroups:
    KERNEL = np.arange(3 * 3 * 2 * 4, dtype=np.float32).reshape(3, 3, 2, 4)

    def join(self, tensors):
        return layer_naming.unify_keras_tensors(tensors)

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


def torch_alexnet(**extra):
    """torchvision's AlexNet and more: names with "__" for "." -> shapes."""
    checkpoint = file_of(("torchvision", "alexnet_owt"))
    for name, shape in extra.items():
        checkpoint.tensors[name.replace("__", ".")] = empty(*shape)
    return checkpoint


class TestStrangers:
    """What a file has beside the network tells whose it is."""

    @pytest.mark.parametrize(
        ("extra", "named"),
        [
            ({"features__12__weight": (9, 256, 3, 3)}, "features.12 (a convolution)"),
            (
                {"features__1__weight": (64,), "features__1__bias": (64,)},
                "features.1 (a normalisation)",
            ),
            (
                {"features__1__running_mean": (4,), "features__1__running_var": (4,)},
                "features.1 (a normalisation)",
            ),
        ],
        ids=["convolution", "affine", "moving"],
    )
    def test_of_another_network(self, extra, named):
        checkpoint = torch_alexnet(**extra)
        found = identify_network.identify(checkpoint, "file", arch="alexnet_owt")
        assert unexplained_tensors.find(checkpoint, found.naming) == [named]
        with pytest.raises(errors.MismatchedCheckpoint) as told:
            identify_network.identify(checkpoint, "file")
        assert named in str(told.value)
        assert "--arch=alexnet_owt" in str(told.value)

    @pytest.mark.parametrize(
        "extra",
        [
            {},
            {"fc__weight": (102, 4096), "fc__bias": (102,)},
            {"new__bias": (7,)},
            {"features__0__num_batches_tracked": ()},
            {"features__0__weight__average": (64, 3, 11, 11)},
        ],
        ids=["nothing", "final layer", "bias", "number", "copy"],
    )
    def test_what_others_leave_beside_a_network(self, extra):
        found = identify_network.identify(torch_alexnet(**extra), "file")
        assert found.network.name == "alexnet_owt"

    def caffe(self, *kinds):
        checkpoint = file_of(("Caffe", "vgg16"))
        layers = ("conv1_1 Convolution", *(f"one {kind}" for kind in kinds))
        return dataclasses.replace(checkpoint, layers=layers)

    def test_layers_without_weights(self):
        with pytest.raises(errors.MismatchedCheckpoint, match=r"one \(LRN\)"):
            identify_network.identify(self.caffe("Pooling", "LRN"), "file")
        identify_network.identify(self.caffe("Pooling", "ReLU", "Dropout"), "file")

    def test_a_list_of_some_layers_says_nothing(self):
        identify_network.identify(self.caffe("LRN"), "file")

    @pytest.mark.parametrize("name", ["caffenet", "bvlc_alexnet"])
    def test_layers_that_the_network_has(self, name):
        checkpoint = file_of(("Caffe", name))
        layers = tuple(
            f"{line.split()[0]} {'LRN' if 'norm' in line else 'Pooling'}"
            for line in checkpoint.layers
        )
        checkpoint = dataclasses.replace(checkpoint, layers=layers)
        assert identify_network.identify(checkpoint, "file").network.name == name


class TestScope:
    def test_around_all_names(self):
        habit = ("TensorFlow AlexNet of 2018", "alexnet")
        inner = file_of(habit)
        tensors = {f"AlexNet/{name}": array for name, array in inner.tensors.items()}
        tensors["step"] = np.array(7)
        found = identify_network.identify(checkpoint_of(tensors, inner.format), "file")
        assert found.network.name == "alexnet"
        assert found.num_tensors == len(inner.tensors)
        assert found.naming.tensor_name("conv1", "kernel") == "AlexNet/conv1/weights"

    def test_around_some_is_none(self):
        tensors = {"net/conv2/weights": empty(5, 5, 96, 256), "fc/weights": empty(2, 2)}
        with pytest.raises(errors.MismatchedCheckpoint):
            identify_network.identify(checkpoint_of(tensors), "file")


class TestDepthwise:
    def renamed(self, *names):
        tensors = {f"a/{name}": empty(2, 2) for name in names}
        return [*layer_naming.unify_keras_tensors(tensors)]

    def test_keras_2_name(self):
        assert self.renamed("depthwise_kernel", "bias") == ["a/kernel", "a/bias"]

    def test_of_a_separable_convolution(self):
        names = ["depthwise_kernel", "pointwise_kernel"]
        assert self.renamed(*names) == [f"a/{name}" for name in names]


def test_variables_in_parts_are_named():
    checkpoint = checkpoint_of(
        {"b": empty(1)}, ignored_entries=("conv1/weights (a variable in parts)",)
    )
    with pytest.raises(errors.MismatchedCheckpoint, match="by a partitioner"):
        identify_network.identify(checkpoint, "file")


def test_another_network_is_suggested():
    with pytest.raises(errors.MismatchedCheckpoint, match="It fits alexnet_owt"):
        identify_network.identify(torch_alexnet(), "file", arch="caffenet")
