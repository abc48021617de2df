"""Parts of a network that are more than one Keras layer in a row.

A network is a list of steps from input to logits: Keras layers and these blocks. They
are made of built-in layers and keras.ops alone, so that a saved model loads in plain
Keras.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import keras
import numpy as np

Shape = tuple[Any, ...]
# Name of the layer that computes one group of a convolution in groups.
_GROUP = re.compile(r"(.+)_group(\d+)")


class Block(Protocol):
    """What a block has in common with a Keras layer, and the layers in it."""

    @property
    def name(self) -> str:
        """Unique in the network."""

    def __call__(self, inputs: Any) -> Any:
        """Applies it to a Keras tensor."""

    def compute_output_shape(self, shape: Shape) -> Shape:
        """Shape of the output for an input of `shape`."""

    def walk(self, shape: Shape) -> Iterator[tuple[Any, Shape]]:
        """Yields its layers, each with the shape of its input."""

    @property
    def layers(self) -> list[Any]:
        """Its layers, from input to output."""

    def replaced(self, function: Callable[[Any], Any]) -> "Block":
        """The same block with function(layer) for each of its layers."""


def layers_of(steps: Sequence[Any]) -> list[Any]:
    """The Keras layers of steps in a row."""
    found: list[Any] = []
    for step in steps:
        found += [step] if isinstance(step, keras.layers.Layer) else step.layers
    return found


def replaced(step: Any, function: Callable[[Any], Any]) -> Any:
    """A step with function(layer) in place of each layer."""
    if isinstance(step, keras.layers.Layer):
        return function(step)
    return step.replaced(function)


def walk(steps: Sequence[Any], shape: Shape) -> Iterator[tuple[Any, Shape]]:
    """Yields the Keras layers of steps in a row, each with the shape of its input."""
    for step in steps:
        if isinstance(step, keras.layers.Layer):
            yield step, shape
        else:
            yield from step.walk(shape)
        shape = tuple(step.compute_output_shape(shape))


@dataclasses.dataclass(frozen=True)
class Chain:
    """Steps in a row that are one step of the network.

    Attributes:
        name: of the block.
        steps: from input to output.
        shortcut: the input is added to the output, which has the same shape.
    """

    name: str
    steps: Sequence[Any]
    shortcut: bool = False

    def __call__(self, inputs: Any) -> Any:
        """Applies the steps; adds."""
        output = inputs
        for step in self.steps:
            output = step(output)
        if not self.shortcut:
            return output
        dtype = self.steps[-1].dtype_policy
        return keras.layers.Add(name=self.name, dtype=dtype)([inputs, output])

    def compute_output_shape(self, shape: Shape) -> Shape:
        """That of the last step."""
        for step in self.steps:
            shape = tuple(step.compute_output_shape(shape))
        return shape

    def walk(self, shape: Shape) -> Iterator[tuple[Any, Shape]]:
        """Yields the layers of the steps."""
        yield from walk(self.steps, shape)

    @property
    def layers(self) -> list[Any]:
        """The layers of the steps."""
        return layers_of(self.steps)

    def replaced(self, function: Callable[[Any], Any]) -> "Chain":
        """With other layers in its steps."""
        steps = [replaced(step, function) for step in self.steps]
        return dataclasses.replace(self, steps=steps)


@dataclasses.dataclass(frozen=True)
class GroupedConv:
    """A convolution in groups: each has its part of the input and of the filters.

    One layer per group, split and joined: on CPUs Keras' own `groups` took three times
    as long forwards and seven times backwards. Together their kernels are what other
    tools keep as one, [height, width, in / groups, out].

    Attributes:
        name: of the block, and of its weights in a file.
        groups: one convolution each, all alike.
    """

    name: str
    groups: Sequence[Any]

    @classmethod
    def of(cls, name: str, number: int, make: Callable[[str], Any]) -> "GroupedConv":
        """Makes the layers by name, as conv2_group1 and conv2_group2."""
        return cls(name, [make(f"{name}_group{n + 1}") for n in range(number)])

    def __call__(self, inputs: Any) -> Any:
        """Splits, convolves, joins."""
        parts = keras.ops.split(inputs, len(self.groups), axis=-1)
        outputs = [group(part) for group, part in zip(self.groups, parts, strict=True)]
        dtype = self.groups[0].dtype_policy
        return keras.layers.Concatenate(name=self.name, dtype=dtype)(outputs)

    def compute_output_shape(self, shape: Shape) -> Shape:
        """[batch, height, width, filters of all groups]."""
        outputs = [layer.compute_output_shape(part) for layer, part in self.walk(shape)]
        return (*outputs[0][:-1], sum(output[-1] for output in outputs))

    def walk(self, shape: Shape) -> Iterator[tuple[Any, Shape]]:
        """Yields the layer of each group."""
        for group in self.groups:
            yield group, (*shape[:-1], shape[-1] // len(self.groups))

    @property
    def layers(self) -> list[Any]:
        """One for each group."""
        return list(self.groups)

    def replaced(self, function: Callable[[Any], Any]) -> "GroupedConv":
        """With other layers for its groups."""
        return dataclasses.replace(self, groups=list(map(function, self.groups)))


def group_of(layer_name: str) -> tuple[str, int] | None:
    """(name of the grouped convolution, number from 0) that a layer is a group of."""
    found = _GROUP.fullmatch(layer_name)
    return (found[1], int(found[2]) - 1) if found else None


@dataclasses.dataclass(frozen=True)
class LocalResponseNorm:
    """x -> x / (1 + alpha / size * sum of x^2 over `size` neighbouring channels)^beta.

    Source: Krizhevsky et al. 2012, section 3.3; alpha and size as Caffe has them
    (tf.nn.local_response_normalization takes alpha / size and (size - 1) / 2). The sum
    is a product with a band matrix: as fast as TensorFlow's own, and it has no code of
    ours in the saved model. Computed in float32.

    Attributes:
        name: of the block.
        dtype: Keras dtype policy.
        size: number of channels, odd.
        alpha: weight of the mean square.
        beta: exponent.
    """

    name: str
    dtype: str
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75

    def __call__(self, inputs: Any) -> Any:
        """Normalises [batch, height, width, channels]."""
        channels = np.arange(inputs.shape[-1])
        distance = np.abs(channels[:, None] - channels)
        band = (distance <= self.size // 2).astype(np.float32)
        wide = keras.ops.cast(inputs, "float32")
        total = keras.ops.matmul(keras.ops.square(wide), band)
        scale = keras.ops.power(1 + self.alpha / self.size * total, -self.beta)
        compute = keras.dtype_policies.get(self.dtype).compute_dtype
        return keras.ops.cast(wide * scale, compute)

    def compute_output_shape(self, shape: Shape) -> Shape:
        """That of the input."""
        return shape

    def walk(self, shape: Shape) -> Iterator[tuple[Any, Shape]]:
        """Yields nothing: it has no layers."""
        yield from ()

    @property
    def layers(self) -> list[Any]:
        """None."""
        return []

    def replaced(self, _: Callable[[Any], Any]) -> "LocalResponseNorm":
        """Itself."""
        return self


@dataclasses.dataclass(frozen=True)
class Graph:
    """Steps that branch and join between one tensor and the next.

    Attributes:
        name: of the block, and of its last step.
        nodes: steps in an order in which they can be computed, each with the names of
            those it takes its inputs from; "" is the input of the block.
    """

    name: str
    nodes: Sequence[tuple[Any, tuple[str, ...]]]

    def __call__(self, inputs: Any) -> Any:
        """Computes every step; the output of the last one is that of the block."""
        found = {"": inputs}
        for step, sources in self.nodes:
            tensors = [found[source] for source in sources]
            found[step.name] = step(tensors[0] if len(tensors) == 1 else tensors)
        return found[self.nodes[-1][0].name]

    def _shapes(self, shape: Shape) -> dict[str, Any]:
        """{step: shape of its input}, and "" for the output of the last step."""
        outputs, found = {"": shape}, dict[str, Any]()
        for step, sources in self.nodes:
            shapes = [outputs[source] for source in sources]
            found[step.name] = shapes[0] if len(shapes) == 1 else shapes
            outputs[step.name] = tuple(step.compute_output_shape(found[step.name]))
        return found | {"": outputs[self.nodes[-1][0].name]}

    def compute_output_shape(self, shape: Shape) -> Shape:
        """That of the last step."""
        return tuple(self._shapes(shape)[""])

    def walk(self, shape: Shape) -> Iterator[tuple[Any, Shape]]:
        """Yields the layers of the steps."""
        shapes = self._shapes(shape)
        for step, _ in self.nodes:
            if isinstance(step, keras.layers.Layer):
                yield step, shapes[step.name]
            else:
                yield from step.walk(shapes[step.name])

    @property
    def layers(self) -> list[Any]:
        """The layers of the steps."""
        return layers_of([step for step, _ in self.nodes])

    def replaced(self, function: Callable[[Any], Any]) -> "Graph":
        """With other layers in its steps."""
        nodes = [(replaced(step, function), names) for step, names in self.nodes]
        return dataclasses.replace(self, nodes=nodes)
