"""AlexNet in its two single-tower forms, as lists of Keras layers from input to logits.

Layer names are the papers'. A layer's output is after its ReLU.
"""

from typing import Any

import keras

from pipeline.batches import preprocess

# Source: TensorFlow's 2018 AlexNet tutorials for Flowers, after the means of VGG
# (Simonyan and Zisserman 2014). Their checkpoints do not state them.
ALEXNET_INPUT = preprocess.InputSpec(
    mean=(123.68, 116.78, 103.94),
    source="assumed: the checkpoint states none; ImageNet's mean RGB, 256/224",
)

# Source: torchvision, AlexNet_Weights.IMAGENET1K_V1.transforms (mean, std, 256/224).
ALEXNET_OWT_INPUT = preprocess.InputSpec(
    scale=255.0,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    source="torchvision",
)


def alexnet(num_classes: int, dtype: str) -> list[Any]:
    """AlexNet of 2012 on one GPU: no groups and, as in the 2018 practice, no LRN.

    Args:
        num_classes: of the last layer.
        dtype: Keras dtype policy of all layers.

    Returns:
        Unbuilt layers; input [batch, 224, 224, 3], normalised; pool5
        [batch, 6, 6, 256]; logits [batch, num_classes].

    Source: Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional
    Neural Networks"; conv1 is SAME on 224 pixels as in TensorFlow's form.
    """
    return [
        _conv("conv1", 96, 11, dtype, strides=4),
        _pool("pool1", dtype),
        _conv("conv2", 256, 5, dtype),
        _pool("pool2", dtype),
        _conv("conv3", 384, 3, dtype),
        _conv("conv4", 384, 3, dtype),
        _conv("conv5", 256, 3, dtype),
        _pool("pool5", dtype),
        keras.layers.Flatten(name="flatten", dtype=dtype),
        keras.layers.Dense(4096, activation="relu", name="fc6", dtype=dtype),
        keras.layers.Dropout(0.5, name="drop6", dtype=dtype),
        keras.layers.Dense(4096, activation="relu", name="fc7", dtype=dtype),
        keras.layers.Dropout(0.5, name="drop7", dtype=dtype),
        keras.layers.Dense(num_classes, name="fc8", dtype=dtype),
    ]


def alexnet_owt(num_classes: int, dtype: str) -> list[Any]:
    """AlexNet of "One weird trick": narrower convolutions, dropout before fc6 and fc7.

    Args:
        num_classes: of the last layer.
        dtype: Keras dtype policy of all layers.

    Returns:
        Unbuilt layers; input [batch, 224, 224, 3], normalised; pool5
        [batch, 6, 6, 256]; logits [batch, num_classes].

    Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural
    networks", in torchvision's form (conv1 pads by 2; no LRN).
    """
    return [
        keras.layers.ZeroPadding2D(2, name="pad1", dtype=dtype),
        _conv("conv1", 64, 11, dtype, strides=4, padding="valid"),
        _pool("pool1", dtype),
        _conv("conv2", 192, 5, dtype),
        _pool("pool2", dtype),
        _conv("conv3", 384, 3, dtype),
        _conv("conv4", 256, 3, dtype),
        _conv("conv5", 256, 3, dtype),
        _pool("pool5", dtype),
        keras.layers.Flatten(name="flatten", dtype=dtype),
        keras.layers.Dropout(0.5, name="drop6", dtype=dtype),
        keras.layers.Dense(4096, activation="relu", name="fc6", dtype=dtype),
        keras.layers.Dropout(0.5, name="drop7", dtype=dtype),
        keras.layers.Dense(4096, activation="relu", name="fc7", dtype=dtype),
        keras.layers.Dense(num_classes, name="fc8", dtype=dtype),
    ]


def _conv(
    name: str,
    filters: int,
    size: int,
    dtype: str,
    *,
    strides: int = 1,
    padding: str = "same",
) -> Any:
    return keras.layers.Conv2D(
        filters,
        size,
        strides,
        padding,
        activation="relu",
        name=name,
        dtype=dtype,
    )


def _pool(name: str, dtype: str) -> Any:
    return keras.layers.MaxPooling2D(3, 2, name=name, dtype=dtype)
