"""Networks by name, and a network's name -> a Keras model up to any of its layers."""

import collections
import copy
import dataclasses
import difflib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from model.checkpoints import errors
from model.networks import (
    alexnet,
    caffenet,
    cifar,
    composite_layers,
    efficientnet,
    vgg16,
)
from pipeline.batches import preprocess

INPUT = "image"
NORMALISATION = "normalize"
_WEIGHTED = (
    keras.layers.BatchNormalization,
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
)
# Layers that do the same to each channel.
_CHANNELS_ALONE = (
    *(keras.layers.ZeroPadding2D, keras.layers.Cropping2D, keras.layers.Rescaling),
    *(keras.layers.Activation, keras.layers.ReLU, keras.layers.UpSampling2D),
    *(keras.layers.GaussianNoise, keras.layers.Dropout),
    *(keras.layers.MaxPooling2D, keras.layers.AveragePooling2D),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """An architecture.

    Attributes:
        name: by which it is asked for.
        layers: (num_classes, dtype policy) -> its steps from input to logits: unbuilt
            Keras layers, and blocks of them.
        input_spec: of its best-known weights.
        features: steps a new head sits on if nobody says where, from shallow to deep:
            the last that the weights reach.
        together: the steps that it sees then, if that is the last of these; () if one
            alone is as good, or nobody has measured.
        num_classes: of its best-known weights.
        is_classifier: whether its last step gives a logit for each of two classes or
            more.
        multiple_px: what the size of the input has to be a multiple of.
    """

    name: str
    layers: Callable[[int, str], Sequence[Any]]
    input_spec: preprocess.InputSpec
    features: tuple[str, ...]
    together: tuple[str, ...] = ()
    num_classes: int = 1000
    is_classifier: bool = True
    multiple_px: int = 1

    def step_names(self) -> list[str]:
        """Names of the steps, from input to logits."""
        return [step.name for step in self.layers(self.num_classes, "float32")]

    def places(self) -> list[str]:
        """Steps that a new head may sit on, from shallow to deep.

        All from the first with weights to the last of `features`, but for dropout.
        """
        steps = list(self.layers(self.num_classes, "float32"))
        first = [bool(weighted_layers(step)) for step in steps].index(True)
        last = [step.name for step in steps].index(self.features[-1])
        return [
            step.name
            for step in steps[first : last + 1]
            if not isinstance(step, keras.layers.Dropout | keras.layers.GaussianNoise)
        ]

    def weighted_layers(self, last: str = "") -> list[str]:
        """Layers that have weights, from the input up to and with step `last`."""
        names = []
        for step, layers in _weighted_layers(self):
            names += layers
            if step == last:
                break
        return names


NETWORKS = {
    network.name: network
    for network in (
        Network(
            name="alexnet",
            layers=alexnet.alexnet,
            input_spec=alexnet.ALEXNET_INPUT,
            features=("pool5", "fc6", "fc7"),
        ),
        Network(
            name="alexnet_owt",
            layers=alexnet.alexnet_owt,
            input_spec=alexnet.ALEXNET_OWT_INPUT,
            features=("pool5", "fc6", "fc7"),
            together=("conv3", "conv4", "pool5"),
        ),
        Network(
            name="bvlc_alexnet",
            layers=caffenet.bvlc_alexnet,
            input_spec=caffenet.CAFFE_INPUT,
            features=("pool5", "fc6", "fc7"),
        ),
        Network(
            name="caffenet",
            layers=caffenet.caffenet,
            input_spec=caffenet.CAFFE_INPUT,
            features=("pool5", "fc6", "fc7"),
        ),
        Network(
            name="vgg16",
            layers=vgg16.vgg16,
            input_spec=vgg16.VGG16_INPUT,
            features=(*(f"block{n}_pool" for n in range(1, 6)), "fc1", "fc2"),
        ),
        Network(
            name="cifar10_quick",
            layers=cifar.cifar10_quick,
            input_spec=cifar.QUICK_INPUT,
            features=("pool1", "pool2", "pool3", "ip1"),
            num_classes=10,
            multiple_px=8,  # Caffe's pooling pads other sizes otherwise
        ),
        Network(
            name="cifar_cnn",
            layers=cifar.cifar_cnn,
            input_spec=cifar.CIFAR_CNN_INPUT,
            features=("pool_1", "pool_2", "dense_1"),
            num_classes=10,
        ),
        Network(
            name="cifar_cnn_avg",
            layers=cifar.cifar_cnn_avg,
            input_spec=cifar.CIFAR_CNN_INPUT,
            features=("pool_1", "pool_2", "dense_1"),
            num_classes=10,
        ),
        Network(
            name="efficientnet_lite0",
            layers=efficientnet.efficientnet_lite0,
            input_spec=efficientnet.LITE0_INPUT,
            features=("pool",),
        ),
    )
}


def by_name(name: str) -> Network:
    """The network of that name.

    Raises:
        errors.MismatchedCheckpoint: there is none.
    """
    if name not in NETWORKS:
        close = difflib.get_close_matches(name, NETWORKS, n=1)
        there_are = f"did you mean {close[0]}?" if close else ", ".join(NETWORKS)
        raise errors.MismatchedCheckpoint(
            f"--arch={name}: no such network; {there_are}"
        )
    return NETWORKS[name]


def build(
    network: Network,
    spec: preprocess.InputSpec,
    *,
    last: str,
    num_classes: int = 0,
    dtype: str = "float32",
    wide: bool = False,
) -> Any:
    """Builds a network from its input up to one of its layers.

    Args:
        network: one of NETWORKS.
        spec: size and normalisation of the input; built into the model.
        last: name of the layer whose output is the model's; "image" builds none, but
            for the normalisation.
        num_classes: of the last layer, if `last` is so deep; 0 for the network's own.
        dtype: Keras dtype policy; variables are float32 in any case.
        wide: of `normalisation`.

    Returns:
        A keras.Model: [batch, size_px, size_px, 3], RGB, 0..255 -> output of `last`.

    Raises:
        ValueError: no layer has that name.
    """
    image, outputs = outputs_of(
        network, spec, last=last, num_classes=num_classes, dtype=dtype, wide=wide
    )
    return keras.Model(image, outputs[last])


def outputs_of(
    network: Network,
    spec: preprocess.InputSpec,
    *,
    last: str,
    num_classes: int = 0,
    dtype: str = "float32",
    wide: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """As `build`, but returns the input and {step: its output}, Keras tensors."""
    image = keras.Input((spec.size_px, spec.size_px, 3), name=INPUT, dtype="float32")
    steps = between(network, INPUT, last, num_classes=num_classes, dtype=dtype)
    return image, through(steps, INPUT, normalisation(spec, wide=wide)(image))


def through(steps: Sequence[Any], start: str, output: Any) -> dict[str, Any]:
    """Applies steps in a row.

    Args:
        steps: layers and blocks.
        start: the step before them.
        output: of that, a Keras tensor.

    Returns:
        {step: its output}, that before them among them.
    """
    found = {start: output}
    for step in steps:
        output = found[step.name] = step(output)
    return found


def between(
    network: Network, after: str, last: str, *, num_classes: int, dtype: str
) -> list[Any]:
    """Unbuilt steps after `after` up to and with `last`.

    Raises:
        ValueError: no layer has such a name, or they are in the wrong order.
    """
    layers = list(network.layers(num_classes or network.num_classes, dtype))
    names = [INPUT, *(layer.name for layer in layers)]
    for name in (after, last):
        if name not in names:
            raise ValueError(f"no layer {name!r}; there are {', '.join(names[1:])}")
    if names.index(after) > names.index(last):
        raise ValueError(f"{after} lies above {last}")
    return layers[names.index(after) : names.index(last)]


def normalisation(spec: preprocess.InputSpec, *, wide: bool = False) -> Any:
    """The layer x -> (x / scale - mean) / std, in float32 whatever follows.

    Args:
        spec: of the input.
        wide: states the same numbers for every pixel of a row. It makes a longer file,
            but is faster: 5 and not 13 ms for 64 images on two cores.
    """
    std = np.array(spec.std, np.float64)
    mean = np.array(spec.mean_image or spec.mean, np.float64)
    if wide:
        std = np.tile(std, (spec.size_px, 1))
    return keras.layers.Rescaling(
        scale=(1 / (spec.scale * std)).tolist(),
        offset=(-mean / std).tolist(),
        name=NORMALISATION,
        dtype="float32",
    )


@functools.lru_cache(maxsize=64)
def _weighted_layers(network: Network) -> list[tuple[str, list[str]]]:
    """(step, its layers with weights) of every step."""
    steps = network.layers(network.num_classes, "float32")
    return [(step.name, weighted_layers(step)) for step in steps]


def first_convolution(network: Network) -> str:
    """The convolution that alone sees all channels of the image; "" if there is none.

    What comes before may turn pixels, but not mix or weigh channels.
    """
    steps = list(network.layers(network.num_classes, "float32"))
    while steps:
        step = steps.pop(0)
        if isinstance(step, composite_layers.Chain):
            steps = [*step.steps, *steps]
        elif isinstance(step, keras.layers.Conv2D) and step.groups == 1:
            return str(step.name)
        elif not isinstance(step, _CHANNELS_ALONE):
            return ""
    return ""


def weighted_layers(step: Any) -> list[str]:
    """Names of a step's layers that have weights; groups of one count as one."""
    names = []
    for layer in composite_layers.layers_of([step]):
        group = composite_layers.group_of(layer.name)
        name = group[0] if group else layer.name
        if isinstance(layer, _WEIGHTED) and name not in names:
            names.append(name)
    return names


def variable_shapes(
    network: Network, spec: preprocess.InputSpec, num_classes: int = 0
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the weights, computed without making them.

    Args:
        network: whose.
        spec: of the input.
        num_classes: of the last layer; 0 for the network's own.

    Returns:
        {layer: {"kernel": shape, "bias": shape}} of the layers that have weights; a
        convolution in groups is one layer.

    Raises:
        errors.MismatchedCheckpoint: it does not take an input of that size.
    """
    classes = num_classes or network.num_classes
    if spec.size_px % network.multiple_px:
        raise errors.MismatchedCheckpoint(
            f"{network.name} does not take images of {spec.size_px} pixels; expected a "
            f"multiple of {network.multiple_px}"
        )
    try:
        return copy.deepcopy(_variable_shapes(network, spec.size_px, classes))
    except ValueError as error:
        raise errors.MismatchedCheckpoint(
            f"{network.name} does not take images of {spec.size_px} pixels: "
            f"{str(error)[:200]}"
        ) from error


@functools.lru_cache(maxsize=64)
def _variable_shapes(
    network: Network, size_px: int, num_classes: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    shape = (None, size_px, size_px, 3)
    steps = network.layers(num_classes, "float32")
    found: dict[str, dict[str, tuple[int, ...]]] = collections.defaultdict(dict)
    for layer, inputs in composite_layers.walk(steps, shape):
        group = composite_layers.group_of(layer.name)
        layer_name = group[0] if group else layer.name
        for name, size in weight_shapes(layer, inputs).items():
            before = found[layer_name].get(name)
            if before:
                size = (*size[:-1], before[-1] + size[-1])
            found[layer_name][name] = size
    return dict(found)


def output_shape(
    network: Network, spec: preprocess.InputSpec, last: str
) -> tuple[Any, ...]:
    """Shape of what a step puts out, the batch's size being None."""
    shape: tuple[Any, ...] = (None, spec.size_px, spec.size_px, 3)
    for step in between(network, INPUT, last, num_classes=0, dtype="float32"):
        shape = tuple(step.compute_output_shape(shape))
    return shape


def weight_shapes(
    layer: Any, shape: composite_layers.Shape
) -> dict[str, tuple[int, ...]]:
    """{variable: shape} of a Keras layer for an input of `shape`; {} if none."""
    kinds = keras.layers
    channels = shape[-1]
    if isinstance(layer, kinds.BatchNormalization):
        names = ["gamma"] * layer.scale + ["beta"] * layer.center
        names += ["moving_mean", "moving_variance"]
        return dict.fromkeys(names, (channels,))
    found: dict[str, tuple[int, ...]] = {}
    if isinstance(layer, kinds.Conv2D):
        kernel = (*layer.kernel_size, channels // layer.groups, layer.filters)
        found, outputs = {"kernel": kernel}, layer.filters
    elif isinstance(layer, kinds.DepthwiseConv2D):
        kernel = (*layer.kernel_size, channels, layer.depth_multiplier)
        found, outputs = {"kernel": kernel}, channels * layer.depth_multiplier
    elif isinstance(layer, kinds.SeparableConv2D):
        inner = channels * layer.depth_multiplier
        found["depthwise_kernel"] = (*layer.kernel_size, channels, inner // channels)
        found["pointwise_kernel"] = (1, 1, inner, layer.filters)
        outputs = layer.filters
    elif isinstance(layer, kinds.Dense):
        found, outputs = {"kernel": (channels, layer.units)}, layer.units
    else:
        return {}
    return found | ({"bias": (outputs,)} if layer.use_bias else {})
