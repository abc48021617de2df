"""AlexNet as Caffe trained it, in two towers' worth of groups: CaffeNet and AlexNet.

They differ in the order of pooling and local response normalisation alone, so their
weights have the same names and shapes.
"""

from typing import Any

import keras

from model.networks import composite_layers
from pipeline.batches import preprocess

# Source: Caffe's ilsvrc_2012_mean.npy, mean over all pixels (as in its notebook 00).
CAFFE_INPUT = preprocess.InputSpec(
    size_px=227,
    short_side_px=256,
    resize="squash",
    mean=(122.67891434, 116.66876762, 104.00698793),
    source="Caffe: squashed to 256, crop 227, mean colour of ImageNet",
)


def bvlc_alexnet(num_classes: int, dtype: str) -> list[Any]:
    """AlexNet of 2012: normalisation, then pooling.

    Args:
        num_classes: of the last layer.
        dtype: Keras dtype policy of all layers.

    Returns:
        Unbuilt layers; input [batch, 227, 227, 3], mean subtracted; pool5
        [batch, 6, 6, 256]; logits [batch, num_classes].

    Source: Krizhevsky et al. 2012; caffe/models/bvlc_alexnet/train_val.prototxt.
    """
    return [
        _conv("conv1", 96, 11, dtype, strides=4, padding="valid"),
        composite_layers.LocalResponseNorm("norm1", dtype),
        _pool("pool1", dtype),
        _grouped("conv2", 256, 5, dtype),
        composite_layers.LocalResponseNorm("norm2", dtype),
        _pool("pool2", dtype),
        *_rest(num_classes, dtype),
    ]


def caffenet(num_classes: int, dtype: str) -> list[Any]:
    """CaffeNet: pooling, then normalisation; else as `bvlc_alexnet`.

    Source: caffe/models/bvlc_reference_caffenet/train_val.prototxt.
    """
    return [
        _conv("conv1", 96, 11, dtype, strides=4, padding="valid"),
        _pool("pool1", dtype),
        composite_layers.LocalResponseNorm("norm1", dtype),
        _grouped("conv2", 256, 5, dtype),
        _pool("pool2", dtype),
        composite_layers.LocalResponseNorm("norm2", dtype),
        *_rest(num_classes, dtype),
    ]


def _rest(num_classes: int, dtype: str) -> list[Any]:
    return [
        _conv("conv3", 384, 3, dtype),
        _grouped("conv4", 384, 3, dtype),
        _grouped("conv5", 256, 3, dtype),
        _pool("pool5", dtype),
        keras.layers.Flatten(name="flatten", dtype=dtype),
        keras.layers.Dense(4096, activation="relu", name="fc6", dtype=dtype),
        keras.layers.Dropout(0.5, name="drop6", dtype=dtype),
        keras.layers.Dense(4096, activation="relu", name="fc7", dtype=dtype),
        keras.layers.Dropout(0.5, name="drop7", dtype=dtype),
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
        filters, size, strides, padding, activation="relu", name=name, dtype=dtype
    )


def _grouped(name: str, filters: int, size: int, dtype: str) -> Any:
    """A convolution in two groups, each with half of the filters."""
    return composite_layers.GroupedConv.of(
        name, 2, lambda group: _conv(group, filters // 2, size, dtype)
    )


def _pool(name: str, dtype: str) -> Any:
    return keras.layers.MaxPooling2D(3, 2, name=name, dtype=dtype)
