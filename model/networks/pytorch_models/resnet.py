"""ResNet-18, -34 and -50, and ConvNeXt-Tiny, as torchvision and timm have them.

The ResNets differ from keras.applications' in epsilon, biases and, in ResNet-50, the
stride, which lies in the 3 x 3 convolution of a block.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from model.networks.alexnet import ALEXNET_OWT_INPUT
from model.networks.layers import conv_norm, dense, layer_norm, layer_scale

SMALL_BLOCKS, LARGE_BLOCKS = (2, 2, 2, 2), (3, 4, 6, 3)
# Source: torchvision, ConvNeXt_Tiny_Weights.IMAGENET1K_V1.transforms.
CONVNEXT_INPUT = dataclasses.replace(ALEXNET_OWT_INPUT, short_side_px=236)
CONVNEXT_BLOCKS = (3, 3, 9, 3)


def resnet18(image: Any, num_classes: int) -> Any:
    """Connect 8 blocks of two convolutions.

    Source: He et al. 2015, "Deep Residual Learning for Image Recognition", table 1.
    """
    return _connect(image, num_classes, _basic_block, SMALL_BLOCKS)


def resnet34(image: Any, num_classes: int) -> Any:
    """Connect 16 blocks of two convolutions."""
    return _connect(image, num_classes, _basic_block, LARGE_BLOCKS)


def resnet50_torch(image: Any, num_classes: int) -> Any:
    """Connect 16 blocks of three convolutions, the outer ones of 1 x 1 pixels."""
    return _connect(image, num_classes, _bottleneck, LARGE_BLOCKS)


def _connect(
    image: Any, num_classes: int, block: Callable[..., Any], blocks: Sequence[int]
) -> Any:
    """Connect stem, four stages and the final layer."""
    x = keras.layers.ReLU(name="stem")(conv_norm(image, 64, 7, 2, name="stem"))
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)  # no value is below 0
    x = keras.layers.MaxPooling2D(3, 2, name="pool1")(x)
    for stage, repeats in enumerate(blocks, start=1):
        for number in range(repeats):
            stride = 2 if stage > 1 and number == 0 else 1
            filters = 32 * 2**stage
            x = block(x, filters, stride, name=f"stage{stage}_block{number}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return dense(num_classes, activation=None, name="fc")(x)


def _basic_block(x: Any, filters: int, stride: int, *, name: str) -> Any:
    first = conv_norm(x, filters, 3, stride, name=f"{name}_1")
    first = keras.layers.ReLU(name=f"{name}_1_relu")(first)
    return _add(x, conv_norm(first, filters, 3, name=f"{name}_2"), stride, name=name)


def _bottleneck(x: Any, filters: int, stride: int, *, name: str) -> Any:
    first = conv_norm(x, filters, 1, name=f"{name}_1")
    first = keras.layers.ReLU(name=f"{name}_1_relu")(first)
    second = conv_norm(first, filters, 3, stride, name=f"{name}_2")
    second = keras.layers.ReLU(name=f"{name}_2_relu")(second)
    third = conv_norm(second, 4 * filters, 1, name=f"{name}_3")
    return _add(x, third, stride, name=name)


def _add(inputs: Any, x: Any, stride: int, *, name: str) -> Any:
    """Add a block's input, projected if its shape differs, and rectify the sum."""
    if inputs.shape != x.shape:
        projection = f"{name}_shortcut"
        inputs = conv_norm(inputs, x.shape[-1], 1, stride, name=projection)
    x = keras.layers.Add(name=f"{name}_add")([inputs, x])
    return keras.layers.ReLU(name=name)(x)


def convnext_tiny_torch(image: Any, num_classes: int) -> Any:
    """Connect four stages of blocks with large depthwise convolutions.

    Source: Liu et al. 2022, "A ConvNet for the 2020s", figure 4 and table 9.
    """
    x = keras.layers.Conv2D(96, 4, 4, name="stem_conv")(image)
    x = layer_norm(name="stem_norm")(x)
    for stage, repeats in enumerate(CONVNEXT_BLOCKS):
        if stage:
            name = f"stage{stage}_downsample"
            x = layer_norm(name=f"{name}_norm")(x)
            x = keras.layers.Conv2D(96 * 2**stage, 2, 2, name=f"{name}_conv")(x)
        for number in range(repeats):
            x = _convnext_block(x, name=f"stage{stage}_block{number}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = layer_norm(name="pool_norm")(x)
    return dense(num_classes, activation=None, name="fc")(x)


def _convnext_block(inputs: Any, *, name: str) -> Any:
    """Convolve each channel by itself, mix the channels, scale, add the input."""
    channels = inputs.shape[-1]
    x = keras.layers.DepthwiseConv2D(7, padding="same", name=f"{name}_conv")(inputs)
    x = layer_norm(name=f"{name}_norm")(x)
    x = dense(4 * channels, activation="gelu", name=f"{name}_mlp1")(x)
    x = dense(channels, activation=None, name=f"{name}_mlp2")(x)
    x = layer_scale(x, initial=1e-6, name=f"{name}_scale")
    return keras.layers.Add(name=name)([inputs, x])
