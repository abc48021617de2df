"""Files in every naming convention, in none, in several, and of other networks."""

import dataclasses
import json
import re

import numpy as np
import pytest

from model.checkpoints import errors
from model.checkpoints.checkpoint import Checkpoint
from model.networks import registry
from model.weights import identify_network
from pipeline.batches.input_spec import InputSpec
from tests.support.weights import foreign_weights


def checkpoint_of(tensors, kind="test", **options):
    return Checkpoint(tensors=tensors, format=kind, where="file", **options)


def refused(message):
    return pytest.raises(errors.MismatchedCheckpoint, match=message)


def empty(*shape):
    return np.broadcast_to(np.float32(0), shape)


def identify(tensors, **options):
    return identify_network.identify(checkpoint_of(tensors), **options)


@pytest.mark.parametrize(("source", "network"), foreign_weights.FORMS, ids=" ".join)
def test_a_complete_file_is_identified_among_other_tensors(source, network):
    file = foreign_weights.empty_file(source, network)
    file.tensors.update({"step": np.array(7), "optimizer/conv1/weights/m": np.zeros(3)})
    arch = network if (source, network) in foreign_weights.AMBIGUOUS else ""
    match = identify_network.identify(file, arch=arch)
    assert (match.naming.source, match.network.name) == (source, network)
    assert match.num_tensors == len(file.tensors) - 2


def test_without_a_list_of_layers_caffenet_may_be_alexnet():
    """Both have the same weights; the order of pooling tells them apart."""
    file = foreign_weights.empty_file("caffe-tensorflow", "caffenet")
    with refused(
        r"its 16 known tensors fit bvlc_alexnet and caffenet equally well"
        r".*--arch=bvlc_alexnet or --arch=caffenet"
    ):
        identify_network.identify(file)


@pytest.mark.parametrize("network", ["caffenet", "bvlc_alexnet"])
def test_a_list_of_layers_tells_caffenet_from_alexnet(network):
    file = foreign_weights.empty_file("Caffe", network)
    assert {("norm1", "LRN"), ("pool1", "Pooling")} <= {*file.layers}
    assert identify_network.identify(file).network.name == network


def test_layer_names_do_not_tell_the_pooling_of_cifar_cnn():
    kernel = {"block_1_0/kernel": empty(3, 3, 3, 32)}
    with refused("cifar_cnn and cifar_cnn_avg equally well"):
        identify(kernel)
    for arch in ("cifar_cnn", "cifar_cnn_avg"):
        assert identify(kernel, arch=arch).network.name == arch


@pytest.mark.parametrize(
    ("kind", "layout"),
    [("Caffe", "caffe"), ("Caffe HDF5", "caffe"), ("NumPy array", "tensorflow")],
)
def test_the_format_tells_the_layout_of_a_square_kernel(kind, layout):
    """fc7 is 4096 x 4096 in either layout, and its name is the same, too."""
    file = checkpoint_of({"fc7/0": empty(4096, 4096)}, kind)
    matches = identify_network.find_candidates(file).matches
    assert {match.naming.layout for match in matches} == {layout}


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
    assert identify({name: empty(*shape)}).network.name == expected


def test_a_name_without_the_shape_is_not_enough():
    """Files of SqueezeNet have a features.0.weight, too."""
    with refused(
        r"file: it does not fit any network.*nearest is alexnet_owt, but "
        r".*features\.0\.weight is \[9, 9\], expected \[64, 3, 11, 11\]"
    ):
        identify({"features.0.weight": empty(9, 9)})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"file: none of its 0 tensors \(\) has a name"),
        (["b", "a"], r"none of its 2 tensors \(a, b\) has a name"),
        (list("fedcba"), r"none of its 6 tensors \(a, b, c, d, \.\.\.\) has a name"),
        (["conv1/weight"], r"such as conv1/weights or features\.0\.weight"),
        (["conv1/weights/Adam"], r"--arch also takes a file of another network"),
        (["module.features.0.weight"], r"python -m model\.inspect"),
    ],
)
def test_a_file_of_unknown_names_is_refused(names, message):
    with refused(message):
        identify({name: empty(1) for name in names})


def alexnet_of_torchvision(**extra):
    """A complete file and more: names with "__" for "." -> shapes."""
    file = foreign_weights.empty_file("torchvision", "alexnet_owt")
    for name, shape in extra.items():
        file.tensors[name.replace("__", ".")] = empty(*shape)
    return file


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("alexnett", r"--arch=alexnett: .*did you mean alexnet"),
        ("yolo", r"--arch=yolo: .*one of alexnet, alexnet_owt"),
        ("caffenet", r"the layers of caffenet.*It fits alexnet_owt"),
    ],
)
def test_another_network_is_refused(arch, message):
    with refused(message):
        identify_network.identify(alexnet_of_torchvision(), arch=arch)


def test_a_network_with_the_same_names_is_refused():
    message = r"does not fit vgg16\..* \[64, 3, 11, 11\], expected \[64, 3, 3, 3\]"
    with refused(message):
        identify({"features.0.weight": empty(64, 3, 11, 11)}, arch="vgg16")


class TestFileOfGraft:
    SPEC = InputSpec(size_px=96, short_side_px=100, source="mine")
    TEXT = json.dumps(dataclasses.asdict(SPEC))

    def identify(self, **metadata):
        tensors = {"conv1/kernel": empty(11, 11, 3, 96)}
        file = checkpoint_of(tensors, metadata={"network": "alexnet", **metadata})
        return identify_network.identify(file)

    def test_the_file_states_its_network_and_preprocessing(self):
        match = self.identify(input_spec=self.TEXT)
        assert match.network.name == "alexnet"
        assert match.naming.spec == self.SPEC

    def test_an_impossible_size_is_refused(self):
        match = self.identify(input_spec=self.TEXT.replace("96", "9"))
        with refused("images of 9 pixels up to conv2 only"):
            match.network.output_shape(match.naming.spec, "pool5")

    def test_the_preprocessing_is_by_default_that_of_the_network(self):
        spec = registry.NETWORKS["alexnet"].input_spec
        assert self.identify().naming.spec == spec

    @pytest.mark.parametrize("text", ["{", "[]", "3", '{"a": 1}', '{"size_px": "x"}'])
    def test_damaged_preprocessing_is_refused(self, text):
        with pytest.raises(errors.CorruptCheckpoint, match="input_spec in its meta"):
            self.identify(input_spec=text)


class TestUnexplainedLayers:
    @pytest.mark.parametrize(
        ("extra", "unexplained"),
        [
            ({"features__12__weight": (9, 256, 3, 3)}, "features.12 (a convolution)"),
            (
                {"features__1__weight": (64,), "features__1__bias": (64,)},
                "features.1 (a normalisation)",
            ),
        ],
        ids=["convolution", "normalisation"],
    )
    def test_layers_of_another_network_are_refused(self, extra, unexplained):
        file = alexnet_of_torchvision(**extra)
        match = identify_network.identify(file, arch="alexnet_owt")
        assert match.naming.unexplained_layers(file, {}) == [unexplained]
        with refused(f"{re.escape(unexplained)}.*--arch=alexnet_owt"):
            identify_network.identify(file)

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
    def test_layers_that_tools_add_are_allowed(self, extra):
        match = identify_network.identify(alexnet_of_torchvision(**extra))
        assert match.network.name == "alexnet_owt"

    @pytest.mark.parametrize(
        ("types", "unexplained"),
        [
            (("Pooling", "LRN"), ["extra (LRN)"]),
            (("Pooling", "ReLU", "Dropout"), []),
            (("LRN",), []),  # a list without pooling is not complete
        ],
        ids=["normalisation", "activations", "incomplete list"],
    )
    def test_layers_without_weights_count_if_the_list_is_complete(
        self, types, unexplained
    ):
        file = foreign_weights.empty_file("Caffe", "vgg16")
        layers = (("conv1_1", "Convolution"), *(("extra", name) for name in types))
        file = dataclasses.replace(file, layers=layers)
        naming = foreign_weights.naming_of("Caffe", "vgg16")
        assert naming.unexplained_layers(file, {}) == unexplained


def test_a_scope_around_all_names_is_removed():
    inner = foreign_weights.empty_file("TensorFlow AlexNet of 2018", "alexnet")
    tensors = {f"AlexNet/{name}": array for name, array in inner.tensors.items()}
    match = identify(tensors | {"step": np.array(7)})
    assert match.network.name == "alexnet"
    assert match.num_tensors == len(inner.tensors)
    assert match.naming.tensor_name("conv1", "kernel") == "AlexNet/conv1/weights"


def test_a_scope_around_some_names_is_kept():
    tensors = {"net/conv2/weights": empty(5, 5, 96, 256), "fc/weights": empty(2, 2)}
    with refused("none of its 2 tensors"):
        identify(tensors)


def test_variables_in_parts_are_refused_with_the_reason():
    ignored = ("conv1/weights (a variable in parts)",)
    file = checkpoint_of({"b": empty(1)}, ignored_entries=ignored)
    with refused("variables in parts"):
        identify_network.identify(file)


class TestAutomaticNames:
    """Keras calls the layers of any network conv2d, conv2d_1, dense."""

    def tensors(self, **changed):
        file = foreign_weights.empty_file("tf.keras' automatic names", "cifar_cnn")
        changes = {f"{name}/kernel": shape for name, shape in changed.items()}
        return {
            name: empty(*changes[name]) if name in changes else tensor
            for name, tensor in file.tensors.items()
            if changes.get(name, True)
        }

    def test_other_classes_are_allowed(self):
        tensors = self.tensors(dense_1=(512, 3))
        assert identify_keras(tensors).network.name == "cifar_cnn"

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"dense": (99, 512)}, r"dense/kernel is \[99, 512\], expected \[2304, 51"),
            ({"conv2d_2": None}, "it has no conv2d_2/kernel"),
        ],
    )
    def test_a_layer_of_another_shape_is_another_network(self, changed, message):
        with refused(f"does not fit any.*{message}.*--arch also takes a file"):
            identify_keras(self.tensors(**changed))


def identify_keras(tensors):
    return identify_network.identify(checkpoint_of(tensors, "Keras 2 HDF5 (weights)"))


def test_a_model_of_another_kind_is_named():
    with refused("file: is LoRA: changes"):
        identify({"unet.lora_up.weight": empty(3, 3)})


@pytest.mark.parametrize(
    ("layer", "advice"),
    [("conv1", r" Pass --arch=\w+ to use what fits it"), ("x", "$")],
)
def test_advice_to_name_a_network_is_given_only_if_one_fits(layer, advice):
    config = json.dumps({"class_name": "Strange", "config": {}})
    tensors = {f"{layer}/kernel": empty(11, 11, 3, 96), "y/kernel": empty(9, 9, 9, 9)}
    file = checkpoint_of(tensors, "Keras 2 HDF5 (weights)", keras_config=config)
    with refused(f"^file: its Keras config.* a model of class 'Strange'.{advice}"):
        identify_network.identify(file)
