"""Recognise the preprocessing of a network by its layers or its first BatchNorm."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from model.networks import alexnet, applications, architecture, vgg16
from model.networks.architecture import Network
from model.weights import model_variables
from pipeline.batches.input_spec import InputSpec

_FROM_MINUS_1 = InputSpec(scale=127.5, mean=(1.0,) * 3, source="")
# Flags -> normalisation, and whether blue comes first: the five usual preprocessings.
USUAL: Mapping[str, tuple[InputSpec, bool]] = {
    "--scale=255 --mean=0 --std=1": (InputSpec(scale=255.0, source=""), False),
    "--scale=127.5 --mean=1 --std=1": (_FROM_MINUS_1, False),
    "--scale=1 --mean=0 --std=1": (InputSpec(source=""), False),
    "--scale=255 --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225": (
        *(alexnet.ALEXNET_OWT_INPUT, False),
    ),
    "--scale=1 --mean=123.68,116.779,103.939 --std=1 --channel_order=bgr": (
        *(vgg16.VGG16_INPUT, True),
    ),
}
# The best of the five is taken if its distance is at most _LARGEST, and that of the
# next is at least _TIMES as large: benchmarks/preprocessing.py measures both.
_LARGEST, _TIMES = 0.8, 2.0
_NUM_PHOTOS = 60
_BATCH = 4  # photos at once, as first feature maps may be large
_LEAST_SHARE = 1e-3  # of the median variance, added to each


def by_layer_names(network: Network) -> tuple[InputSpec, bool]:
    """Return the input of a network, recognised by layer names if it is assumed.

    The second value says whether the network expects blue, green, red.
    """
    spec = network.input_spec
    family = applications.family_of(network.layer_shapes()) if spec.is_assumed else None
    if family is None or (family.bgr and not network.first_convolution()):
        return spec, False
    source = f"layer names of {family.name} in keras.applications"
    *_, hidden, last = network.variable_shapes(spec).values()
    if hidden.get("bias") == (100,) and [*last] == ["kernel"]:
        # The code that comes with them takes the central square of a photo.
        spec = dataclasses.replace(spec, resize="crop", short_side_px=spec.size_px)
        source += ", in the form of Teachable Machine's networks"
    return _recognised(spec, family.input_spec, source), family.bgr


def _recognised(spec: InputSpec, usual: InputSpec, source: str) -> InputSpec:
    """Return a spec with the normalisation of another one."""
    numbers = {name: getattr(usual, name) for name in ("scale", "mean", "std")}
    return dataclasses.replace(spec, **numbers, source=f"recognised by {source}")


def by_first_batchnorm(
    network: Network,
    spec: InputSpec,
    values: Mapping[str, Mapping[str, np.ndarray]],
    read_photos: Callable[[InputSpec, int], np.ndarray],
) -> tuple[InputSpec, bool]:
    """Recognise the preprocessing with which photos give a BatchNorm's statistics.

    The normalisation of `spec` is assumed; `values` are {layer: {variable: array}}, in
    the file's colour order. `read_photos(spec, number)` returns at most `number`
    photos, uint8 [num_photos, size_px, size_px, 3], RGB, 0..255. It is called only if
    the network begins with layers that lead to a trained BatchNorm.

    The second value says whether the network expects blue, green, red.
    """
    shapes = network.variable_shapes(spec)
    layer = next((n for n, arrays in shapes.items() if "moving_mean" in arrays), "")
    mean, variance = (
        values.get(layer, {}).get(f"moving_{name}", np.zeros(0))
        for name in ("mean", "variance")
    )
    if layer not in network.positions() or not np.any(mean) or not len(variance):
        return spec, False  # means are 0 before any training
    part = network.build_part(spec, (layer,), after=architecture.INPUT)
    model_variables.assign(part, values)
    below = keras.Model(part.input, part.get_layer(layer).input)
    is_of_channels = below.output.shape[-1:] == mean.shape
    images = read_photos(spec, _NUM_PHOTOS) if is_of_channels else np.zeros(0)
    if not len(images):
        return spec, False
    distances = {
        flags: _distance(below, normalised(images, flags), mean, variance)
        for flags, (_, is_bgr) in USUAL.items()
        if network.first_convolution() or not is_bgr
    }
    best, second = sorted(distances, key=distances.__getitem__)[:2]
    figures = (
        f"the first BatchNorm, {layer}, on {len(images)} photos: distance "
        f"{distances[best]:.2f} for {best}, {distances[second]:.2f} for {second}"
    )
    if distances[best] > min(_LARGEST, distances[second] / _TIMES):
        source = f"{spec.source}, and not clear from {figures}"
        return dataclasses.replace(spec, source=source), False
    usual, is_bgr = USUAL[best]
    return _recognised(spec, usual, figures), is_bgr


def normalised(images: np.ndarray, flags: str) -> np.ndarray:
    """Return photos with a usual preprocessing, in the colour order that it asks for.

    `images` is uint8 [num_photos, size_px, size_px, 3], RGB; the result is float32.
    """
    spec, is_bgr = USUAL[flags]
    mean, std = np.array([spec.mean, spec.std], np.float32)
    pixels = (images / np.float32(spec.scale) - mean) / std
    return pixels[..., ::-1] if is_bgr else pixels


def _distance(
    below: Any, pixels: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> float:
    """Return how far the outputs of the layers below are from a BatchNorm's moments.

    The difference of the means, in standard deviations, plus the absolute logarithm of
    the ratio of the variances; averaged over the channels.
    """
    sums, count = np.zeros((2, len(mean))), 0
    for start in range(0, len(pixels), _BATCH):
        outputs = np.asarray(below(pixels[start : start + _BATCH], training=False))
        outputs = outputs.astype(np.float64).reshape(-1, len(mean))
        sums += outputs.sum(axis=0), (outputs**2).sum(axis=0)
        count += len(outputs)
    found_mean, square = sums / count
    found_variance = square - found_mean**2
    least = _LEAST_SHARE * np.median(variance)  # for channels that are always 0
    deviations = np.abs(found_mean - mean) / np.sqrt(variance + least)
    ratios = np.abs(np.log((found_variance + least) / (variance + least)))
    return float(np.mean(deviations + ratios))
