"""ConvNeXt-Tiny as Meta, torchvision and timm have it."""

import dataclasses
from typing import Any

import keras

from model.networks.alexnet import ALEXNET_OWT_INPUT
from model.networks.layers import dense, layer_norm, layer_scale

# Source: torchvision, ConvNeXt_Tiny_Weights.IMAGENET1K_V1.transforms.
CONVNEXT_INPUT = dataclasses.replace(ALEXNET_OWT_INPUT, short_side_px=236)
BLOCKS = (3, 3, 9, 3)


def convnext_tiny_torch(image: Any, num_classes: int) -> Any:
    """Connect four stages of blocks with large depthwise convolutions.

    Source: Liu et al. 2022, "A ConvNet for the 2020s", figure 4 and table 9.
    """
    x = keras.layers.Conv2D(96, 4, 4, name="stem_conv")(image)
    x = layer_norm(name="stem_norm")(x)
    for stage, repeats in enumerate(BLOCKS):
        if stage:
            name = f"stage{stage}_downsample"
            x = layer_norm(name=f"{name}_norm")(x)
            x = keras.layers.Conv2D(96 * 2**stage, 2, 2, name=f"{name}_conv")(x)
        for number in range(repeats):
            x = _block(x, name=f"stage{stage}_block{number}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = layer_norm(name="pool_norm")(x)
    return dense(num_classes, activation=None, name="fc")(x)


def _block(inputs: Any, *, name: str) -> Any:
    """Convolve each channel by itself, mix the channels, scale, add the input."""
    channels = inputs.shape[-1]
    x = keras.layers.DepthwiseConv2D(7, padding="same", name=f"{name}_conv")(inputs)
    x = layer_norm(name=f"{name}_norm")(x)
    x = dense(4 * channels, activation="gelu", name=f"{name}_mlp1")(x)
    x = dense(channels, activation=None, name=f"{name}_mlp2")(x)
    x = layer_scale(x, initial=1e-6, name=f"{name}_scale")
    return keras.layers.Add(name=name)([inputs, x])
