"""Where a network looks: Grad-CAM.

A head that also sees the means of layers further down, as of conv3 and conv4 beside
pool5, is linear in their maps: what these add to the logit, place by place, is added to
the map of the deepest layer. So it is in maps times themselves, normalised, whose means
are deviations. Of these, Grad-CAM's averaged gradient is 0: where a head sees them, the
deepest map is weighted place by place (HiResCAM, Draelos and Carin 2020, which is the
same for a head on means), and as few places answer most strongly, each is shown as the
mean of those around it.

Source: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization".
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.loop import traced_function
from model.networks import head
from pipeline.system.errors import DataError

# What the paper's "last convolutional layer" is not, though its output is a map: layers
# that move, thin out or rescale what is there already.
_NOT_LOOKED_AT = (
    *(keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization),
    *(keras.layers.MaxPooling2D, keras.layers.AveragePooling2D),
    *(keras.layers.ZeroPadding2D, keras.layers.Cropping2D, keras.layers.CenterCrop),
    *(keras.layers.UpSampling2D, keras.layers.Resizing),
    *(keras.layers.Permute, keras.layers.Reshape),
    *(keras.layers.Dropout, keras.layers.SpatialDropout2D, keras.layers.GaussianNoise),
)
_OPACITY = 0.55  # of the hottest place
_AROUND = 6  # a place's surroundings are this part of the map's side


class NoSpatialLayer(DataError):
    """A network without a layer that keeps places apart."""


def mapped_layer(model: Any) -> Any:
    """The deepest layer whose output still has places: conv5, block5_conv3.

    Args:
        model: keras.Model: image [batch, height, width, 3] -> logits.

    Raises:
        NoSpatialLayer: there is none.
    """
    for layer in reversed(model.layers):
        shape: Any = getattr(layer.output, "shape", ())
        if head.is_pooling_layer(layer.name):
            continue
        is_map = len(shape) == 4 and None not in shape[1:] and shape[1] * shape[2] > 1
        if is_map and not isinstance(layer, _NOT_LOOKED_AT):
            return layer
    raise NoSpatialLayer(
        f"{model.name}: no layer keeps places of the photo apart, so there is no "
        "Grad-CAM; expected a network with convolutions"
    )


def _further_down(model: Any, deepest: Any) -> list[Any]:
    """Layers that take, for a head, what channels below `deepest` give on the whole."""
    operations = list(model.operations)
    below = [one.output for one in operations[: operations.index(deepest)]]

    def source(layer: Any) -> Any:
        if layer.name.startswith(head.MEAN_PREFIX):
            return layer.input
        name = layer.name.removeprefix(head.DEVIATION_PREFIX)
        return model.get_layer(head.SPREAD_PREFIX + name).input[0]

    return [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.GlobalAveragePooling2D)
        and head.is_pooling_layer(layer.name)
        and any(output is source(layer) for output in below)
    ]


def grad_cam(model: Any) -> Callable[[Any, Any], np.ndarray]:
    """A function that says which places of images speak for a class.

    Args:
        model: keras.Model: image -> logits [batch, num_classes].

    Returns:
        A function of images, float32 or uint8 [batch, size_px, size_px, 3], 0..255, as
        the network takes them, and labels, int [batch], of the classes in question. It
        gives float32 [batch, size_px, size_px]: 1 at the place that speaks most for the
        class, 0 where nothing does; all 0 if nothing in the image does.

    Raises:
        NoSpatialLayer: see `mapped_layer`.
    """
    network = _Explained(model)
    heat = traced_function.for_any_batch(
        lambda images, labels: network(images, labels)[0]
    )

    def explained(images: Any, labels: Any) -> np.ndarray:
        pixels = tf.cast(tf.convert_to_tensor(images), tf.float32)
        return np.asarray(heat(pixels, np.asarray(labels, np.int32)))

    return explained


def with_answer(model: Any, more: Sequence[Any] = ()) -> Callable[[Any], list[Any]]:
    """A function that classifies images and says what speaks for it, in one go.

    Args:
        model: of `grad_cam`.
        more: symbolic tensors of the model.

    Returns:
        A function of images, float32 [batch, size_px, size_px, 3], 0..255. It gives the
        heat of `grad_cam` for each image's likeliest class, the logits, and what `more`
        are then.

    Raises:
        NoSpatialLayer: see `mapped_layer`.
    """
    return traced_function.for_any_batch(_Explained(model, more))


class _Explained:
    """Tensors of images -> heat, logits and what more is asked for."""

    def __init__(self, model: Any, more: Sequence[Any] = ()) -> None:
        deepest = mapped_layer(model)
        beside = _further_down(model, deepest)
        maps = [deepest.output, *(layer.input for layer in beside)]
        means = [layer.output for layer in beside]
        self._counts = len(maps), len(maps) + len(means)
        self._by_place = any(
            one.name.startswith(head.DEVIATION_PREFIX) for one in model.layers
        )
        self._network = keras.Model(model.input, [model.output, *maps, *means, *more])
        self._size = max(tuple(one.shape[1:3]) for one in maps)

    def __call__(self, images: Any, labels: Any = None) -> list[Any]:
        num_maps, num_watched = self._counts
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits, *found = self._network(images, training=False)
            maps, means = found[:num_maps], found[num_maps:num_watched]
            if labels is None:
                labels = tf.argmax(logits, axis=1)
            of_class = tf.gather(logits, labels, axis=1, batch_dims=1)
        gradient, *of_means = tape.gradient(of_class, [maps[0], *means])
        if not self._by_place:
            gradient = tf.reduce_mean(gradient, axis=[1, 2], keepdims=True)
        importances = [gradient] + [
            one[:, None, None]
            / tf.cast(tf.reduce_prod(tf.shape(below)[1:3]), one.dtype)
            for one, below in zip(of_means, maps[1:], strict=True)
        ]
        parts = [
            tf.reduce_sum(one * importance, axis=-1, keepdims=True)
            for one, importance in zip(maps, importances, strict=True)
        ]
        heat = tf.add_n([_resized(part, self._size) for part in parts])
        if self._by_place:
            around = [side // _AROUND | 1 for side in self._size]
            heat = tf.nn.avg_pool2d(heat, around, 1, "SAME")
        heat = tf.image.resize(tf.nn.relu(heat), tf.shape(images)[1:3])
        highest = tf.reduce_max(heat, axis=[1, 2], keepdims=True)
        heat = tf.math.divide_no_nan(heat, highest)[..., 0]
        return [heat, logits, *found[num_watched:]]


def _resized(part: Any, size: tuple[int, int]) -> Any:
    if tuple(part.shape[1:3]) == size:
        return part
    return tf.image.resize(part, size)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image with its heat laid over it; where there is none, it is as it was.

    Args:
        image: uint8 [height, width, 3], RGB.
        heat: float [height, width], 0..1.

    Returns:
        uint8 [height, width, 3], RGB.
    """
    from matplotlib import colormaps  # half a second, which not every command needs

    colours = colormaps["inferno"](heat)[..., :3] * 255
    share = _OPACITY * np.sqrt(heat)[..., None]
    return np.rint(image * (1 - share) + colours * share).astype(np.uint8)
