"""Describe a network as a list of steps and build it as a Keras model.

Input: a function that makes the steps, Keras layers and blocks of them. Output: a model
up to any step, and the shapes of weights and outputs without building one.
"""

import collections
import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from model.checkpoints import errors
from model.networks import composite_layers
from pipeline.batches.input_spec import InputSpec

INPUT = "image"  # name of the input, as if it were the first step
NORMALISATION = "normalize"  # name of the layer that follows the input
_DROPOUT = (keras.layers.Dropout, keras.layers.GaussianNoise)
# Layers that treat each channel by itself.
_CHANNELWISE = (
    *(keras.layers.ZeroPadding2D, keras.layers.Cropping2D, keras.layers.Rescaling),
    *(keras.layers.Activation, keras.layers.ReLU, keras.layers.UpSampling2D),
    *(keras.layers.MaxPooling2D, keras.layers.AveragePooling2D, *_DROPOUT),
)
_Shapes = dict[str, dict[str, tuple[int, ...]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """An architecture.

    Attributes:
        name: name in the table of networks, and value of --arch.
        make_steps: function (num_classes, dtype policy of all layers) -> steps from
            input to logits: unbuilt Keras layers, and blocks of them.
        input_spec: size and normalisation of the input of its best-known weights.
        features: steps that a new head may sit on by default, from shallow to deep; the
            deepest one with restored weights is used.
        combined_features: steps whose pooled outputs the default head combines if all
            of them are restored; empty to use the deepest step only.
        num_classes: number of classes of its best-known weights.
        is_classifier: whether the last step gives a logit for each of two classes or
            more.
    """

    name: str
    make_steps: Callable[[int, str], Sequence[Any]]
    input_spec: InputSpec
    features: tuple[str, ...]
    combined_features: tuple[str, ...] = ()
    num_classes: int = 1000
    is_classifier: bool = True

    def steps(self, num_classes: int = 0, dtype: str = "float32") -> list[Any]:
        """Make the steps, unbuilt; for 0 classes, with the network's own number."""
        return list(self.make_steps(num_classes or self.num_classes, dtype))

    def step_names(self) -> list[str]:
        """Return the names of the steps, from input to logits."""
        return [step.name for step in self.steps()]

    def steps_between(
        self, after: str, last: str, *, num_classes: int = 0, dtype: str = "float32"
    ) -> list[Any]:
        """Make the steps after `after` up to and with `last`, unbuilt."""
        steps = self.steps(num_classes, dtype)
        names = [INPUT, *(step.name for step in steps)]
        for name in (after, last):
            if name not in names:
                raise ValueError(f"no layer {name!r}; there are {', '.join(names[1:])}")
        if names.index(after) > names.index(last):
            raise ValueError(f"{after} lies above {last}")
        return steps[names.index(after) : names.index(last)]

    def head_positions(self) -> list[str]:
        """Return the steps that a new head may sit on, from shallow to deep.

        These are all from the first one with weights to the last of `features`, except
        dropout.
        """
        steps = self.steps()
        first = [bool(composite_layers.weighted_layers(s)) for s in steps].index(True)
        last = [step.name for step in steps].index(self.features[-1])
        return [s.name for s in steps[first : last + 1] if not isinstance(s, _DROPOUT)]

    def weighted_layers(self, last: str = "") -> list[str]:
        """Return the layers that have weights, from the input up to and with `last`."""
        names: list[str] = []
        for step, layers in _weighted_layers(self):
            names += layers
            if step == last:
                break
        return names

    def first_convolution(self) -> str:
        """Return the convolution that the image's channels reach unmixed; "" if none.

        The layers before it may change pixels, but neither mix nor weigh channels.
        """
        steps = self.steps()
        while steps:
            step = steps.pop(0)
            if isinstance(step, composite_layers.Chain):
                steps = [*step.steps, *steps]
            elif isinstance(step, keras.layers.Conv2D) and step.groups == 1:
                return str(step.name)
            elif not isinstance(step, _CHANNELWISE):
                return ""
        return ""

    def variable_shapes(self, spec: InputSpec, num_classes: int = 0) -> _Shapes:
        """Return {layer: {variable: shape}} of the layers that have weights.

        A convolution in groups is one layer. For 0 classes, the last step has the
        network's own number of classes.

        Raises:
            errors.MismatchedCheckpoint: the network cannot take an input of that size.
        """
        classes = num_classes or self.num_classes
        try:
            return copy.deepcopy(_variable_shapes(self, spec.size_px, classes))
        except ValueError as error:
            raise self._refusal(spec.size_px, error) from error

    def output_shape(self, spec: InputSpec, last: str) -> tuple[Any, ...]:
        """Compute the shape of the output of step `last`; the batch's size is None.

        Raises:
            errors.MismatchedCheckpoint: the network cannot take an input of that size.
        """
        shape: tuple[Any, ...] = (None, spec.size_px, spec.size_px, 3)
        steps = self.steps_between(INPUT, last)
        try:
            for step in steps:
                shape = tuple(step.compute_output_shape(shape))
        except ValueError as error:
            raise self._refusal(spec.size_px, error) from error
        return shape

    def _refusal(self, size_px: int, error: Exception) -> errors.MismatchedCheckpoint:
        reason = f"; its layers suit {self.input_spec.size_px}"
        if size_px >= self.input_spec.size_px:
            reason = f": {error!s:.200}"
        text = f"{self.name} does not take images of {size_px} pixels{reason}"
        return errors.MismatchedCheckpoint(text)

    def build(
        self,
        spec: InputSpec,
        *,
        last: str,
        num_classes: int = 0,
        dtype: str = "float32",
    ) -> Any:
        """Build the network from its input up to one of its steps.

        Args:
            spec: size and normalisation of the input; built into the model.
            last: name of the step whose output is the model's; INPUT for a model that
                only normalises.
            num_classes: number of classes of the network's last step; 0 for its own.
            dtype: Keras dtype policy; variables are float32 in any case.

        Returns:
            keras.Model: [batch, size_px, size_px, 3], RGB, 0..255 -> output of `last`.
        """
        image, outputs = self.step_outputs(
            spec, last=last, num_classes=num_classes, dtype=dtype
        )
        return keras.Model(image, outputs[last])

    def step_outputs(
        self,
        spec: InputSpec,
        *,
        last: str,
        num_classes: int = 0,
        dtype: str = "float32",
        repeat_per_column: bool = False,
    ) -> tuple[Any, dict[str, Any]]:
        """Return the input and {step: its output}, as Keras tensors.

        The arguments are those of `build` and `normalisation`.
        """
        shape = (spec.size_px, spec.size_px, 3)
        image = keras.Input(shape, name=INPUT, dtype="float32")
        steps = self.steps_between(INPUT, last, num_classes=num_classes, dtype=dtype)
        normal = normalisation(spec, repeat_per_column=repeat_per_column)(image)
        return image, apply_steps(steps, INPUT, normal)


def apply_steps(steps: Sequence[Any], before: str, output: Any) -> dict[str, Any]:
    """Apply steps to the output of the step `before`; return {step: its output}."""
    outputs = {before: output}
    for step in steps:
        output = outputs[step.name] = step(output)
    return outputs


def normalisation(spec: InputSpec, *, repeat_per_column: bool = False) -> Any:
    """Make the layer x -> (x / scale - mean) / std, which computes in float32.

    With `repeat_per_column`, it holds its numbers once for every column of the image.
    This makes a longer file, but is faster: 5 instead of 13 ms for 64 images on two
    cores.
    """
    std = np.array(spec.std, np.float64)
    mean = np.array(spec.mean_image or spec.mean, np.float64)
    if repeat_per_column:
        std = np.tile(std, (spec.size_px, 1))
    return keras.layers.Rescaling(
        scale=(1 / (spec.scale * std)).tolist(),
        offset=(-mean / std).tolist(),
        name=NORMALISATION,
        dtype="float32",
    )


@functools.lru_cache(maxsize=64)
def _weighted_layers(network: Network) -> list[tuple[str, list[str]]]:
    """Return (step, names of its layers with weights) of every step."""
    return [
        (step.name, composite_layers.weighted_layers(step)) for step in network.steps()
    ]


@functools.lru_cache(maxsize=64)
def _variable_shapes(network: Network, size_px: int, num_classes: int) -> _Shapes:
    shapes: _Shapes = collections.defaultdict(dict)
    steps = network.steps(num_classes)
    for layer, inputs in composite_layers.walk(steps, (None, size_px, size_px, 3)):
        group = composite_layers.group_of(layer.name)
        variables = shapes[group[0] if group else layer.name]
        for name, shape in composite_layers.weight_shapes(layer, inputs).items():
            if name in variables:  # a further group adds its filters
                shape = (*shape[:-1], variables[name][-1] + shape[-1])
            variables[name] = shape
    return {layer: variables for layer, variables in shapes.items() if variables}
