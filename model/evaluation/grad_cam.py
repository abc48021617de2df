"""Draw heat maps of what a network looks at (Grad-CAM).

A head may also take the channel means of earlier layers, such as conv3 and conv4 beside
pool5. It is linear in their maps, so their contributions to the logit, position by
position, are added to the map of the deepest layer. For heads on standard deviations,
Grad-CAM's averaged gradient is 0: there the map is weighted position by position
(HiResCAM, Draelos and Carin 2020), and smoothed, because few positions dominate.

Source: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization".
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.networks import fast_graphs, head
from pipeline.system.errors import DataError

# Layers that only move, thin out or rescale a map; the paper's "last convolutional
# layer" is never one of these.
_PASSIVE_LAYERS = (
    *(keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization),
    *(keras.layers.MaxPooling2D, keras.layers.AveragePooling2D),
    *(keras.layers.ZeroPadding2D, keras.layers.Cropping2D, keras.layers.CenterCrop),
    *(keras.layers.UpSampling2D, keras.layers.Resizing),
    *(keras.layers.Permute, keras.layers.Reshape),
    *(keras.layers.Dropout, keras.layers.SpatialDropout2D, keras.layers.GaussianNoise),
)
_OPACITY = 0.55  # of the hottest position
_SMOOTHING = 6  # the smoothing window is the map's side divided by this


class NoSpatialLayer(DataError):
    """A network has no layer whose output keeps spatial positions."""


def mapped_layer(model: Any) -> Any:
    """Return the deepest layer whose output is a map, such as conv5 or block5_conv3."""
    for layer in reversed(model.operations):
        # The only operation besides layers that ends a block is x + y, as in ConvNeXt.
        is_sum = type(layer).__name__ == "Add" and isinstance(layer.input, list | tuple)
        if not isinstance(layer, keras.Layer) and not is_sum:
            continue
        shape: Any = getattr(layer.output, "shape", ())
        is_map = len(shape) == 4 and None not in shape[1:] and shape[1] * shape[2] > 1
        is_passive = isinstance(layer, _PASSIVE_LAYERS)
        if is_map and not is_passive and not head.is_pooling_layer(layer.name):
            return layer
    raise NoSpatialLayer(
        f"{model.name}: no layer has a spatial output, so there is no Grad-CAM. "
        "Expected a network with convolutions."
    )


def _pooled_earlier_layers(model: Any, deepest: Any) -> list[Any]:
    """Return the head's pooling layers on maps of layers before `deepest`."""
    operations = list(model.operations)
    outputs = [o.output for o in operations[: operations.index(deepest)]]

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
        and any(output is source(layer) for output in outputs)
    ]


def grad_cam(model: Any) -> Callable[[Any, Any], np.ndarray]:
    """Return a function that maps images and labels to heat maps.

    The function takes images (float32 or uint8 [batch, size_px, size_px, 3], 0..255)
    and labels (int [batch]). Its result, float32 [batch, size_px, size_px], is 1 at
    the position that contributes most to the label's logit, 0 where nothing does.
    """
    network = HeatMaps(model)
    heat = fast_graphs.for_any_batch(
        lambda images, labels: network(tf.cast(images, tf.float32), labels)[0]
    )
    return lambda images, labels: np.asarray(heat(images, np.asarray(labels, np.int32)))


class HeatMaps:
    """A function that classifies images and explains it in one pass."""

    def __init__(self, model: Any, outputs: Sequence[Any] = ()) -> None:
        """Prepare; `outputs` are further symbolic tensors of the model to return."""
        deepest = mapped_layer(model)
        earlier = _pooled_earlier_layers(model, deepest)
        maps = [deepest.output, *(layer.input for layer in earlier)]
        means = [layer.output for layer in earlier]
        self._counts = len(maps), len(maps) + len(means)
        self._by_place = any(
            layer.name.startswith(head.DEVIATION_PREFIX) for layer in model.layers
        )
        tensors = [model.output, *maps, *means, *outputs]
        network = keras.Model(model.input, tensors)
        self._compute = fast_graphs.folded(network)
        self._size = max(tuple(map_.shape[1:3]) for map_ in maps)

    def __call__(self, images: Any, labels: Any = None) -> list[Any]:
        """Return heat maps of labels, by default the best, logits and further tensors.

        Images are float32 [batch, size_px, size_px, 3], 0..255.
        """
        num_maps, num_watched = self._counts
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits, *tensors = self._compute(images)
            maps, means = tensors[:num_maps], tensors[num_maps:num_watched]
            if labels is None:
                labels = tf.argmax(logits, axis=1)
            of_class = tf.gather(logits, labels, axis=1, batch_dims=1)
        gradient, *mean_gradients = tape.gradient(of_class, [maps[0], *means])
        if not self._by_place:
            gradient = tf.reduce_mean(gradient, axis=[1, 2], keepdims=True)
        importances = [gradient] + [
            mean_gradient[:, None, None] / (map_.shape[1] * map_.shape[2])
            for mean_gradient, map_ in zip(mean_gradients, maps[1:], strict=True)
        ]
        parts = [
            tf.reduce_sum(map_ * importance, axis=-1, keepdims=True)
            for map_, importance in zip(maps, importances, strict=True)
        ]
        # A part of this size stays as it is.
        heat = tf.add_n([tf.image.resize(part, self._size) for part in parts])
        if self._by_place:
            window = [side // _SMOOTHING | 1 for side in self._size]
            heat = tf.nn.avg_pool2d(heat, window, 1, "SAME")
        heat = tf.image.resize(tf.nn.relu(heat), tf.shape(images)[1:3])
        highest = tf.reduce_max(heat, axis=[1, 2], keepdims=True)
        heat = tf.math.divide_no_nan(heat, highest)[..., 0]
        return [heat, logits, *tensors[num_watched:]]


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return an RGB image, uint8 [height, width, 3], under its heat map, 0..1."""
    from matplotlib import colormaps  # half a second, which not every command needs

    colours = colormaps["inferno"](heat)[..., :3] * 255
    share = _OPACITY * np.sqrt(heat)[..., None]
    return np.rint(image * (1 - share) + colours * share).astype(np.uint8)
