"""AlexNet in its two single-tower forms, as lists of Keras layers from input to logits.

Layer names are those of the papers. The output of a layer is after its ReLU.
"""

from typing import Any

import keras

from model.networks import layers
from pipeline.batches.input_spec import InputSpec

# Source: TensorFlow's 2018 AlexNet tutorials for Flowers, after the means of VGG
# (Simonyan and Zisserman 2014). Their checkpoints do not state them.
ALEXNET_INPUT = InputSpec(
    mean=(123.68, 116.78, 103.94),
    source="assumed: the checkpoint states none; ImageNet's mean RGB, 256/224",
)

# Source: torchvision, AlexNet_Weights.IMAGENET1K_V1.transforms (mean, std, 256/224).
ALEXNET_OWT_INPUT = InputSpec(
    scale=255.0,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    source="torchvision",
)


def alexnet(num_classes: int, dtype: str) -> list[Any]:
    """Make the AlexNet of 2012 for one GPU: no groups and, as usual in 2018, no LRN.

    Source: Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional
    Neural Networks"; conv1 is SAME on 224 pixels as in TensorFlow's form.
    """
    return [
        layers.conv("conv1", 96, 11, dtype, stride=4),
        layers.max_pool("pool1", 3, 2, dtype),
        layers.conv("conv2", 256, 5, dtype),
        layers.max_pool("pool2", 3, 2, dtype),
        layers.conv("conv3", 384, 3, dtype),
        layers.conv("conv4", 384, 3, dtype),
        layers.conv("conv5", 256, 3, dtype),
        layers.max_pool("pool5", 3, 2, dtype),
        layers.flatten(dtype),
        layers.dense("fc6", 4096, dtype),
        layers.dropout("drop6", 0.5, dtype),
        layers.dense("fc7", 4096, dtype),
        layers.dropout("drop7", 0.5, dtype),
        layers.dense("fc8", num_classes, dtype, activation=None),
    ]


def alexnet_owt(num_classes: int, dtype: str) -> list[Any]:
    """Make AlexNet of "One weird trick": narrower, dropout before fc6 and fc7.

    Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural
    networks", in torchvision's form (conv1 pads by 2; no LRN).
    """
    return [
        keras.layers.ZeroPadding2D(2, name="pad1", dtype=dtype),
        layers.conv("conv1", 64, 11, dtype, stride=4, padding="valid"),
        layers.max_pool("pool1", 3, 2, dtype),
        layers.conv("conv2", 192, 5, dtype),
        layers.max_pool("pool2", 3, 2, dtype),
        layers.conv("conv3", 384, 3, dtype),
        layers.conv("conv4", 256, 3, dtype),
        layers.conv("conv5", 256, 3, dtype),
        layers.max_pool("pool5", 3, 2, dtype),
        layers.flatten(dtype),
        layers.dropout("drop6", 0.5, dtype),
        layers.dense("fc6", 4096, dtype),
        layers.dropout("drop7", 0.5, dtype),
        layers.dense("fc7", 4096, dtype),
        layers.dense("fc8", num_classes, dtype, activation=None),
    ]
