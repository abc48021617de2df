"""Three small networks for the 32 x 32 photos of CIFAR-10."""

from typing import Any

import keras

from pipeline.batches import preprocess

# The mean colour of CIFAR-10's training photos; Caffe subtracts a mean image, which its
# weights do not carry. Source: Krizhevsky 2009 (data set).
QUICK_INPUT = preprocess.InputSpec(
    size_px=32,
    short_side_px=32,
    resize="squash",
    mean=(125.307, 122.950, 113.865),
    source="assumed: CIFAR-10's mean colour; better with Caffe's mean file as --mean",
)
# Source: keras/examples/cifar10_cnn.py.
CIFAR_CNN_INPUT = preprocess.InputSpec(
    size_px=32,
    short_side_px=32,
    resize="squash",
    scale=255.0,
    source="Keras: RGB / 255",
)


def cifar10_quick(num_classes: int, dtype: str) -> list[Any]:
    """Caffe's quick network: three convolutions, of which the first pools before ReLU.

    Caffe rounds the size of pooled images up, as SAME does; and its average is over the
    pixels inside the image alone, as TensorFlow's.

    Args:
        num_classes: of the last layer.
        dtype: Keras dtype policy of all layers.

    Returns:
        Unbuilt layers; input [batch, 32, 32, 3], mean subtracted; pool3
        [batch, 4, 4, 64]; logits [batch, num_classes].

    Source: caffe/examples/cifar10/cifar10_quick_train_test.prototxt.
    """
    conv, pool = keras.layers.Conv2D, keras.layers.AveragePooling2D
    how: dict[str, Any] = {"padding": "same", "dtype": dtype}
    return [
        conv(32, 5, name="conv1", **how),
        keras.layers.MaxPooling2D(3, 2, name="pool1", **how),
        keras.layers.ReLU(name="relu1", dtype=dtype),
        conv(32, 5, activation="relu", name="conv2", **how),
        pool(3, 2, name="pool2", **how),
        conv(64, 5, activation="relu", name="conv3", **how),
        pool(3, 2, name="pool3", **how),
        keras.layers.Flatten(name="flatten", dtype=dtype),
        keras.layers.Dense(64, name="ip1", dtype=dtype),
        keras.layers.Dense(num_classes, name="ip2", dtype=dtype),
    ]


def cifar_cnn(num_classes: int, dtype: str) -> list[Any]:
    """The Keras example: two blocks of two convolutions, max pooling, dense 512.

    Args:
        num_classes: of the last layer.
        dtype: Keras dtype policy of all layers.

    Returns:
        Unbuilt layers; input [batch, 32, 32, 3], 0..1; pool_2 [batch, 6, 6, 64];
        logits [batch, num_classes].

    Source: keras/examples/cifar10_cnn.py.
    """
    return _cifar_cnn(num_classes, dtype, keras.layers.MaxPooling2D)


def cifar_cnn_avg(num_classes: int, dtype: str) -> list[Any]:
    """`cifar_cnn` with average pooling, as in the practice of weights by name."""
    return _cifar_cnn(num_classes, dtype, keras.layers.AveragePooling2D)


def _cifar_cnn(num_classes: int, dtype: str, pooling: Any) -> list[Any]:
    def block(number: int, filters: int) -> list[Any]:
        conv = keras.layers.Conv2D
        how: dict[str, Any] = {"activation": "relu", "dtype": dtype}
        return [
            conv(filters, 3, padding="same", name=f"block_{number}_0", **how),
            conv(filters, 3, name=f"block_{number}_1", **how),
            pooling(2, name=f"pool_{number}", dtype=dtype),
            keras.layers.Dropout(0.25, name=f"drop_{number}", dtype=dtype),
        ]

    return [
        *block(1, 32),
        *block(2, 64),
        keras.layers.Flatten(name="flatten", dtype=dtype),
        keras.layers.Dense(512, activation="relu", name="dense_1", dtype=dtype),
        keras.layers.Dropout(0.5, name="drop_3", dtype=dtype),
        keras.layers.Dense(num_classes, name="dense_2", dtype=dtype),
    ]
