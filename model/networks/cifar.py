"""Three small networks for the 32 x 32 photos of CIFAR-10."""

import functools
from typing import Any

import keras

from model.networks.layers import caffe_pool, conv, dense, dropout
from pipeline.batches.input_spec import InputSpec

_input = functools.partial(InputSpec, size_px=32, short_side_px=32, resize="squash")
# Mean colour of CIFAR-10's training photos. Caffe subtracts a mean image instead, which
# its weight files do not contain. Source: Krizhevsky 2009 (data set).
QUICK_INPUT = _input(
    mean=(125.307, 122.950, 113.865),
    source="assumed: CIFAR-10's mean colour; better with Caffe's mean file as --mean",
)
# Source: keras/examples/cifar10_cnn.py.
CIFAR_CNN_INPUT = _input(scale=255.0, source="Keras: RGB / 255")


def cifar10_quick(image: Any, num_classes: int) -> Any:
    """Connect Caffe's quick network: three convolutions; one pools before its ReLU.

    Source: caffe/examples/cifar10/cifar10_quick_train_test.prototxt.
    """
    average = keras.layers.AveragePooling2D
    x = conv(32, 5, activation=None, name="conv1")(image)
    x = caffe_pool(x, name="pool1")
    x = keras.layers.ReLU(name="relu1")(x)
    x = conv(32, 5, name="conv2")(x)
    x = caffe_pool(x, name="pool2", kind=average)
    x = conv(64, 5, name="conv3")(x)
    x = caffe_pool(x, name="pool3", kind=average)
    x = keras.layers.Flatten(name="flatten")(x)
    x = dense(64, activation=None, name="ip1")(x)
    return dense(num_classes, activation=None, name="ip2")(x)


def cifar_cnn_avg(image: Any, num_classes: int) -> Any:
    """Connect `cifar_cnn` with average pooling; its weights have the same names."""
    return cifar_cnn(image, num_classes, keras.layers.AveragePooling2D)


def cifar_cnn(
    image: Any, num_classes: int, pooling: Any = keras.layers.MaxPooling2D
) -> Any:
    """Connect the Keras example: two blocks of two convolutions, max pooling, dense.

    Source: keras/examples/cifar10_cnn.py.
    """
    x = image
    for block, filters in enumerate((32, 64), start=1):
        x = conv(filters, 3, name=f"block_{block}_0")(x)
        x = conv(filters, 3, padding="valid", name=f"block_{block}_1")(x)
        x = pooling(2, name=f"pool_{block}")(x)
        x = dropout(0.25, name=f"drop_{block}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = dense(512, name="dense_1")(x)
    x = dropout(0.5, name="drop_3")(x)
    return dense(num_classes, activation=None, name="dense_2")(x)
