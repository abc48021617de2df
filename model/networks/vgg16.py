"""VGG16, with the layer names that Keras gave it."""

from typing import Any

import keras

from pipeline.batches import preprocess

# Source: Simonyan and Zisserman 2014, section 2.1 and 3.1; the mean as in Caffe's
# VGG_ILSVRC_16_layers and Keras' imagenet_utils.
VGG16_INPUT = preprocess.InputSpec(
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
    """Configuration D: 13 convolutions of 3 x 3 in five blocks, three dense layers.

    Args:
        num_classes: of the last layer.
        dtype: Keras dtype policy of all layers.

    Returns:
        Unbuilt layers; input [batch, size, size, 3], normalised, where the dense layers
        want size 224 and the convolutions any; block5_pool [batch, size / 32,
        size / 32, 512]; logits [batch, num_classes].

    Source: Simonyan and Zisserman 2014, "Very Deep Convolutional Networks for
    Large-Scale Image Recognition", table 1.
    """
    layers: list[Any] = []
    for block, (filters, count) in enumerate(
        zip(FILTERS, CONVOLUTIONS, strict=True), start=1
    ):
        layers += [
            keras.layers.Conv2D(
                filters,
                3,
                padding="same",
                activation="relu",
                name=f"block{block}_conv{number}",
                dtype=dtype,
            )
            for number in range(1, count + 1)
        ]
        layers.append(
            keras.layers.MaxPooling2D(2, 2, name=f"block{block}_pool", dtype=dtype)
        )
    return [
        *layers,
        keras.layers.Flatten(name="flatten", dtype=dtype),
        keras.layers.Dense(4096, activation="relu", name="fc1", dtype=dtype),
        keras.layers.Dropout(0.5, name="drop1", dtype=dtype),
        keras.layers.Dense(4096, activation="relu", name="fc2", dtype=dtype),
        keras.layers.Dropout(0.5, name="drop2", dtype=dtype),
        keras.layers.Dense(num_classes, name="predictions", dtype=dtype),
    ]
