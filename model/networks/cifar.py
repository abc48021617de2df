"""Three small networks for the 32 x 32 photos of CIFAR-10."""

from typing import Any

import keras

from model.networks import composite_layers, layers
from pipeline.batches.input_spec import InputSpec

# Mean colour of CIFAR-10's training photos. Caffe subtracts a mean image instead, which
# its weight files do not contain. Source: Krizhevsky 2009 (data set).
QUICK_INPUT = InputSpec(
    size_px=32,
    short_side_px=32,
    resize="squash",
    mean=(125.307, 122.950, 113.865),
    source="assumed: CIFAR-10's mean colour; better with Caffe's mean file as --mean",
)
# Source: keras/examples/cifar10_cnn.py.
CIFAR_CNN_INPUT = InputSpec(
    size_px=32,
    short_side_px=32,
    resize="squash",
    scale=255.0,
    source="Keras: RGB / 255",
)


def cifar10_quick(num_classes: int, dtype: str) -> list[Any]:
    """Make Caffe's quick network: three convolutions; the first pools before its ReLU.

    Source: caffe/examples/cifar10/cifar10_quick_train_test.prototxt.
    """
    return [
        layers.conv("conv1", 32, 5, dtype, activation=None),
        composite_layers.CaffePool("pool1", dtype),
        keras.layers.ReLU(name="relu1", dtype=dtype),
        layers.conv("conv2", 32, 5, dtype),
        composite_layers.CaffePool("pool2", dtype, keras.layers.AveragePooling2D),
        layers.conv("conv3", 64, 5, dtype),
        composite_layers.CaffePool("pool3", dtype, keras.layers.AveragePooling2D),
        layers.flatten(dtype),
        layers.dense("ip1", 64, dtype, activation=None),
        layers.dense("ip2", num_classes, dtype, activation=None),
    ]


def cifar_cnn(num_classes: int, dtype: str) -> list[Any]:
    """Make the Keras example: two blocks of two convolutions, max pooling, dense 512.

    Source: keras/examples/cifar10_cnn.py.
    """
    return _cifar_cnn(num_classes, dtype, keras.layers.MaxPooling2D)


def cifar_cnn_avg(num_classes: int, dtype: str) -> list[Any]:
    """Make `cifar_cnn` with average pooling; its weights have the same names."""
    return _cifar_cnn(num_classes, dtype, keras.layers.AveragePooling2D)


def _cifar_cnn(num_classes: int, dtype: str, pooling: Any) -> list[Any]:
    def block(number: int, filters: int) -> list[Any]:
        return [
            layers.conv(f"block_{number}_0", filters, 3, dtype),
            layers.conv(f"block_{number}_1", filters, 3, dtype, padding="valid"),
            pooling(2, name=f"pool_{number}", dtype=dtype),
            layers.dropout(f"drop_{number}", 0.25, dtype),
        ]

    return [
        *block(1, 32),
        *block(2, 64),
        layers.flatten(dtype),
        layers.dense("dense_1", 512, dtype),
        layers.dropout("drop_3", 0.5, dtype),
        layers.dense("dense_2", num_classes, dtype, activation=None),
    ]
