"""VGG16, with the layer names of keras.applications."""

from typing import Any

from model.networks import layers
from pipeline.batches.input_spec import InputSpec

# Source: Simonyan and Zisserman 2014, section 2.1 and 3.1; the mean as in Caffe's
# VGG_ILSVRC_16_layers and Keras' imagenet_utils.
VGG16_INPUT = InputSpec(
    mean=(123.68, 116.779, 103.939), source="VGG: mean colour of ImageNet"
)

_FILTERS = (64, 64, 128, 128, 256, 256, 256, *[512] * 6)  # of each convolution
CONV_NAMES = tuple(
    f"block{block}_conv{number}"
    for block, count in enumerate((2, 2, 3, 3, 3), start=1)
    for number in range(1, count + 1)
)


def vgg16(num_classes: int, dtype: str) -> list[Any]:
    """Make configuration D: 13 convolutions of 3 x 3 in five blocks, 3 dense layers.

    Source: Simonyan and Zisserman 2014, "Very Deep Convolutional Networks for
    Large-Scale Image Recognition", table 1.
    """
    blocks: list[Any] = []
    for block in range(1, 6):
        blocks += [
            layers.conv(name, filters, 3, dtype)
            for name, filters in zip(CONV_NAMES, _FILTERS, strict=True)
            if name.startswith(f"block{block}_")
        ]
        blocks.append(layers.max_pool(f"block{block}_pool", 2, 2, dtype))
    return [
        *blocks,
        layers.flatten(dtype),
        layers.dense("fc1", 4096, dtype),
        layers.dropout("drop1", 0.5, dtype),
        layers.dense("fc2", 4096, dtype),
        layers.dropout("drop2", 0.5, dtype),
        layers.dense("predictions", num_classes, dtype, activation=None),
    ]
