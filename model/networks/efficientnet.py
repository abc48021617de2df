"""EfficientNet-Lite0 to Lite2: modern networks, small enough for a CPU."""

import math
from typing import Any

import keras

from model.networks.layers import conv, dense, dropout
from pipeline.batches.input_spec import InputSpec

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


def lite_input(size_px: int) -> InputSpec:
    """Return the input of a lite form.

    Source: tensorflow/tpu/models/official/efficientnet: lite/efficientnet_lite_builder
    (mean 127, std 128) and preprocessing (a central window of size / (size + 32)).
    """
    return InputSpec(
        size_px=size_px,
        short_side_px=size_px + 32,
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        source="EfficientNet-Lite: mean 127, std 128",
    )


def efficientnet_lite0(image: Any, num_classes: int) -> Any:
    """Connect EfficientNet-B0 without squeeze-and-excitation, with ReLU6 for swish.

    Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional
    Neural Networks", table 1; the lite forms as in tensorflow/tpu.
    """
    return _lite(image, num_classes)


def efficientnet_lite1(image: Any, num_classes: int) -> Any:
    """Connect the lite form with 1.1 times as many blocks."""
    return _lite(image, num_classes, depth=1.1)


def efficientnet_lite2(image: Any, num_classes: int) -> Any:
    """Connect the lite form with 1.2 times as many blocks, 1.1 times as wide."""
    return _lite(image, num_classes, depth=1.2, width=1.1, dropped=0.3)


def _lite(
    x: Any,
    num_classes: int,
    *,
    depth: float = 1.0,
    width: float = 1.0,
    dropped: float = 0.2,
) -> Any:
    """Connect a lite form: stem, head, first and last stage keep their size."""
    x = _relu6(_conv(x, 32, 3, 2, name="stem"), name="stem")
    number = 0
    for stage in _STAGES:
        repeats, size, first_stride, expansion, filters = stage
        if stage not in (_STAGES[0], _STAGES[-1]):
            repeats = math.ceil(repeats * depth)
        for repeat in range(repeats):
            x = _block(
                x,
                size,
                1 if repeat else first_stride,
                expansion,
                int(filters * width + 4) // 8 * 8,  # the nearest multiple of 8
                name=f"block_{number}",
            )
            number += 1
    x = _relu6(_conv(x, 1280, 1, name="head"), name="head")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = dropout(dropped, name="drop")(x)
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
