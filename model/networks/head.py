"""Make the new head of a network, and what it sees of the layers that it sits on.

A head sits on one layer and sees all of its numbers, or pools one or several feature
maps: to the mean of each channel, or to its mean and standard deviation.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from model.checkpoints import errors
from model.networks.architecture import INPUT, Network
from pipeline.batches.input_spec import InputSpec

# The new final layer. No known network uses this name, so no checkpoint's classifier is
# mistaken for it.
FINAL_LAYER = "logits"
HIDDEN_LAYER = "head_hidden"  # optional layer below the final one
# Of a head that pools: the means of one layer, or the concatenation of all pooled
# numbers. Names of the layers before it end in that of the layer they pool.
POOL_LAYER = "head_pool"
MEAN_PREFIX = POOL_LAYER + "_"
DEVIATION_PREFIX = "head_deviation_"  # the mean of the next one's output
SPREAD_PREFIX = "head_spread_"  # a map times itself, normalised
_NORMAL_PREFIX = "head_normal_"  # a map whose channels have mean 0 and deviation 1
_LAYER_PREFIX = "head_numbers_"  # means and deviations of a layer
SCALED_LAYER = "head_scaled"  # scales a photo's features to length 1
_POOLING_PREFIXES = (
    *(MEAN_PREFIX, DEVIATION_PREFIX, SPREAD_PREFIX, _NORMAL_PREFIX),
    *(_LAYER_PREFIX, SCALED_LAYER + "_"),
)
_EPSILON = 1e-6  # added to a channel's variance
SCALINGS = ("none", "length", "length_per_layer", "roots")
_ROOT_OFFSET = 1e-3  # added under the root, to limit its slope at 0 to 16
FLATTEN_LAYER = "head_flatten"  # first layer of a head that sees all numbers
POOLINGS = ("auto", "none", "average", "statistics")
TEMPERATURE_LAYER = "temperature"  # of exported models: divides the logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadPosition:
    """Where the head of a run sits, and what it consists of."""

    features: tuple[str, ...]  # from shallow to deep
    pooling: str = "none"
    scaling: str = "none"
    hidden: int = 0  # units of a layer before the final one
    temperature: float = 1.0  # divides the logits

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "HeadPosition | None":
        """Return the position that config.json or an exported file states, or None."""
        stated = {n: values[n] for n in ("pooling", "scaling") if n in values}
        try:
            features = tuple(values["features"].split(","))
            temperature = float(values.get("temperature", 1))
            position = cls(features=features, temperature=temperature, **stated)
            is_known = position.pooling in POOLINGS and position.scaling in SCALINGS
            return position if is_known and 1e-6 < temperature < 1e6 else None
        except (LookupError, AttributeError, ValueError, TypeError):
            return None


def is_pooling_layer(name: str) -> bool:
    """Return whether a layer is one of those that lead to POOL_LAYER."""
    return name.startswith(_POOLING_PREFIXES)


def choose_pooling(
    network: Network,
    spec: InputSpec,
    features: Sequence[str],
    requested: str,
    *,
    is_solved: bool = False,
) -> str:
    """Choose how a new head pools its layers: "none", "average" or "statistics".

    "none" keeps all numbers; "average" is the mean of each channel; "statistics" is its
    mean and standard deviation, which tells how unevenly it responds over the photo.

    In five folds of 1,127 flowers, solved heads on means and deviations of AlexNet's
    conv3, conv4 and pool5 were right for 87.5 %, on means alone for 86.5 %.

    `requested` is one of POOLINGS; for feature maps, "auto" is "statistics" if the head
    is solved and "average" if it is trained by steps, otherwise "none".
    """
    is_several, names = len(features) > 1, ",".join(features)
    for name in features:
        shape = network.output_shape(spec, name)
        if len(shape) != 4 and (is_several or requested in ("average", "statistics")):
            places = network.head_positions()
            maps = [n for n in places if len(network.output_shape(spec, n)) == 4]
            raise errors.MismatchedCheckpoint(
                f"--features={names} --pooling={requested}: {name} of {network.name} "
                "is not a feature map, so it cannot be pooled. Expected [height, "
                f"width, channels], found {list(shape[1:])}. Use it alone, with "
                "--pooling=none, or feature maps, such as "
                f"--features={['', *maps][-1]}."
            )
    if is_several and requested == "none":
        raise errors.MismatchedCheckpoint(
            f"--pooling=none: a head on several layers ({names}) has to pool them. Use "
            "--pooling=average or --pooling=statistics, or one layer in --features."
        )
    if requested == "auto":
        is_map = len(shape) == 4 and shape[1] * shape[2] > 1
        if not is_several and not is_map:
            return "none"
        return "statistics" if is_solved else "average"
    return requested


def choose_scaling(network: Network, features: Sequence[str], pooling: str) -> str:
    """Choose how the features of a solved head are scaled, one of SCALINGS.

    "length" makes the numbers of each photo a vector of length 1, so that contrast and
    exposure matter less; "length_per_layer" does so for each layer, so that no layer
    outweighs another. "roots" first takes square roots, which brings a channel's few
    large numbers closer to its many small ones.

    In three times five folds of 1,127 flowers, logistic regression on statistics of
    EfficientNet-Lite0's four layers, each at length 1, had a log loss of 0.200, with
    roots 0.228; on AlexNet's three layers 0.360 and 0.366. On 315 bees it had 1.66 and
    1.73; 1.80 and 1.90. On the means of Lite0's last layer, roots were better on the
    bees: 1.74, at length 1 alone 1.84; on the flowers 0.227 and 0.224.

    Source of the roots: Hellinger kernel, Arandjelovic and Zisserman 2012, section 4.
    """
    if pooling == "statistics":
        return "length" if len(features) == 1 else "length_per_layer"
    return "roots" if all(map(network.is_non_negative, features)) else "length"


def pooled_name(features: Sequence[str], pooling: str, scaling: str) -> str:
    """Return the feature cache's name for the numbers that a pooling head sees."""
    kind = " and deviations" * (pooling == "statistics")
    kind += ", each at length 1," * (scaling == "length_per_layer")
    return POOL_LAYER + kind + f" of {', '.join(features)}" * (len(features) > 1)


def describe(features: Sequence[str], pooling: str, scaling: str = "none") -> str:
    """Return what a head sees, in words."""
    kinds = {"average": "the means of ", "statistics": "means and deviations of "}
    text = kinds.get(pooling, "") + ", ".join(features)
    if scaling == "none":
        return text
    each = " each" * (scaling == "length_per_layer")
    roots = "square roots of " * (scaling == "roots")
    return f"{roots}{text},{each} scaled to length 1"


def num_features(
    network: Network, spec: InputSpec, features: Sequence[str], pooling: str
) -> int:
    """Return how many numbers a head with this pooling sees of a photo."""
    shapes = [network.output_shape(spec, name)[1:] for name in features]
    if pooling == "none":
        return math.prod(shapes[0])
    return numbers_per_channel(pooling) * sum(shape[-1] for shape in shapes)


def numbers_per_channel(pooling: str) -> int:
    """Return how many numbers a head that pools sees of a channel."""
    return 2 if pooling == "statistics" else 1


def pool_features(
    outputs: Mapping[str, Any],
    features: Sequence[str],
    pooling: str,
    scaling: str = "none",
) -> Any:
    """Build the layers that lead to the numbers a head sees, float32 [batch, numbers].

    `outputs` is {position: Keras tensor}, `pooling` a result of `choose_pooling`. Of
    the scalings, only "length_per_layer" is built in here.
    """
    kinds = keras.layers
    if pooling == "none":
        return kinds.Flatten(name=FLATTEN_LAYER, dtype="float32")(outputs[features[0]])

    def mean(name: str, output: Any) -> Any:
        return kinds.GlobalAveragePooling2D(name=name, dtype="float32")(output)

    def deviation(layer: str) -> Any:
        """Compute d as E[x (x - E x) / d] by Keras' own layers, so that it is saved."""
        x = outputs[layer]
        if x.dtype != "float32":  # to which LayerNormalization would round its output
            x = keras.ops.cast(x, "float32")
        normal = kinds.LayerNormalization(
            axis=(1, 2),
            epsilon=_EPSILON,
            center=False,
            scale=False,
            name=_NORMAL_PREFIX + layer,
            dtype="float32",
        )(x)
        spread = kinds.Multiply(name=SPREAD_PREFIX + layer, dtype="float32")
        return mean(DEVIATION_PREFIX + layer, spread([outputs[layer], normal]))

    if pooling == "average" and len(features) == 1:
        return mean(POOL_LAYER, outputs[features[0]])
    parts = []
    for layer in features:
        numbers = [mean(MEAN_PREFIX + layer, outputs[layer])]
        if pooling == "statistics":
            numbers.append(deviation(layer))
        if scaling == "length_per_layer":
            name = _LAYER_PREFIX + layer
            joined = kinds.Concatenate(name=name, dtype="float32")(numbers)
            numbers = [_to_length_1(joined, f"{SCALED_LAYER}_{layer}")]
        parts += numbers
    return kinds.Concatenate(name=POOL_LAYER, dtype="float32")(parts)


def input_tensor(model: Any) -> Any | None:
    """Return the tensor that the head of a model sees; None without such a head.

    It is found from the head downwards: below the head, the network may be a model
    inside another, whose layers have names of their own.
    """
    layers = {layer.name: layer for layer in model.layers}
    if POOL_LAYER in layers:
        return layers[POOL_LAYER].output
    return layers[FLATTEN_LAYER].input if FLATTEN_LAYER in layers else None


def scale_features(features: Any, scaling: str) -> Any:
    """Build the layers that scale all that a head sees of a photo, if any.

    Those of "length_per_layer" are part of `pool_features`.
    """
    if scaling == "roots":
        features = keras.ops.sqrt(features + _ROOT_OFFSET)
    if scaling in ("length", "roots"):
        return _to_length_1(features, SCALED_LAYER)
    return features


def _to_length_1(features: Any, name: str) -> Any:
    return keras.layers.UnitNormalization(name=name, dtype="float32")(features)


def make_layers(
    num_classes: int, *, hidden: int = 0, dropout: float, seed: int
) -> list[Any]:
    """Make the head's own layers: dense, dropout, and the new final layer.

    `hidden` is the number of units of a ReLU layer before that, 0 for none; `dropout`
    the share of the final layer's inputs that is dropped in training, 0..1.
    """
    dense = functools.partial(keras.layers.Dense, dtype="float32")
    drop = functools.partial(keras.layers.Dropout, seed=seed, dtype="float32")
    he = keras.initializers.HeNormal(seed=seed + 1)
    # Small enough that all classes start about equally likely; 0.01 is Caffe's for fc8.
    small = keras.initializers.RandomNormal(0, 0.01 if hidden else 0.001, seed=seed)
    layers: list[Any] = []
    if hidden:
        layers.append(dense(hidden, "relu", kernel_initializer=he, name=HIDDEN_LAYER))
    if dropout:
        layers.append(drop(dropout, name="head_drop"))
    return [*layers, dense(num_classes, kernel_initializer=small, name=FINAL_LAYER)]


def weighted_layers(hidden: int) -> list[str]:
    """Return the head's layers with weights; the first one if it has `hidden` units."""
    return [HIDDEN_LAYER] * bool(hidden) + [FINAL_LAYER]


def attach(network: Network, spec: InputSpec, position: HeadPosition) -> Network:
    """Return a classifier: a network with a head in place of its own final layer."""

    def connect(image: Any, num_classes: int) -> Any:
        size_px = image.shape[1]
        spec = InputSpec(size_px=size_px, short_side_px=size_px, source="")
        part = network.build_part(spec, position.features, after=INPUT)
        outputs = part._run_through_graph(
            image, operation_fn=lambda one: type(one).from_config(one.get_config())
        )
        scaling = position.scaling
        x = pool_features(outputs, position.features, position.pooling, scaling)
        x = scale_features(x, scaling)
        hidden, divisor = position.hidden, position.temperature
        for layer in make_layers(num_classes, hidden=hidden, dropout=0.0, seed=0):
            x = layer(x)
        return keras.layers.Rescaling(1 / divisor, name=TEMPERATURE_LAYER)(x)

    return dataclasses.replace(
        network, connect=connect, input_spec=spec, is_classifier=True
    )
