"""EfficientNet-Lite0: a modern network, small enough for a CPU."""

from typing import Any

import keras

from model.networks import composite_layers, layers
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


def efficientnet_lite0(num_classes: int, dtype: str) -> list[Any]:
    """Make EfficientNet-B0 without squeeze-and-excitation, with ReLU6 for swish.

    Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional
    Neural Networks", table 1; the lite form as in tensorflow/tpu.
    """
    stem = _conv("stem", 32, 3, dtype, stride=2, active=True)
    steps: list[Any] = [composite_layers.Chain("stem", stem)]
    channels, number = 32, 0
    for repeats, size, first_stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            name, stride = f"block_{number}", first_stride if repeat == 0 else 1
            wide = channels * expansion
            expand = []
            if expansion > 1:
                expand = _conv(f"{name}_expand", wide, 1, dtype, active=True)
            block = [
                *expand,
                *_depthwise(f"{name}_depthwise", size, stride, dtype),
                *_conv(f"{name}_project", filters, 1, dtype),
            ]
            shortcut = stride == 1 and channels == filters
            steps.append(composite_layers.Chain(name, block, shortcut))
            channels, number = filters, number + 1
    return [
        *steps,
        composite_layers.Chain("head", _conv("head", 1280, 1, dtype, active=True)),
        keras.layers.GlobalAveragePooling2D(name="pool", dtype=dtype),
        layers.dropout("drop", 0.2, dtype),
        layers.dense("fc", num_classes, dtype, activation=None),
    ]


def _conv(
    name: str,
    filters: int,
    size: int,
    dtype: str,
    *,
    stride: int = 1,
    active: bool = False,
) -> list[Any]:
    """Make a convolution and its batch normalisation; with ReLU6 if `active`."""
    conv = keras.layers.Conv2D(
        *(filters, size, stride, "same"),
        use_bias=False,
        name=f"{name}_conv",
        dtype=dtype,
    )
    return [conv, *_normalised(name, dtype, active=active)]


def _depthwise(name: str, size: int, stride: int, dtype: str) -> list[Any]:
    """Make a depthwise convolution with batch normalisation and ReLU6."""
    conv = keras.layers.DepthwiseConv2D(
        size, stride, "same", use_bias=False, name=f"{name}_conv", dtype=dtype
    )
    return [conv, *_normalised(name, dtype, active=True)]


def _normalised(name: str, dtype: str, *, active: bool) -> list[Any]:
    norm = keras.layers.BatchNormalization(
        momentum=0.99, epsilon=1e-3, name=f"{name}_bn", dtype=dtype
    )
    relu = keras.layers.ReLU(6, name=f"{name}_relu", dtype=dtype)
    return [norm, relu] if active else [norm]
