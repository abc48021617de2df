"""The networks of keras.applications, against Keras' own models."""

import keras
import numpy as np
import pytest

from model.checkpoints import errors, reading
from model.checkpoints.checkpoint import Checkpoint
from model.networks import applications
from model.weights import model_variables, restore, weight_file
from model.weights.identify_network import find_candidates as identify


@pytest.mark.parametrize(
    ("names", "family"),
    [
        ("conv1_conv conv2_block1_3_bn conv2_block1_0_bn", "ResNet"),
        ("res2a_branch2a", "ResNet"),
        ("conv2_block1_preact_bn conv2_block1_0_bn", "ResNetV2"),
        ("conv1/conv conv2_block1_0_bn", "DenseNet"),
        ("expanded_conv_project_BN", "MobileNetV2"),
        ("expanded_conv/project/BatchNorm", "MobileNetV3"),
        ("block1a_dwconv", "EfficientNet"),
        ("block4a_dwconv2 block6l_expand_conv", "EfficientNetV2-B"),
        ("block4a_dwconv2 block6m_expand_conv", "EfficientNetV2-S, M or L"),
        ("convnext_base_stage_0_block_0_depthwise_conv", "ConvNeXt"),
        ("block1_conv1 block14_sepconv2", "Xception"),
        ("my_block5_conv3 conv_dw_12 block1", None),
        ("", None),
    ],
)
def test_layer_names_tell_the_family(names, family):
    found = applications.family_of(["dense", *names.split(), "logits"])
    assert (found and found.name) == family


@pytest.mark.parametrize("mode", ["caffe", "tf", "torch"])
def test_preprocessing_is_that_of_keras(mode):
    from keras.src.applications import imagenet_utils

    family = next(
        family
        for family in applications._FAMILIES
        if family.input_spec.source.endswith(mode)
    )
    spec, image = family.input_spec, np.arange(12.0).reshape(2, 2, 3) * 20
    expected = imagenet_utils.preprocess_input(image.copy(), mode=mode)
    if family.bgr:
        expected = expected[..., ::-1]
    actual = (image / spec.scale - spec.mean) / spec.std
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.fixture(scope="module")
def mobilenet():
    """Keras' own MobileNetV2 with random weights and statistics."""
    model = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    random = np.random.default_rng(0)
    for variable in model.variables:
        if len(variable.shape) == 1:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return model


def restored_from(path, **options):
    return restore.restore_checkpoint(reading.read(path), **options)


def write_old_file(path, model, swapped=()):
    """Write weights as Keras 2 did, with other names of layers, two of them swapped."""
    layers = [layer for layer in model.layers if layer.weights]
    order = [*range(len(layers))]
    for place, other in zip(swapped, reversed(swapped), strict=True):
        order[place] = other
    arrays = {
        f"layer_{number}/{variable.path.rpartition('/')[2]}": variable.numpy()
        for number in order
        for variable in layers[number].weights
    }
    weight_file.write(path, arrays, {})


class TestFilesOfKeras:
    @pytest.mark.parametrize("name", ["x.keras", "x.weights.h5", "old.h5"])
    def test_logits_are_those_of_keras(self, mobilenet, tmp_path, name):
        path = tmp_path / name
        if name == "x.keras":
            mobilenet.save(path)
        elif name == "old.h5":
            write_old_file(path, mobilenet)
        else:
            mobilenet.save_weights(path)
        restored = restored_from(path)
        network = restored.network
        assert network.name == "mobilenet_v2"
        in_order = restored.naming.source == "the order of layers"
        assert in_order == (name == "old.h5")
        model = network.build(restored.spec, last="predictions")
        model_variables.assign(model, restored.values)
        image = np.random.default_rng(1).integers(0, 256, (1, 224, 224, 3)) * 1.0
        expected = np.asarray(mobilenet(image / 127.5 - 1))
        np.testing.assert_allclose(model(image), expected, atol=1e-4 * expected.max())

    def test_layers_in_another_order_are_refused_with_both_shapes(
        self, mobilenet, tmp_path
    ):
        write_old_file(tmp_path / "old.h5", mobilenet, swapped=(2, 4))
        message = (
            r"is \[1, 1, 32, 16\], but the variable of mobilenet_v2 in its place is "
            r"expanded_conv_depthwise/kernel, \[3, 3, 32, 1\]"
        )
        with pytest.raises(errors.MismatchedCheckpoint, match=message):
            restored_from(tmp_path / "old.h5", arch="mobilenet_v2")
        with pytest.raises(
            errors.MismatchedCheckpoint, match="none of its 262 tensors"
        ):
            restored_from(tmp_path / "old.h5")

    def test_files_of_other_networks_do_not_describe_these(self, monkeypatch):
        """Each description takes seconds."""
        monkeypatch.setattr(applications, "_connect", None)
        tensors = {"conv1/kernel": np.zeros((11, 11, 3, 96), np.float32)}
        checkpoint = Checkpoint(tensors=tensors, format="test", where="file")
        networks = {m.network.name for m in identify(checkpoint).matches}
        assert "alexnet" in networks and not networks & {*applications.MODELS}


@pytest.mark.parametrize("layer", ["normalization", "normalization_12"])
def test_a_normalization_of_a_file_states_the_preprocessing(layer):
    spec = applications.MODELS["efficientnet_b0"][2]
    names = (f"{layer}/moving_mean", f"{layer}/moving_variance")
    mean, imagenet = np.array([0.1, 0.2, 0.3]), np.array([0.229, 0.224, 0.225])
    assert applications.stated_spec(spec, {}) == spec
    stated = dict(zip(names, (np.array(spec.mean), imagenet), strict=True))
    assert applications.stated_spec(spec, stated) == spec
    own = applications.stated_spec(spec, dict(zip(names, (mean, mean**2), strict=True)))
    assert (own.scale, own.mean) == (255, (0.1, 0.2, 0.3))
    np.testing.assert_allclose(own.std, mean)
