"""Which layers train: a network is cut in a frozen trunk and a trained tail."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from model import dropout, network, restore
from model.checkpoints import errors
from pipeline import preprocess


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A network with a new final layer, and where it is cut.

    Attributes:
        network: the architecture.
        spec: of the input.
        features: layer the new final layer sits on.
        train_from: lowest layer that trains; the final layer or one below it.
        cut: layer whose output the frozen trunk gives; network.INPUT if nothing is
            frozen.
        num_classes: of the new final layer.
        dropout: in front of it, 0..1.
        seed: of new kernels and of dropout.
    """

    network: network.Network
    spec: preprocess.InputSpec
    features: str
    train_from: str
    cut: str
    num_classes: int
    dropout: float
    seed: int

    @property
    def num_features(self) -> int:
        """Size of what the new final layer sees."""
        base = network.output_shape(self.network, self.spec, self.features)
        return math.prod(base[1:])


def cut_below(chosen: network.Network, train_from: str, features: str) -> str:
    """The layer below `train_from`; network.INPUT if that is the first with weights.

    Raises:
        errors.MismatchedCheckpoint: `train_from` is no layer up to `features`.
    """
    if train_from == network.FINAL_LAYER:
        return features
    steps = list(chosen.layers(chosen.num_classes, "float32"))
    names = [step.name for step in steps]
    below = steps[: names.index(features) + 1]
    weighted = [step.name for step in below if network.weighted_layers(step)]
    if train_from not in weighted:
        raise errors.MismatchedCheckpoint(
            f"--train_from={train_from}: expected one of {', '.join(weighted)} or "
            f"{network.FINAL_LAYER}"
        )
    if train_from == weighted[0]:
        return network.INPUT
    # Dropout in front of a trained layer is trained with.
    cut = names.index(train_from) - 1
    while isinstance(steps[cut], keras.layers.Dropout):
        cut -= 1
    return names[cut]


def build_trunk(plan: Plan, dtype: str) -> Any:
    """The frozen part: image -> output of the cut layer; nothing in it trains."""
    keras.utils.set_random_seed(plan.seed)  # for what no weights reach
    trunk = network.build(
        plan.network, plan.spec, last=plan.cut, dtype=dtype, wide=True
    )
    trunk.trainable = False
    for layer in trunk.layers:  # Keras would use dropout of a frozen part in training
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
        elif isinstance(layer, keras.layers.GaussianNoise):
            layer.stddev = 0.0
    return trunk


def build_tail(plan: Plan, trunk: Any, dtype: str) -> Any:
    """The trained part: output of the trunk -> logits, float32 [batch, num_classes].

    Args:
        plan: where to cut.
        trunk: of `build_trunk`.
        dtype: Keras dtype policy of the network's own layers.
    """
    keras.utils.set_random_seed(plan.seed)
    inputs = keras.Input(trunk.output.shape[1:], name="features", dtype="float32")
    output = inputs
    for layer in (
        *network.between(
            plan.network, plan.cut, plan.features, num_classes=0, dtype=dtype
        ),
        *_head(plan),
    ):
        output = dropout.by_step(layer, plan.seed)(output)
    return keras.Model(inputs, output)


def kept(tail: Any) -> dict[str, Any]:
    """{name: variable} of what `assemble` needs of the tail: all but random states."""
    named = {restore.variable_name(variable): variable for variable in tail.variables}
    return {n: v for n, v in named.items() if not n.endswith(restore.RANDOM_STATE)}


def _head(plan: Plan) -> list[Any]:
    return network.head_layers(plan.num_classes, dropout=plan.dropout, seed=plan.seed)


def join(trunk: Any, tail: Any) -> Any:
    """Image -> logits, sharing the variables of both parts; the trunk stays frozen."""
    return keras.Model(trunk.input, tail(trunk.output))


def assemble(plan: Plan, trunk: Any, values: Mapping[str, np.ndarray]) -> Any:
    """The whole network in float32.

    Args:
        plan: of the network.
        trunk: of `build_trunk`.
        values: {name: array} of the tail's variables.

    Returns:
        A keras.Model: image -> logits, made of built-in layers only, so that it loads
        in plain Keras.
    """
    base = network.build(plan.network, plan.spec, last=plan.features)
    output = base.output
    for layer in _head(plan):
        output = layer(output)
    whole = keras.Model(base.input, output, name=plan.network.name)
    known = {restore.variable_name(v): v.numpy() for v in trunk.variables} | dict(
        values
    )
    for variable in whole.variables:
        name = restore.variable_name(variable)
        if not name.endswith(restore.RANDOM_STATE):
            variable.assign(known[name])
    return whole
