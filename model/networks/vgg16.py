"""VGG16, with the layer names of keras.applications."""

from typing import Any

from model.networks import layers
from pipeline.batches.input_spec import InputSpec

# Source: Simonyan and Zisserman 2014, section 2.1 and 3.1; the mean as in Caffe's
# VGG_ILSVRC_16_layers and Keras' imagenet_utils.
VGG16_INPUT = InputSpec(
    mean=(123.68, 116.779, 103.939), source="VGG: mean colour of ImageNet"
)

FILTERS = (64, 128, 256, 512, 512)
CONVOLUTIONS = (2, 2, 3, 3, 3)
CONV_NAMES = tuple(
    f"block{block}_conv{number}"
    for block, count in enumerate(CONVOLUTIONS, start=1)
    for number in range(1, count + 1)
)


def vgg16(num_classes: int, dtype: str) -> list[Any]:
    """Make configuration D: 13 convolutions of 3 x 3 in five blocks, 3 dense layers.

    Args:
        num_classes: number of classes of the last layer.
        dtype: Keras dtype policy of all layers.

    Returns:
        Unbuilt layers; input [batch, size, size, 3], normalised (pretrained dense
        layers need size 224, convolutions take any size); block5_pool [batch,
        size / 32, size / 32, 512]; logits [batch, num_classes].

    Source: Simonyan and Zisserman 2014, "Very Deep Convolutional Networks for
    Large-Scale Image Recognition", table 1.
    """
    blocks: list[Any] = []
    for block, (filters, count) in enumerate(
        zip(FILTERS, CONVOLUTIONS, strict=True), start=1
    ):
        blocks += [
            layers.conv(f"block{block}_conv{number}", filters, 3, dtype)
            for number in range(1, count + 1)
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
