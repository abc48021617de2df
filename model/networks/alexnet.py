"""AlexNet in two single-tower forms, and as Caffe trained it, in two groups.

Layer names are those of the papers. The output of a layer is after its ReLU.
"""

from collections.abc import Mapping
from typing import Any

import keras

from model.networks.layers import (
    caffe_pool,
    conv,
    dense,
    dropout,
    grouped_conv,
    local_response_norm,
    max_pool,
)
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

# Source: Caffe's ilsvrc_2012_mean.npy, mean over all pixels (as in its notebook 00).
CAFFE_INPUT = InputSpec(
    size_px=227,
    short_side_px=256,
    resize="squash",
    mean=(122.67891434, 116.66876762, 104.00698793),
    source="Caffe: squashed to 256, crop 227, mean colour of ImageNet",
)


def alexnet(image: Any, num_classes: int) -> Any:
    """Connect the AlexNet of 2012 for one GPU: no groups and, as usual in 2018, no LRN.

    Source: Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional
    Neural Networks"; conv1 is SAME on 224 pixels as in TensorFlow's form.
    """
    x = conv(96, 11, 4, name="conv1")(image)
    x = max_pool(3, 2, name="pool1")(x)
    x = conv(256, 5, name="conv2")(x)
    x = max_pool(3, 2, name="pool2")(x)
    x = conv(384, 3, name="conv3")(x)
    x = conv(384, 3, name="conv4")(x)
    x = conv(256, 3, name="conv5")(x)
    x = max_pool(3, 2, name="pool5")(x)
    return _dense_layers(x, num_classes)


def alexnet_owt(image: Any, num_classes: int) -> Any:
    """Connect AlexNet of "One weird trick": narrower, dropout before fc6 and fc7.

    Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural
    networks", in torchvision's form (conv1 pads by 2; no LRN).
    """
    x = keras.layers.ZeroPadding2D(2, name="pad1")(image)
    x = conv(64, 11, 4, padding="valid", name="conv1")(x)
    x = max_pool(3, 2, name="pool1")(x)
    x = conv(192, 5, name="conv2")(x)
    x = max_pool(3, 2, name="pool2")(x)
    x = conv(384, 3, name="conv3")(x)
    x = conv(256, 3, name="conv4")(x)
    x = conv(256, 3, name="conv5")(x)
    x = max_pool(3, 2, name="pool5")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = dropout(0.5, name="drop6")(x)
    x = dense(4096, name="fc6")(x)
    x = dropout(0.5, name="drop7")(x)
    x = dense(4096, name="fc7")(x)
    return dense(num_classes, activation=None, name="fc8")(x)


def bvlc_alexnet(image: Any, num_classes: int) -> Any:
    """Connect the AlexNet of 2012: normalisation, then pooling.

    In groups as on two GPUs; source: caffe/models/bvlc_alexnet/train_val.prototxt.
    """
    steps = {"norm": local_response_norm, "pool": caffe_pool}
    return _in_two_groups(image, num_classes, steps)


def caffenet(image: Any, num_classes: int) -> Any:
    """Connect CaffeNet: pooling, then normalisation; its weights have the same shapes.

    Source: caffe/models/bvlc_reference_caffenet/train_val.prototxt.
    """
    steps = {"pool": caffe_pool, "norm": local_response_norm}
    return _in_two_groups(image, num_classes, steps)


def _in_two_groups(image: Any, num_classes: int, steps: Mapping[str, Any]) -> Any:
    """Connect Caffe's layers; `steps` are {name: layer} after conv1 and conv2."""
    x = conv(96, 11, 4, padding="valid", name="conv1")(image)
    for name, step in steps.items():
        x = step(x, name=f"{name}1")
    x = grouped_conv(x, 256, 5, groups=2, name="conv2")
    for name, step in steps.items():
        x = step(x, name=f"{name}2")
    x = conv(384, 3, name="conv3")(x)
    x = grouped_conv(x, 384, 3, groups=2, name="conv4")
    x = grouped_conv(x, 256, 3, groups=2, name="conv5")
    x = caffe_pool(x, name="pool5")
    return _dense_layers(x, num_classes)


def _dense_layers(x: Any, num_classes: int) -> Any:
    """Connect three dense layers, with dropout after the first two."""
    x = keras.layers.Flatten(name="flatten")(x)
    x = dense(4096, name="fc6")(x)
    x = dropout(0.5, name="drop6")(x)
    x = dense(4096, name="fc7")(x)
    x = dropout(0.5, name="drop7")(x)
    return dense(num_classes, activation=None, name="fc8")(x)
