"""AlexNet as Caffe trained it, with convolutions in two groups: CaffeNet and AlexNet.

They differ only in the order of pooling and local response normalisation, so their
weights have the same names and shapes.
"""

from typing import Any

import keras

from model.networks.layers import (
    caffe_pool,
    conv,
    dense,
    dropout,
    grouped_conv,
    local_response_norm,
)
from pipeline.batches.input_spec import InputSpec

# Source: Caffe's ilsvrc_2012_mean.npy, mean over all pixels (as in its notebook 00).
CAFFE_INPUT = InputSpec(
    size_px=227,
    short_side_px=256,
    resize="squash",
    mean=(122.67891434, 116.66876762, 104.00698793),
    source="Caffe: squashed to 256, crop 227, mean colour of ImageNet",
)


def bvlc_alexnet(image: Any, num_classes: int) -> Any:
    """Connect the AlexNet of 2012: normalisation, then pooling.

    Source: Krizhevsky et al. 2012; caffe/models/bvlc_alexnet/train_val.prototxt.
    """
    x = conv(96, 11, 4, padding="valid", name="conv1")(image)
    x = local_response_norm(x, name="norm1")
    x = caffe_pool(x, name="pool1")
    x = grouped_conv(x, 256, 5, groups=2, name="conv2")
    x = local_response_norm(x, name="norm2")
    x = caffe_pool(x, name="pool2")
    return _from_conv3(x, num_classes)


def caffenet(image: Any, num_classes: int) -> Any:
    """Connect CaffeNet: pooling, then normalisation; otherwise `bvlc_alexnet`.

    Source: caffe/models/bvlc_reference_caffenet/train_val.prototxt.
    """
    x = conv(96, 11, 4, padding="valid", name="conv1")(image)
    x = caffe_pool(x, name="pool1")
    x = local_response_norm(x, name="norm1")
    x = grouped_conv(x, 256, 5, groups=2, name="conv2")
    x = caffe_pool(x, name="pool2")
    x = local_response_norm(x, name="norm2")
    return _from_conv3(x, num_classes)


def _from_conv3(x: Any, num_classes: int) -> Any:
    """Connect the layers from conv3 to the logits."""
    x = conv(384, 3, name="conv3")(x)
    x = grouped_conv(x, 384, 3, groups=2, name="conv4")
    x = grouped_conv(x, 256, 3, groups=2, name="conv5")
    x = caffe_pool(x, name="pool5")
    x = keras.layers.Flatten(name="flatten")(x)
    x = dense(4096, name="fc6")(x)
    x = dropout(0.5, name="drop6")(x)
    x = dense(4096, name="fc7")(x)
    x = dropout(0.5, name="drop7")(x)
    return dense(num_classes, activation=None, name="fc8")(x)
