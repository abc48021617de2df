"""Networks of inverted residual blocks: MobileNetV2 and forms of EfficientNet."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from model.networks import layers
from pipeline.batches.input_spec import InputSpec

_Stage = tuple[int, int, int, int, int]
# Repeats, kernel size, first stride, expansion, filters.
EFFICIENTNET_B0: tuple[_Stage, ...] = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
MOBILENET_V2: tuple[_Stage, ...] = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (3, 3, 2, 6, 32),
    (4, 3, 2, 6, 64),
    (3, 3, 1, 6, 96),
    (3, 3, 2, 6, 160),
    (1, 3, 1, 6, 320),
)


def lite_input(size_px: int) -> InputSpec:
    """Return the input of a lite form of EfficientNet.

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


def lite_stages(*, depth: float = 1.0, width: float = 1.0) -> tuple[_Stage, ...]:
    """Return the stages of a lite form; the first and the last keep their repeats."""
    first, *middle, last = EFFICIENTNET_B0
    repeats = [first[0], *(math.ceil(row[0] * depth) for row in middle), last[0]]
    # Filters are rounded to a multiple of 8.
    return tuple(
        (number, size, stride, expansion, int(filters * width + 4) // 8 * 8)
        for number, (_, size, stride, expansion, filters) in zip(
            repeats, EFFICIENTNET_B0, strict=True
        )
    )


LITE1 = lite_stages(depth=1.1)
LITE2 = lite_stages(depth=1.2, width=1.1)


def efficientnet_lite0(image: Any, num_classes: int) -> Any:
    """Connect EfficientNet-B0 without squeeze-and-excitation; swish is ReLU6.

    Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional
    Neural Networks", table 1; the lite forms as in tensorflow/tpu.
    """
    return _connect(image, num_classes, EFFICIENTNET_B0, like_torch=False)


def efficientnet_lite1(image: Any, num_classes: int) -> Any:
    """Connect the lite form with 1.1 times as many blocks."""
    return _connect(image, num_classes, LITE1, like_torch=False)


def efficientnet_lite2(image: Any, num_classes: int) -> Any:
    """Connect the lite form with 1.2 times as many blocks, 1.1 times as wide."""
    return _connect(image, num_classes, LITE2, like_torch=False, dropped=0.3)


def efficientnet_b0_torch(image: Any, num_classes: int) -> Any:
    """Connect EfficientNet-B0 as torchvision and timm do."""
    return _connect(image, num_classes, EFFICIENTNET_B0, activation="silu")


def mobilenet_v2_torch(image: Any, num_classes: int) -> Any:
    """Connect MobileNetV2 as torchvision and timm do.

    Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear
    Bottlenecks", table 2.
    """
    return _connect(image, num_classes, MOBILENET_V2)


def _connect(
    x: Any,
    num_classes: int,
    stages: Sequence[_Stage],
    *,
    activation: str = "relu6",
    like_torch: bool = True,
    dropped: float = 0.2,
) -> Any:
    """Connect stem, stages of blocks and head; with silu, blocks squeeze and excite."""
    convolve = functools.partial(layers.conv_norm, like_torch=like_torch)
    activate = functools.partial(_activate, activation)
    x = activate(convolve(x, 32, 3, 2, name="stem"), name="stem")
    number = 0
    for repeats, size, first_stride, expansion, filters in stages:
        for repeat in range(repeats):
            name, inputs, channels = f"block_{number}", x, x.shape[-1]
            stride = 1 if repeat else first_stride
            if expansion > 1:
                x = convolve(x, channels * expansion, 1, name=f"{name}_expand")
                x = activate(x, name=f"{name}_expand_relu")
            x = convolve(x, None, size, stride, name=f"{name}_depthwise")
            x = activate(x, name=f"{name}_depthwise_relu")
            if activation == "silu":
                x = _squeeze_and_excite(x, channels // 4, activate, name=name)
            x = convolve(x, filters, 1, name=f"{name}_project")
            if stride == 1 and channels == filters:
                x = keras.layers.Add(name=name)([inputs, x])
            else:
                x = keras.layers.Identity(name=name)(x)
            number += 1
    x = activate(convolve(x, 1280, 1, name="head"), name="head")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.dropout(dropped, name="drop")(x)
    return layers.dense(num_classes, activation=None, name="fc")(x)


def _activate(activation: str, x: Any, *, name: str) -> Any:
    if activation == "relu6":
        return keras.layers.ReLU(6, name=name)(x)
    return keras.layers.Activation(activation, name=name)(x)


def _squeeze_and_excite(
    x: Any, squeezed: int, activate: Callable[..., Any], *, name: str
) -> Any:
    """Multiply each channel by a factor computed from the means of all channels."""
    kinds = keras.layers
    means = kinds.GlobalAveragePooling2D(keepdims=True, name=f"{name}_means")(x)
    factors = kinds.Conv2D(squeezed, 1, name=f"{name}_squeeze")(means)
    factors = activate(factors, name=f"{name}_squeeze_relu")
    excite = kinds.Conv2D(x.shape[-1], 1, activation="sigmoid", name=f"{name}_excite")
    return kinds.Multiply(name=f"{name}_excited")([x, excite(factors)])
