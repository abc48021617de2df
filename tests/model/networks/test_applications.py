"""The networks of keras.applications, against Keras' own models."""

import numpy as np
import pytest

from model.networks import applications


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
