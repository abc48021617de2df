"""Make what several networks consist of: usual layers, groups, Caffe's own layers.

Everything here ends in a Keras layer of the given name and consists of built-in layers
and keras.ops, so that a saved model loads in plain Keras.
"""

import functools
import re
from typing import Any

import keras
import numpy as np

conv = functools.partial(keras.layers.Conv2D, padding="same", activation="relu")
max_pool = keras.layers.MaxPooling2D
dense = functools.partial(keras.layers.Dense, activation="relu")
dropout = keras.layers.Dropout

# End of the names of variables that hold a random state instead of a weight.
RANDOM_STATE = "seed_generator_state"
_UNNAMED = re.compile(r"\bvariable_\d+$")  # Keras counts those of all layers
_RECTIFIERS = (keras.layers.ReLU, keras.layers.Softmax)
_NON_NEGATIVE = (
    *(keras.activations.relu, keras.activations.relu6, keras.activations.sigmoid),
    *(keras.activations.hard_sigmoid, keras.activations.softplus),
)
_KEEPING_SIGN = (
    *(keras.layers.MaxPooling2D, keras.layers.AveragePooling2D, keras.layers.Identity),
    *(keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D),
    *(keras.layers.Dropout, keras.layers.Flatten, keras.layers.Reshape),
    *(keras.layers.ZeroPadding2D, keras.layers.Cropping2D, keras.layers.Concatenate),
    *(keras.layers.Add, keras.layers.UpSampling2D, keras.layers.Activation),
)
# Name of the layer that computes one group of a grouped convolution.
_GROUP = re.compile(r"(.+)_group(\d+)")
# With the epsilon of PyTorch's vision models.
layer_norm = functools.partial(keras.layers.LayerNormalization, epsilon=1e-6)


def conv_norm(
    x: Any,
    filters: int | None,
    size: int,
    stride: int = 1,
    *,
    name: str,
    like_torch: bool = True,
) -> Any:
    """Convolve, then apply batch normalisation; the names of both begin with `name`.

    Without `filters`, each channel is convolved by itself. `like_torch` pads and adds
    an epsilon as PyTorch does: size // 2 zeros at each edge, and 1e-5; otherwise as
    TensorFlow: where the stride is 2, at most as many zeros before as after, and 1e-3.
    """
    padding = "same"
    if like_torch and stride > 1 and size > 1:
        padding = "valid"
        x = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    options = {"padding": padding, "use_bias": False, "name": f"{name}_conv"}
    if filters is None:
        x = keras.layers.DepthwiseConv2D(size, stride, **options)(x)
    else:
        x = keras.layers.Conv2D(filters, size, stride, **options)(x)
    momentum, epsilon = (0.9, 1e-5) if like_torch else (0.99, 1e-3)
    return keras.layers.BatchNormalization(
        momentum=momentum, epsilon=epsilon, name=f"{name}_bn"
    )(x)


def look_up(x: Any, num_rows: int, *, name: str, initializer: Any = "zeros") -> Any:
    """Return a table of weights, the same for each image: an Embedding's rows in order.

    It is [batch, num_rows, channels] where `x` is [batch, tokens, channels]; [batch, 1,
    1, channels] for a feature map, which has one row.
    """
    places = x[:, :num_rows, 0] if len(x.shape) == 3 else x[:, :1, :1, 0]
    numbers = keras.ops.zeros_like(places, dtype="int32")
    if num_rows > 1:
        # Not a sum, which TensorFlow Lite's converter takes for a bias, of integers.
        numbers = keras.ops.maximum(numbers, np.arange(num_rows, dtype=np.int32))
    table = keras.layers.Embedding(num_rows, x.shape[-1], initializer, name=name)
    return table(numbers)


def layer_scale(x: Any, *, initial: float, name: str) -> Any:
    """Multiply each channel by a weight of its own (Touvron et al. 2021, CaiT)."""
    initializer = keras.initializers.Constant(initial)
    factors = look_up(x, 1, name=name, initializer=initializer)
    return keras.layers.Multiply(name=f"{name}d")([x, factors])


def grouped_conv(x: Any, filters: int, size: int, *, groups: int, name: str) -> Any:
    """Convolve in groups: each sees its part of the input and has its own filters.

    Each group is a layer of its own: on CPUs, Keras' `groups` took three times as long
    forwards and seven times backwards. Joined along the last axis, their kernels are
    the single one that other tools store, [height, width, in / groups, out].
    """
    parts = keras.ops.split(x, groups, axis=-1)
    outputs = [
        conv(filters // groups, size, name=f"{name}_group{number}")(part)
        for number, part in enumerate(parts, start=1)
    ]
    return keras.layers.Concatenate(name=name)(outputs)


def group_of(layer_name: str) -> tuple[str, int] | None:
    """Return (name of the grouped convolution, index of the group from 0), or None."""
    match = _GROUP.fullmatch(layer_name)
    return (match[1], int(match[2]) - 1) if match else None


def whole_name(layer_name: str) -> str:
    """Return a layer's name; for a group, that of the grouped convolution."""
    group = group_of(layer_name)
    return group[0] if group else layer_name


def path_of(variable: Any) -> str:
    """Return a Keras variable's path, which is the same whenever a network is built."""
    return _UNNAMED.sub("variable", variable.path)


def weights(layer: Any) -> dict[str, Any]:
    """Return {"kernel" or "query/kernel" ...: variable}, without random states."""
    named = {path_of(v).partition("/")[2]: v for v in layer.weights}
    return {n: v for n, v in named.items() if not n.endswith(RANDOM_STATE)}


def is_non_negative(tensor: Any) -> bool:
    """Return whether a Keras tensor has no negative numbers, whatever the weights.

    False if the layers that compute it do not decide that.
    """
    operation = tensor._keras_history.operation
    if isinstance(operation, _RECTIFIERS):
        return not getattr(operation, "negative_slope", 0)
    activation = getattr(operation, "activation", None)
    if activation in _NON_NEGATIVE:
        return True
    keeps_sign = isinstance(operation, _KEEPING_SIGN)
    if not keeps_sign or activation not in (None, keras.activations.linear):
        return False
    return all(map(is_non_negative, keras.tree.flatten(operation.input)))


def caffe_pool(x: Any, *, name: str, kind: Any = keras.layers.MaxPooling2D) -> Any:
    """Pool over 3 x 3 pixels in steps of 2, and round the output's size up.

    If the side is even, the last window reaches out of the image and is cut there.
    Keras' padding "same" does so too, but pads odd sides as well.

    Source: caffe/src/caffe/layers/pooling_layer.cpp.
    """
    return kind(3, 2, "valid" if x.shape[1] % 2 else "same", name=name)(x)


def local_response_norm(
    x: Any, *, name: str, size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> Any:
    """Divide x by (1 + alpha / size * sum of x^2 over `size` nearby channels)^beta.

    Source: Krizhevsky et al. 2012, section 3.3; alpha and size as in Caffe
    (tf.nn.local_response_normalization takes alpha / size and (size - 1) / 2). The sum
    is a product with a band matrix: it is as fast as TensorFlow's own operation and
    puts no code of Graft into the saved model. It is computed in float32.
    """
    channels = np.arange(x.shape[-1])
    distance = np.abs(channels[:, None] - channels)
    band = (distance <= size // 2).astype(np.float32)
    wide = keras.ops.cast(x, "float32")
    total = keras.ops.matmul(keras.ops.square(wide), band)
    scale = keras.ops.power(1 + alpha / size * total, -beta)
    return keras.layers.Identity(name=name)(wide * scale)  # casts to its own precision
