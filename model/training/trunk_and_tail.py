"""Build a network in two parts: a frozen trunk and a trained tail."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from model.loop import dropout
from model.networks import architecture, head, layers
from model.training import stages


def build_trunk(plan: stages.StagePlan, dtype: str) -> Any:
    """Build the frozen part with a dtype policy: image -> output of the cut layer."""
    keras.utils.set_random_seed(plan.seed)  # for weights that are not restored
    part = plan.network.build_part(
        plan.spec,
        plan.features if plan.trunk_pools else (plan.cut,),
        dtype=dtype,
        repeat_per_column=True,
        replace=_without_randomness,  # Keras applies it in frozen parts, too
    )
    output = part.output
    output = _pool(plan, output) if plan.trunk_pools else output[plan.cut]
    trunk = keras.Model(part.input, output)
    trunk.trainable = False
    return trunk


def _pool(plan: stages.StagePlan, outputs: Mapping[str, Any]) -> Any:
    return head.pool_features(outputs, plan.features, plan.pooling, plan.scaling)


def _without_randomness(layer: Any) -> Any:
    """Return a layer, or one that does nothing in place of dropout and noise."""
    if isinstance(layer, architecture.RANDOM_LAYERS):
        return keras.layers.Identity(name=layer.name, dtype=layer.dtype_policy.name)
    return layer


def build_tail(plan: stages.StagePlan, trunk: Any, dtype: str) -> Any:
    """Build the trained part: output of the trunk -> logits, float32 [batch, classes].

    `dtype` is the Keras dtype policy of the layers below the head.
    """
    keras.utils.set_random_seed(plan.seed)
    if plan.trunk_pools:
        inputs = keras.Input(trunk.output.shape[1:], name="features", dtype="float32")
        output = inputs
    else:
        quiet = _dropout_before_frozen(plan)

        def replace(layer: Any) -> Any:
            if layer.name in quiet:
                return _without_randomness(layer)
            return dropout.by_step(layer, plan.seed)

        part = plan.network.build_part(
            plan.spec, plan.features, after=plan.cut, dtype=dtype, replace=replace
        )
        inputs = part.input
        output = _pool(plan, part.output)
    output = head.scale_features(output, plan.scaling)
    for layer in _head_layers(plan):
        output = dropout.by_step(layer, plan.seed)(output)
    tail = keras.Model(inputs, output)
    for layer in tail.layers:
        if layer.weights and not plan.trains(layer.name):
            layer.trainable = False
    return tail


def _dropout_before_frozen(plan: stages.StagePlan) -> set[str]:
    """Return the tail's dropout and noise in front of its lowest frozen layers."""
    quiet: set[str] = set()
    waiting: set[str] = set()
    for position in plan.network.positions_between(plan.cut, plan.features[-1]):
        weighted = plan.network.segments()[position]
        if weighted and not plan.frozen.issuperset(weighted):
            break
        if weighted:
            quiet |= waiting
        if plan.network.is_random(position):
            waiting.add(position)
    return quiet


def _head_layers(plan: stages.StagePlan) -> list[Any]:
    return head.make_layers(
        plan.num_classes, hidden=plan.hidden, dropout=plan.dropout, seed=plan.seed
    )


def join(trunk: Any, tail: Any) -> Any:
    """Return the model image -> logits that shares the variables of both parts."""
    return keras.Model(trunk.input, tail(trunk.output))


def assemble(plan: stages.StagePlan, values: Mapping[str, np.ndarray]) -> Any:
    """Build the whole network in float32, image -> logits, with {name: array}.

    It has built-in layers only, so that it loads in plain Keras.
    """
    part = plan.network.build_part(plan.spec, plan.features)
    output = _pool(plan, part.output)
    output = head.scale_features(output, plan.scaling)
    for layer in _head_layers(plan):
        output = layer(output)
    whole = keras.Model(part.input, output, name=plan.network.name)
    for name, variable in weights(whole).items():
        variable.assign(values[name])
    return whole


def weights(model: Any) -> dict[str, Any]:
    """Return {name: variable} of all variables but random states."""
    named = {layers.path_of(variable): variable for variable in model.variables}
    return {n: v for n, v in named.items() if not n.endswith(layers.RANDOM_STATE)}


def values(model: Any) -> dict[str, np.ndarray]:
    """Return {name: array} of all variables but random states."""
    return {name: variable.numpy() for name, variable in weights(model).items()}


def assign(model: Any, values: Mapping[str, np.ndarray]) -> None:
    """Set the variables of a model that have a value, {name: array}."""
    for name, variable in weights(model).items():
        if name in values:
            variable.assign(values[name])


def changing_variables(tail: Any) -> set[str]:
    """Return the names of the variables that training changes, statistics included."""
    return {
        layers.path_of(variable)
        for layer in tail.layers
        if layer.trainable
        for variable in layer.variables
    }


def statistics(model: Any) -> list[Any]:
    """Return the moving averages of trained batch normalisation, in submodels too."""
    variables = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            variables += statistics(layer)
        elif isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            variables += [layer.moving_mean, layer.moving_variance]
    return variables
