"""Build a network in two parts: a frozen trunk and a trained tail."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from model.loop import dropout
from model.networks import architecture, composite_layers, head
from model.training import stages
from model.weights import model_variables


def build_trunk(plan: stages.StagePlan, dtype: str) -> Any:
    """Build the frozen part: image -> output of the cut layer.

    `dtype` is the Keras dtype policy of its layers.
    """
    keras.utils.set_random_seed(plan.seed)  # for weights that are not restored
    image, outputs = plan.network.step_outputs(
        plan.spec, last=plan.cut, dtype=dtype, repeat_per_column=True
    )
    output = outputs[plan.cut]
    if plan.trunk_pools:
        output = head.pool_features(outputs, plan.features, plan.pooling)
    trunk = keras.Model(image, output)
    trunk.trainable = False
    for layer in trunk.layers:  # Keras applies a frozen part's dropout in training
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
        elif isinstance(layer, keras.layers.GaussianNoise):
            layer.stddev = 0.0
    return trunk


def build_tail(plan: stages.StagePlan, trunk: Any, dtype: str) -> Any:
    """Build the trained part: output of the trunk -> logits, float32 [batch, classes].

    `dtype` is the Keras dtype policy of the layers below the head.
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
    """Return the steps, without dropout and noise in front of frozen layers."""
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


def _head(plan: stages.StagePlan) -> list[Any]:
    return head.make_layers(
        plan.num_classes,
        hidden=plan.hidden,
        dropout=plan.dropout,
        seed=plan.seed,
    )


def join(trunk: Any, tail: Any) -> Any:
    """Return the model image -> logits that shares the variables of both parts."""
    return keras.Model(trunk.input, tail(trunk.output))


def assemble(plan: stages.StagePlan, values: Mapping[str, np.ndarray]) -> Any:
    """Build the whole network in float32, image -> logits, with {name: array}.

    It has built-in layers only, so that it loads in plain Keras.
    """
    image, outputs = plan.network.step_outputs(plan.spec, last=plan.features[-1])
    output = head.pool_features(outputs, plan.features, plan.pooling)
    for layer in _head(plan):
        output = layer(output)
    whole = keras.Model(image, output, name=plan.network.name)
    for name, variable in weights(whole).items():
        variable.assign(values[name])
    return whole


def weights(model: Any) -> dict[str, Any]:
    """Return {name: variable} of all variables but random states."""
    named = {variable.path: variable for variable in model.variables}
    return {
        n: v for n, v in named.items() if not n.endswith(model_variables.RANDOM_STATE)
    }


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
        variable.path
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
