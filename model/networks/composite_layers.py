"""Combine Keras layers to blocks: chains, groups, branches, Caffe's own layers.

A network is a list of steps from input to logits: Keras layers and these blocks. Blocks
consist only of built-in layers and keras.ops, so a saved model loads in plain Keras.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

Shape = tuple[Any, ...]
_WEIGHTED = (
    keras.layers.BatchNormalization,
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
)
# Name of the layer that computes one group of a grouped convolution.
_GROUP = re.compile(r"(.+)_group(\d+)")


@dataclasses.dataclass(frozen=True)
class Block:
    """A step with a unique name that is no Keras layer; this one has no layers inside.

    Blocks are called with a Keras tensor, as layers are.
    """

    name: str

    def compute_output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output for an input of `shape`."""
        return shape

    def walk(self, shape: Shape) -> Iterator[tuple[Any, Shape]]:
        """Yield the block's layers, each with the shape of its input."""
        yield from ()

    @property
    def layers(self) -> list[Any]:
        """The block's layers, from input to output."""
        return []

    def replaced(self, function: Callable[[Any], Any]) -> "Block":
        """Return the same block with function(layer) in place of each layer."""
        return self


def layers_of(steps: Sequence[Any]) -> list[Any]:
    """Return the Keras layers of steps in a row."""
    layers: list[Any] = []
    for step in steps:
        layers += [step] if isinstance(step, keras.layers.Layer) else step.layers
    return layers


def weighted_layers(step: Any) -> list[str]:
    """Return the names of a step's layers with weights; groups of one count as one."""
    names = []
    for layer in layers_of([step]):
        group = group_of(layer.name)
        name = group[0] if group else layer.name
        if isinstance(layer, _WEIGHTED) and name not in names:
            names.append(name)
    return names


def weight_shapes(layer: Any, shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return {variable: shape} of a Keras layer for an input of `shape`."""
    kinds = keras.layers
    channels = shape[-1]
    if isinstance(layer, kinds.BatchNormalization):
        names = ["gamma"] * layer.scale + ["beta"] * layer.center
        names += ["moving_mean", "moving_variance"]
        return dict.fromkeys(names, (channels,))
    if isinstance(layer, kinds.Conv2D):
        kernel = (*layer.kernel_size, channels // layer.groups, layer.filters)
        shapes, outputs = {"kernel": kernel}, layer.filters
    elif isinstance(layer, kinds.DepthwiseConv2D):
        kernel = (*layer.kernel_size, channels, layer.depth_multiplier)
        shapes, outputs = {"kernel": kernel}, channels * layer.depth_multiplier
    elif isinstance(layer, kinds.SeparableConv2D):
        inner = channels * layer.depth_multiplier
        shapes = {
            "depthwise_kernel": (*layer.kernel_size, channels, inner // channels),
            "pointwise_kernel": (1, 1, inner, layer.filters),
        }
        outputs = layer.filters
    elif isinstance(layer, kinds.Dense):
        shapes, outputs = {"kernel": (channels, layer.units)}, layer.units
    else:
        return {}
    return shapes | ({"bias": (outputs,)} if layer.use_bias else {})


def replaced(step: Any, function: Callable[[Any], Any]) -> Any:
    """Return a step with function(layer) in place of each layer."""
    if isinstance(step, keras.layers.Layer):
        return function(step)
    return step.replaced(function)


def walk(steps: Sequence[Any], shape: Shape) -> Iterator[tuple[Any, Shape]]:
    """Yield the Keras layers of steps in a row, each with the shape of its input."""
    for step in steps:
        if isinstance(step, keras.layers.Layer):
            yield step, shape
        else:
            yield from step.walk(shape)
        shape = tuple(step.compute_output_shape(shape))


@dataclasses.dataclass(frozen=True)
class Chain(Block):
    """Steps in a row that are one step of the network.

    With a shortcut, the input is added to the output, which has the same shape.
    """

    steps: Sequence[Any]
    shortcut: bool = False

    def __call__(self, inputs: Any) -> Any:
        """Apply the steps, and add the input if there is a shortcut."""
        output = inputs
        for step in self.steps:
            output = step(output)
        if not self.shortcut:
            return output
        dtype = self.steps[-1].dtype_policy
        return keras.layers.Add(name=self.name, dtype=dtype)([inputs, output])

    def compute_output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the last step's output."""
        for step in self.steps:
            shape = tuple(step.compute_output_shape(shape))
        return shape

    def walk(self, shape: Shape) -> Iterator[tuple[Any, Shape]]:
        """Yield the layers of the steps, each with the shape of its input."""
        yield from walk(self.steps, shape)

    @property
    def layers(self) -> list[Any]:
        """The steps' layers."""
        return layers_of(self.steps)

    def replaced(self, function: Callable[[Any], Any]) -> "Chain":
        """Return the same block with other layers in its steps."""
        steps = [replaced(step, function) for step in self.steps]
        return dataclasses.replace(self, steps=steps)


@dataclasses.dataclass(frozen=True)
class GroupedConv(Block):
    """A convolution in groups: each sees its part of the input and has its own filters.

    Each group is a layer of its own: on CPUs, Keras' `groups` took three times as long
    forwards and seven times backwards. Joined along the last axis, their kernels are
    the single one that other tools store, [height, width, in / groups, out].
    """

    groups: Sequence[Any]

    @classmethod
    def build(
        cls, name: str, num_groups: int, make: Callable[[str], Any]
    ) -> "GroupedConv":
        """Make the layers by name, such as conv2_group1 and conv2_group2."""
        return cls(name, [make(f"{name}_group{n + 1}") for n in range(num_groups)])

    def __call__(self, inputs: Any) -> Any:
        """Split the channels, convolve each part, and join the outputs."""
        parts = keras.ops.split(inputs, len(self.groups), axis=-1)
        outputs = [group(part) for group, part in zip(self.groups, parts, strict=True)]
        dtype = self.groups[0].dtype_policy
        return keras.layers.Concatenate(name=self.name, dtype=dtype)(outputs)

    def compute_output_shape(self, shape: Shape) -> Shape:
        """Return [batch, height, width, filters of all groups]."""
        outputs = [layer.compute_output_shape(part) for layer, part in self.walk(shape)]
        return (*outputs[0][:-1], sum(output[-1] for output in outputs))

    def walk(self, shape: Shape) -> Iterator[tuple[Any, Shape]]:
        """Yield the layer of each group with the shape of its part of the input."""
        for group in self.groups:
            yield group, (*shape[:-1], shape[-1] // len(self.groups))

    @property
    def layers(self) -> list[Any]:
        """The groups' layers."""
        return list(self.groups)

    def replaced(self, function: Callable[[Any], Any]) -> "GroupedConv":
        """Return the same block with other layers for its groups."""
        return dataclasses.replace(self, groups=list(map(function, self.groups)))


def group_of(layer_name: str) -> tuple[str, int] | None:
    """Return (name of the grouped convolution, index of the group from 0), or None."""
    match = _GROUP.fullmatch(layer_name)
    return (match[1], int(match[2]) - 1) if match else None


@dataclasses.dataclass(frozen=True)
class CaffePool(Block):
    """Pooling over 3 x 3 pixels in steps of 2 that rounds the output's size up.

    If the side is even, the last window reaches out of the image and is cut there.
    Keras' padding "same" does so too, but pads odd sides as well.

    Source: caffe/src/caffe/layers/pooling_layer.cpp.
    """

    dtype: str  # Keras dtype policy
    kind: Any = keras.layers.MaxPooling2D

    def __call__(self, inputs: Any) -> Any:
        """Pool [batch, height, width, channels], of equal height and width."""
        return self._layer(inputs.shape)(inputs)

    def compute_output_shape(self, shape: Shape) -> Shape:
        """Return [batch, height, width, channels] after pooling."""
        return tuple(self._layer(shape).compute_output_shape(shape))

    def _layer(self, shape: Shape) -> Any:
        padding = "valid" if shape[1] % 2 else "same"
        return self.kind(3, 2, padding, name=self.name, dtype=self.dtype)


@dataclasses.dataclass(frozen=True)
class LocalResponseNorm(Block):
    """x -> x / (1 + alpha / size * sum of x^2 over `size` neighbouring channels)^beta.

    Source: Krizhevsky et al. 2012, section 3.3; alpha and size as in Caffe
    (tf.nn.local_response_normalization takes alpha / size and (size - 1) / 2). The sum
    is a product with a band matrix: it is as fast as TensorFlow's own operation and
    puts no code of Graft into the saved model. It is computed in float32.
    """

    dtype: str  # Keras dtype policy of the output
    size: int = 5  # odd
    alpha: float = 1e-4
    beta: float = 0.75

    def __call__(self, inputs: Any) -> Any:
        """Normalise [batch, height, width, channels]."""
        channels = np.arange(inputs.shape[-1])
        distance = np.abs(channels[:, None] - channels)
        band = (distance <= self.size // 2).astype(np.float32)
        wide = keras.ops.cast(inputs, "float32")
        total = keras.ops.matmul(keras.ops.square(wide), band)
        scale = keras.ops.power(1 + self.alpha / self.size * total, -self.beta)
        compute = keras.dtype_policies.get(self.dtype).compute_dtype
        return keras.ops.cast(wide * scale, compute)


@dataclasses.dataclass(frozen=True)
class Graph(Block):
    """Steps that branch and join between one tensor and the next.

    The block has the name of its last step.

    Attributes:
        nodes: steps in an order in which they can be computed, each with the names of
            the steps that give its inputs; "" is the input of the block.
    """

    nodes: Sequence[tuple[Any, tuple[str, ...]]]

    def __call__(self, inputs: Any) -> Any:
        """Compute every step, and return the output of the last one."""
        outputs = {"": inputs}
        for step, sources in self.nodes:
            tensors = [outputs[source] for source in sources]
            outputs[step.name] = step(tensors[0] if len(tensors) == 1 else tensors)
        return outputs[self.nodes[-1][0].name]

    def _shapes(self, shape: Shape) -> dict[str, Any]:
        """Return {step: shape of its input}; "" is the output of the last step."""
        outputs, inputs = {"": shape}, dict[str, Any]()
        for step, sources in self.nodes:
            shapes = [outputs[source] for source in sources]
            inputs[step.name] = shapes[0] if len(shapes) == 1 else shapes
            outputs[step.name] = tuple(step.compute_output_shape(inputs[step.name]))
        return inputs | {"": outputs[self.nodes[-1][0].name]}

    def compute_output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the last step's output."""
        return tuple(self._shapes(shape)[""])

    def walk(self, shape: Shape) -> Iterator[tuple[Any, Shape]]:
        """Yield the layers of the steps, each with the shape of its input."""
        shapes = self._shapes(shape)
        for step, _ in self.nodes:
            if isinstance(step, keras.layers.Layer):
                yield step, shapes[step.name]
            else:
                yield from step.walk(shapes[step.name])

    @property
    def layers(self) -> list[Any]:
        """The steps' layers."""
        return layers_of([step for step, _ in self.nodes])

    def replaced(self, function: Callable[[Any], Any]) -> "Graph":
        """Return the same block with other layers in its steps."""
        nodes = [(replaced(step, function), names) for step, names in self.nodes]
        return dataclasses.replace(self, nodes=nodes)
