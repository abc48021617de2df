"""Which layers train: a network is cut in a frozen trunk and a trained tail."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from model.checkpoints import errors
from model.loop import dropout
from model.networks import architecture, composite_layers, head
from model.training import settings, starting_point
from model.weights import model_variables
from pipeline.batches.input_spec import InputSpec
from pipeline.system import config_flags

# Dropout that suits a head. On flower photos of 288 pixels, a head on AlexNet's 256
# means did not even fit its training photos with 0.5 (loss 0.42 after 40 epochs).
_OF_ALL, _OF_FEW = 0.5, 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A network with a new final layer, and where it is cut.

    Attributes:
        network: the architecture.
        spec: of the input.
        features: layers the new head sits on, from shallow to deep.
        train_from: lowest layer that trains; the final layer or one below it.
        cut: layer whose output the frozen trunk gives; network.INPUT if nothing is
            frozen.
        num_classes: of the new final layer.
        dropout: in front of it, 0..1.
        seed: of new kernels and of dropout.
        pooling: of head.choose_pooling.
        hidden: units of a layer in front of the final one; 0 for none.
        frozen: layers above the cut that do not train.
    """

    network: architecture.Network
    spec: InputSpec
    features: tuple[str, ...]
    train_from: str
    cut: str
    num_classes: int
    dropout: float
    seed: int
    pooling: str = "none"
    hidden: int = 0
    frozen: frozenset[str] = frozenset()

    @property
    def num_features(self) -> int:
        """Size of what the new head sees."""
        return head.num_features(self.network, self.spec, self.features, self.pooling)

    @property
    def trunk_pools(self) -> bool:
        """Whether the frozen trunk gives what the head sees of whole channels."""
        return self.pooling != "none" and self.cut == self.features[-1]

    @property
    def last(self) -> str:
        """What the trunk gives, by name: the cut, or what the head sees of layers."""
        if self.trunk_pools:
            return head.pooled_name(self.features, self.pooling)
        return self.cut

    def trains(self, layer_name: str) -> bool:
        """Whether a layer above the cut trains."""
        group = composite_layers.group_of(layer_name)
        return (group[0] if group else layer_name) not in self.frozen


def plan(found: starting_point.Base, config: settings.Config, num_classes: int) -> Plan:
    """What a stage trains.

    Args:
        found: the network.
        config: of the stage.
        num_classes: of the new final layer.

    Raises:
        errors.MismatchedCheckpoint: it names layers that are not there.
    """
    train_from = config.train_from or found.train_from
    frozen: frozenset[str] = frozenset()
    if config.train:
        train_from, frozen = _by_patterns(found, config)
    cut = cut_below(found.network, train_from, found.features)
    frozen |= _between(found.network, cut, train_from)
    frozen -= (
        set(found.network.weighted_layers(cut)) if cut != architecture.INPUT else set()
    )
    share = config.dropout
    if share < 0:
        sees_few = found.pooling != "none" and not config.hidden
        share = _OF_FEW if sees_few else _OF_ALL
    return Plan(
        network=found.network,
        spec=found.spec,
        features=found.features,
        train_from=train_from,
        cut=cut,
        num_classes=num_classes,
        dropout=share,
        seed=config.seed,
        pooling=found.pooling,
        hidden=config.hidden,
        frozen=frozen,
    )


def _by_patterns(
    found: starting_point.Base, config: settings.Config
) -> tuple[str, frozenset[str]]:
    """The lowest step that trains, and the layers above that do not."""
    patterns = [part.strip() for part in config.train.split(",")]
    between = found.network.steps_between(
        architecture.INPUT,
        found.features[-1],
        num_classes=0,
        dtype="float32",
    )
    weighted = {step.name: composite_layers.weighted_layers(step) for step in between}
    layers = {step: names for step, names in weighted.items() if names}
    layers |= {name: [name] for name in head.weighted_layers(config.hidden)}

    def trains(step: str, layer: str) -> bool:
        return any(fnmatch.fnmatchcase(n, p) for n in (step, layer) for p in patterns)

    known = {*layers, *(layer for names in layers.values() for layer in names)}
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise errors.MismatchedCheckpoint(
                f"--train: {pattern} fits no layer up to the new head; expected "
                f"{config_flags.suggestion(pattern, sorted(known))}"
            )
    steps = [s for s, names in layers.items() if any(trains(s, n) for n in names)]
    frozen = [n for s, names in layers.items() for n in names if not trains(s, n)]
    lowest = head.FINAL_LAYER if steps[0] == head.HIDDEN_LAYER else steps[0]
    return lowest, frozenset(frozen)


def cut_below(
    chosen: architecture.Network, train_from: str, features: Sequence[str]
) -> str:
    """The layer below `train_from`; network.INPUT if that is the first with weights.

    If the head sits on several layers and not all that it sees is frozen, it is none
    above the first of them, so that what it sees of each lies above the cut.

    Raises:
        errors.MismatchedCheckpoint: `train_from` is no layer up to the last of
            `features`.
    """
    if train_from == head.FINAL_LAYER:
        return features[-1]
    steps = chosen.steps()
    names = [step.name for step in steps]
    below = steps[: names.index(features[-1]) + 1]
    weighted = [step.name for step in below if composite_layers.weighted_layers(step)]
    if train_from not in weighted:
        raise errors.MismatchedCheckpoint(
            f"--train_from={train_from}: expected one of {', '.join(weighted)} or "
            f"{head.FINAL_LAYER}"
        )
    if train_from == weighted[0]:
        return architecture.INPUT
    # Dropout in front of a trained layer is trained with.
    cut = names.index(train_from) - 1
    while isinstance(steps[cut], keras.layers.Dropout):
        cut -= 1
    return names[min(cut, names.index(features[0]))]


def _between(chosen: architecture.Network, cut: str, train_from: str) -> frozenset[str]:
    """Layers with weights above the cut that lie below those that train."""
    if train_from == head.FINAL_LAYER:
        return frozenset()
    steps = chosen.steps_between(cut, train_from, num_classes=0, dtype="float32")
    return frozenset(
        n for step in steps[:-1] for n in composite_layers.weighted_layers(step)
    )


def build_trunk(plan: Plan, dtype: str) -> Any:
    """The frozen part: image -> output of the cut layer; nothing in it trains."""
    keras.utils.set_random_seed(plan.seed)  # for what no weights reach
    image, outputs = plan.network.step_outputs(
        plan.spec, last=plan.cut, dtype=dtype, repeat_per_column=True
    )
    output = outputs[plan.cut]
    if plan.trunk_pools:
        output = head.pool_features(outputs, plan.features, plan.pooling)
    trunk = keras.Model(image, output)
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
    if not plan.trunk_pools:
        steps = plan.network.steps_between(
            plan.cut, plan.features[-1], num_classes=0, dtype=dtype
        )
        steps = [
            dropout.by_step(step, plan.seed)
            for step in _without_frozen_dropout(steps, plan.train_from)
        ]
        outputs = architecture.apply_steps(steps, plan.cut, inputs)
        output = head.pool_features(outputs, plan.features, plan.pooling)
    for layer in _head(plan):
        output = dropout.by_step(layer, plan.seed)(output)
    tail = keras.Model(inputs, output)
    for layer in tail.layers:
        if layer.weights and not plan.trains(layer.name):
            layer.trainable = False
    return tail


def _without_frozen_dropout(steps: Sequence[Any], train_from: str) -> list[Any]:
    """The steps, without dropout and noise in front of layers that do not train."""
    names = [step.name for step in steps]
    below = names.index(train_from) if train_from in names else 0
    frozen = [n for n in range(below) if composite_layers.weighted_layers(steps[n])]
    return [
        step
        for number, step in enumerate(steps)
        if not (
            isinstance(step, keras.layers.Dropout | keras.layers.GaussianNoise)
            and frozen
            and number < frozen[-1]
        )
    ]


def kept(part: Any) -> dict[str, Any]:
    """{name: variable} of a trunk or tail: all but random states."""
    named = {
        model_variables.variable_name(variable): variable for variable in part.variables
    }
    return {
        n: v for n, v in named.items() if not n.endswith(model_variables.RANDOM_STATE)
    }


def moving(tail: Any) -> set[str]:
    """Names of the variables that training changes, moving averages among them."""
    return {
        model_variables.variable_name(variable)
        for layer in tail.layers
        if layer.trainable
        for variable in layer.variables
    }


def statistics(model: Any) -> list[Any]:
    """Moving averages that a model's trained layers keep, also in its parts."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += statistics(layer)
        elif isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            found += [layer.moving_mean, layer.moving_variance]
    return found


def values(part: Any) -> dict[str, np.ndarray]:
    """{name: array} of a trunk or tail."""
    return {name: variable.numpy() for name, variable in kept(part).items()}


def put(part: Any, found: Mapping[str, np.ndarray]) -> None:
    """Gives a trunk or tail those of some values that it has variables for."""
    for name, variable in kept(part).items():
        if name in found:
            variable.assign(found[name])


def _head(plan: Plan) -> list[Any]:
    return head.make_layers(
        plan.num_classes,
        hidden=plan.hidden,
        dropout=plan.dropout,
        seed=plan.seed,
    )


def join(trunk: Any, tail: Any) -> Any:
    """Image -> logits, sharing the variables of both parts; the trunk stays frozen."""
    return keras.Model(trunk.input, tail(trunk.output))


def assemble(plan: Plan, found: Mapping[str, np.ndarray]) -> Any:
    """The whole network in float32.

    Args:
        plan: of the network.
        found: {name: array} of the variables of trunk and tail.

    Returns:
        A keras.Model: image -> logits, made of built-in layers only, so that it loads
        in plain Keras.
    """
    image, outputs = plan.network.step_outputs(plan.spec, last=plan.features[-1])
    output = head.pool_features(outputs, plan.features, plan.pooling)
    for layer in _head(plan):
        output = layer(output)
    whole = keras.Model(image, output, name=plan.network.name)
    for name, variable in kept(whole).items():
        variable.assign(found[name])
    return whole
