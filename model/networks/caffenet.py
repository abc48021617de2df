"""AlexNet as Caffe trained it, with convolutions in two groups: CaffeNet and AlexNet.

They differ only in the order of pooling and local response normalisation, so their
weights have the same names and shapes.
"""

from typing import Any

from model.networks import composite_layers, layers
from pipeline.batches.input_spec import InputSpec

# Source: Caffe's ilsvrc_2012_mean.npy, mean over all pixels (as in its notebook 00).
CAFFE_INPUT = InputSpec(
    size_px=227,
    short_side_px=256,
    resize="squash",
    mean=(122.67891434, 116.66876762, 104.00698793),
    source="Caffe: squashed to 256, crop 227, mean colour of ImageNet",
)


def bvlc_alexnet(num_classes: int, dtype: str) -> list[Any]:
    """Make the AlexNet of 2012: normalisation, then pooling.

    Source: Krizhevsky et al. 2012; caffe/models/bvlc_alexnet/train_val.prototxt.
    """
    return [
        layers.conv("conv1", 96, 11, dtype, stride=4, padding="valid"),
        composite_layers.LocalResponseNorm("norm1", dtype),
        composite_layers.CaffePool("pool1", dtype),
        _grouped("conv2", 256, 5, dtype),
        composite_layers.LocalResponseNorm("norm2", dtype),
        composite_layers.CaffePool("pool2", dtype),
        *_from_conv3(num_classes, dtype),
    ]


def caffenet(num_classes: int, dtype: str) -> list[Any]:
    """Make CaffeNet: pooling, then normalisation; otherwise `bvlc_alexnet`.

    Source: caffe/models/bvlc_reference_caffenet/train_val.prototxt.
    """
    return [
        layers.conv("conv1", 96, 11, dtype, stride=4, padding="valid"),
        composite_layers.CaffePool("pool1", dtype),
        composite_layers.LocalResponseNorm("norm1", dtype),
        _grouped("conv2", 256, 5, dtype),
        composite_layers.CaffePool("pool2", dtype),
        composite_layers.LocalResponseNorm("norm2", dtype),
        *_from_conv3(num_classes, dtype),
    ]


def _from_conv3(num_classes: int, dtype: str) -> list[Any]:
    """Make the layers from conv3 to the logits."""
    return [
        layers.conv("conv3", 384, 3, dtype),
        _grouped("conv4", 384, 3, dtype),
        _grouped("conv5", 256, 3, dtype),
        composite_layers.CaffePool("pool5", dtype),
        layers.flatten(dtype),
        layers.dense("fc6", 4096, dtype),
        layers.dropout("drop6", 0.5, dtype),
        layers.dense("fc7", 4096, dtype),
        layers.dropout("drop7", 0.5, dtype),
        layers.dense("fc8", num_classes, dtype, activation=None),
    ]


def _grouped(name: str, filters: int, size: int, dtype: str) -> Any:
    """Make a convolution in two groups, each with half of the filters."""
    return composite_layers.GroupedConv.build(
        name, 2, lambda group: layers.conv(group, filters // 2, size, dtype)
    )
