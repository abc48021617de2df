"""EfficientNet-Lite0: a modern network, small enough for a CPU."""

from typing import Any

import keras

from model.networks.layers import conv, dense, dropout
from pipeline.batches.input_spec import InputSpec

# Source: tensorflow/tpu/models/official/efficientnet/lite (mean 127, std 128, 224).
LITE0_INPUT = InputSpec(
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    source="EfficientNet-Lite: mean 127, std 128",
)
# Of EfficientNet-B0: repeats, kernel size, first stride, expansion, filters.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
NUM_BLOCKS = sum(stage[0] for stage in _STAGES)


def efficientnet_lite0(image: Any, num_classes: int) -> Any:
    """Connect EfficientNet-B0 without squeeze-and-excitation, with ReLU6 for swish.

    Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional
    Neural Networks", table 1; the lite form as in tensorflow/tpu.
    """
    x = _relu6(_conv(image, 32, 3, 2, name="stem"), name="stem")
    number = 0
    for repeats, size, first_stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            stride = 1 if repeat else first_stride
            x = _block(x, size, stride, expansion, filters, name=f"block_{number}")
            number += 1
    x = _relu6(_conv(x, 1280, 1, name="head"), name="head")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = dropout(0.2, name="drop")(x)
    return dense(num_classes, activation=None, name="fc")(x)


def _block(
    x: Any, size: int, stride: int, expansion: int, filters: int, *, name: str
) -> Any:
    """Widen the channels, convolve each by itself, narrow them; add the input."""
    inputs, channels = x, x.shape[-1]
    if expansion > 1:
        x = _conv(x, channels * expansion, 1, name=f"{name}_expand")
        x = _relu6(x, name=f"{name}_expand_relu")
    depthwise = keras.layers.DepthwiseConv2D(
        size, stride, "same", use_bias=False, name=f"{name}_depthwise_conv"
    )
    x = _norm(depthwise(x), name=f"{name}_depthwise")
    x = _relu6(x, name=f"{name}_depthwise_relu")
    x = _conv(x, filters, 1, name=f"{name}_project")
    if stride == 1 and channels == filters:
        return keras.layers.Add(name=name)([inputs, x])
    return keras.layers.Identity(name=name)(x)


def _conv(x: Any, filters: int, size: int, stride: int = 1, *, name: str) -> Any:
    """Convolve and normalise."""
    x = conv(
        *(filters, size, stride),
        activation=None,
        use_bias=False,
        name=f"{name}_conv",
    )(x)
    return _norm(x, name=name)


def _norm(x: Any, *, name: str) -> Any:
    return keras.layers.BatchNormalization(
        momentum=0.99, epsilon=1e-3, name=f"{name}_bn"
    )(x)


def _relu6(x: Any, *, name: str) -> Any:
    return keras.layers.ReLU(6, name=name)(x)
