"""The new head of a network: what it sees of the layers that it sits on, and its own.

It may sit on one layer or on several, of which it then sees the means.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from model import network
from model.checkpoints import errors
from pipeline import preprocess

# The new final layer, on whatever layer it is grafted. The name is nobody else's, so
# that no checkpoint's classifier is taken for it.
FINAL_LAYER = "logits"
HIDDEN_LAYER = "head_hidden"  # of a new head, below the final layer
# The first of a new head, if it sees means; one before it, with the layer's name after
# "_", takes those of each layer where it sits on several.
POOL_LAYER = "head_pool"
ONE_OF_MEANS = POOL_LAYER + "_"
FLATTEN_LAYER = "head_flatten"  # or if it sees all numbers
POOLINGS = ("auto", "none", "average")  # of what a new head sees


def pooling_of(
    chosen: network.Network,
    spec: preprocess.InputSpec,
    features: Sequence[str],
    wanted: str,
) -> str:
    """What a new head sees of layers: "average" for means of channels, or "none".

    In five folds of 1,127 flower photos, a head on the means of AlexNet's pool5 was
    right for 85.4 %, on all of its numbers for 84.4 %, on the means of conv3, conv4 and
    pool5 for 85.8 %. For 315 photos of 21 species of bees, logistic regression on the
    latter was right for 45 %, on those of pool5 for 39 %.

    Args:
        chosen: that it sits on.
        spec: of the input.
        features: layers that it sits on.
        wanted: one of POOLINGS; "auto" takes means where there is a map.

    Raises:
        errors.MismatchedCheckpoint: there is no map to take means of; or several layers
            shall be seen as they are.
    """
    if len(features) > 1:
        for name in features:
            shape = network.output_shape(chosen, spec, name)
            if len(shape) != 4:
                raise errors.MismatchedCheckpoint(
                    f"--features={','.join(features)}: of several layers a head sees "
                    f"means, but {name} of {chosen.name} gives {list(shape[1:])} "
                    "numbers, no map of places; expected it alone, or others"
                )
        if wanted == "none":
            raise errors.MismatchedCheckpoint(
                f"--pooling=none: of several layers, {', '.join(features)}, a head "
                "sees means; expected --pooling=average, or one layer by --features"
            )
        return "average"
    shape = network.output_shape(chosen, spec, features[0])
    if wanted == "average" and len(shape) != 4:
        raise errors.MismatchedCheckpoint(
            f"--pooling=average: {features[0]} of {chosen.name} gives "
            f"{list(shape[1:])} numbers, no map of places; expected --pooling=none, or "
            "another layer by --features"
        )
    if wanted == "auto":
        is_map = len(shape) == 4 and shape[1] * shape[2] > 1
        return "average" if is_map else "none"
    return wanted


def seen_name(features: Sequence[str]) -> str:
    """What the feature cache calls the means that a head sees of layers."""
    return POOL_LAYER + f" of {', '.join(features)}" * (len(features) > 1)


def num_seen(
    chosen: network.Network,
    spec: preprocess.InputSpec,
    features: Sequence[str],
    pooling: str,
) -> int:
    """How many numbers a head sees of a photo.

    Args:
        chosen: that it sits on.
        spec: of the input.
        features: layers that it sits on.
        pooling: of `pooling_of`.
    """
    shapes = [network.output_shape(chosen, spec, name)[1:] for name in features]
    if pooling == "average":
        return sum(shape[-1] for shape in shapes)
    return math.prod(shapes[0])


def seen(outputs: Mapping[str, Any], features: Sequence[str], pooling: str) -> Any:
    """What a head sees, float32 [batch, num_seen].

    Args:
        outputs: {step: its output}.
        features: layers that it sits on.
        pooling: of `pooling_of`.
    """
    kinds = keras.layers
    if pooling == "none":
        return kinds.Flatten(name=FLATTEN_LAYER, dtype="float32")(outputs[features[0]])

    def means(name: str, layer: str) -> Any:
        return kinds.GlobalAveragePooling2D(name=name, dtype="float32")(outputs[layer])

    if len(features) == 1:
        return means(POOL_LAYER, features[0])
    return kinds.Concatenate(name=POOL_LAYER, dtype="float32")(
        [means(ONE_OF_MEANS + layer, layer) for layer in features]
    )


def layers(
    num_classes: int, *, hidden: int = 0, dropout: float, seed: int
) -> list[Any]:
    """The new final layer and what leads to it from what it sees: dense, dropout.

    Args:
        num_classes: of the new layer.
        hidden: units of a ReLU layer before it; 0 for none.
        dropout: share of what the final layer sees that is dropped in training, 0..1.
        seed: of the new layers' initial kernels and of dropout.
    """
    kinds = keras.layers
    found: list[Any] = []
    if hidden:
        found.append(
            kinds.Dense(
                hidden,
                activation="relu",
                kernel_initializer=keras.initializers.HeNormal(seed=seed + 1),
                name=HIDDEN_LAYER,
                dtype="float32",
            )
        )
    if dropout:
        found.append(
            kinds.Dropout(dropout, name="head_drop", seed=seed, dtype="float32")
        )
    # So small that all classes are about as likely at first; 0.01 is Caffe's for fc8.
    kernel = keras.initializers.RandomNormal(0, 0.01 if hidden else 0.001, seed=seed)
    found.append(
        kinds.Dense(
            num_classes, kernel_initializer=kernel, name=FINAL_LAYER, dtype="float32"
        )
    )
    return found


def weighted(hidden: int) -> list[str]:
    """Names of its layers that have weights.

    Args:
        hidden: of `layers`.
    """
    return [HIDDEN_LAYER] * bool(hidden) + [FINAL_LAYER]
