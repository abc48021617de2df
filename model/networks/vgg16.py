"""VGG16, with the layer names of keras.applications."""

from typing import Any

import keras

from model.networks.layers import conv, dense, dropout, max_pool
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


def vgg16(image: Any, num_classes: int) -> Any:
    """Connect configuration D: 13 convolutions in five blocks, 3 dense layers.

    Source: Simonyan and Zisserman 2014, "Very Deep Convolutional Networks for
    Large-Scale Image Recognition", table 1.
    """
    x = image
    for block in range(1, 6):
        for name, filters in zip(CONV_NAMES, _FILTERS, strict=True):
            if name.startswith(f"block{block}_"):
                x = conv(filters, 3, name=name)(x)
        x = max_pool(2, 2, name=f"block{block}_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = dense(4096, name="fc1")(x)
    x = dropout(0.5, name="drop1")(x)
    x = dense(4096, name="fc2")(x)
    x = dropout(0.5, name="drop2")(x)
    return dense(num_classes, activation=None, name="predictions")(x)
