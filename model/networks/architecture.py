"""Describe a network as a Keras functional model, and make the parts that are needed.

Input: a function that connects layers. Output: models of any part of them, and the
shapes of weights and outputs without any weights.
"""

import dataclasses
import functools
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from model.checkpoints import errors
from model.networks import layers
from model.networks.keras_models import cuts
from pipeline.batches.input_spec import InputSpec

INPUT = "image"  # name of the input, as if it were the first layer
NORMALISATION = "normalize"  # name of the layer that follows the input
RANDOM_LAYERS = (keras.layers.Dropout, keras.layers.GaussianNoise)
_CHANNELWISE = (
    *(keras.layers.ZeroPadding2D, keras.layers.Cropping2D, keras.layers.Rescaling),
    *(keras.layers.Activation, keras.layers.ReLU, keras.layers.UpSampling2D),
    *(keras.layers.MaxPooling2D, keras.layers.AveragePooling2D, *RANDOM_LAYERS),
)
_Shapes = dict[str, dict[str, tuple[int, ...]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """An architecture.

    Its positions are the layers whose output all paths from the image to the logits
    pass: there it can be cut in two, and a head can sit there.
    """

    name: str  # in the table of networks; value of --arch
    connect: Callable[[Any, int], Any]  # normalised images, number of classes -> logits
    input_spec: InputSpec  # of its best-known weights
    # Positions that a new head may sit on by default, from shallow to deep: the deepest
    # one with restored weights; or all of the second list, pooled, if all are restored.
    features: tuple[str, ...]
    combined_features: tuple[str, ...] = ()
    num_classes: int = 1000  # of its best-known weights
    is_classifier: bool = True  # whether it ends in logits of two classes or more
    landmark: tuple[str, tuple[int, ...]] | None = None  # a tensor in all of its files

    def positions(self) -> list[str]:
        """Return the positions above the input, up to and with the logits."""
        return [*self._description().positions]

    def positions_between(self, after: str, last: str) -> list[str]:
        """Return the positions after `after`, up to and with `last`."""
        names = [INPUT, *self.positions()]
        for name in (after, last):
            if name not in names:
                raise ValueError(f"no layer {name!r}; there are {', '.join(names[1:])}")
        if names.index(after) > names.index(last):
            raise ValueError(f"{after} lies above {last}")
        return names[names.index(after) + 1 : names.index(last) + 1]

    def is_random(self, position: str) -> bool:
        """Return whether a position is dropout or noise."""
        return isinstance(self._description().layers[position], RANDOM_LAYERS)

    def is_non_negative(self, position: str) -> bool:
        """Return whether the output of a position has no negative numbers."""
        return layers.is_non_negative(self._description().positions[position])

    def head_positions(self) -> list[str]:
        """Return the positions that a new head may sit on, from shallow to deep.

        These are all from the first one with weights to the one below the logits,
        except dropout.
        """
        names = self.positions()
        segments = self.segments()
        weighted = [n for n, name in enumerate(names) if segments[name]]
        end = weighted[-1] if self.is_classifier else len(names)
        return [n for n in names[weighted[0] : end] if not self.is_random(n)]

    def segments(self) -> Mapping[str, Sequence[str]]:
        """Return {position: layers with weights above the position before it}.

        Where a network does not branch, these are the position itself or nothing. A
        convolution in groups is one layer.
        """
        return self._description().segments

    def weighted_layers(self, last: str = "", *, after: str = INPUT) -> list[str]:
        """Return the layers that have weights, after `after` up to and with `last`.

        Without `last`, up to the logits.
        """
        names = self.positions_between(after, last or self.positions()[-1])
        return [layer for name in names for layer in self.segments()[name]]

    def first_convolution(self) -> str:
        """Return the convolution that the image's channels reach unmixed; "" if none.

        The layers before it may change pixels, but neither mix nor weigh channels.
        """
        for layer in self._description().layers.values():
            if isinstance(layer, keras.layers.Conv2D) and layer.groups == 1:
                return str(layer.name)
            if not isinstance(layer, _CHANNELWISE):
                break
        return ""

    def variable_shapes(self, spec: InputSpec, num_classes: int = 0) -> _Shapes:
        """Return {layer: {variable: shape}} of the layers that have weights.

        A convolution in groups is one layer. For 0 classes, the logits are those of the
        network's own classes. Layers that do not suit the size have the shapes
        of the network's own size. A size that suits no layer is a MismatchedCheckpoint,
        here and in the methods below.
        """
        description = self._description(spec, num_classes)
        shapes = description.variable_shapes
        if description.misfit:
            shapes = {**self._description(None, num_classes).variable_shapes, **shapes}
        return {layer: dict(variables) for layer, variables in shapes.items()}

    def layer_shapes(self) -> dict[str, tuple[Any, ...]]:
        """Return {layer or operation: shape of its output}; its own input's size."""
        return {
            operation.name: tuple(tensor.shape)
            for operation in self._description().model.operations
            for tensor in keras.tree.flatten(operation.output)
        }

    def output_shape(self, spec: InputSpec, last: str) -> tuple[Any, ...]:
        """Return the shape of the output of a position; the batch's size is None."""
        return tuple(self._description(spec).output(last).shape)

    def suits(self, spec: InputSpec, last: str) -> bool:
        """Return whether an input of that size can pass all layers up to a position."""
        return last in self._description(spec).positions

    def build(
        self,
        spec: InputSpec,
        *,
        last: str,
        num_classes: int = 0,
        dtype: str = "float32",
    ) -> Any:
        """Build the network from the image up to the position `last`, as `build_part`.

        The keras.Model is [batch, size_px, size_px, 3], RGB, 0..255 -> its output.
        """
        part = self.build_part(spec, (last,), num_classes=num_classes, dtype=dtype)
        return keras.Model(part.input, part.output[last])

    def build_part(
        self,
        spec: InputSpec,
        names: Sequence[str],
        *,
        after: str = "",
        num_classes: int = 0,
        dtype: str = "float32",
        repeat_per_column: bool = False,
        replace: Callable[[Any], Any] = lambda layer: layer,
    ) -> Any:
        """Build a part of the network, with new weights.

        The keras.Model returns {name: output} of the positions `names`. Its input is
        the image, float32 [batch, size_px, size_px, 3], RGB, 0..255, which it
        normalises by `spec`; or float32 "features", the output of the position `after`.
        INPUT stands for the normalised image. For 0 classes, the logits are those of
        the network's own. `dtype` is the Keras dtype policy; variables are float32 in
        any case. `replace` maps each unbuilt layer to the one to use in its place.
        """
        description = self._description(spec, num_classes)
        start = description.output(after) if after else description.model.input
        name = "features" if after else INPUT
        inputs = keras.Input(start.shape[1:], name=name, dtype="float32")
        outputs = {n: description.output(n) for n in names if n != after}

        def copy(operation: Any) -> Any:
            if operation.name == NORMALISATION:
                return normalisation(spec, repeat_per_column=repeat_per_column)
            config = operation.get_config()
            if not isinstance(operation, keras.Layer):
                return type(operation).from_config(config)
            # What lies before the first weights prepares pixels, which need float32.
            is_preparation = operation.name in description.preparation
            config["dtype"] = "float32" if is_preparation else dtype
            return replace(type(operation).from_config(config))

        if outputs:
            part = keras.models.clone_model(
                keras.Model(start, outputs), input_tensors=inputs, clone_function=copy
            )
            outputs = part.output
        return keras.Model(inputs, {name: outputs.get(name, inputs) for name in names})

    def _description(
        self, spec: InputSpec | None = None, num_classes: int = 0
    ) -> "_Description":
        size_px = (spec or self.input_spec).size_px
        try:
            return _describe(self, size_px, num_classes or self.num_classes)
        except errors.CheckpointError:
            raise
        except ValueError as error:
            reason = f"; its layers suit {self.input_spec.size_px}"
            if size_px >= self.input_spec.size_px:
                reason = f": {error!s:.200}"
            raise errors.MismatchedCheckpoint(
                f"{self.name} does not take images of {size_px} pixels{reason}"
            ) from error


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


@dataclasses.dataclass(frozen=True)
class _Description:
    """A whole network whose variables have shapes and no values."""

    model: Any  # keras.Model, image -> logits
    layers: Mapping[str, Any]  # Keras layers above the input, in order of computation
    positions: Mapping[str, Any]  # {position: Keras tensor, its output}
    misfit: str = ""  # message that the layers above do not suit the input's size

    def output(self, position: str) -> Any:
        """Return the output of a position, or the normalised image for INPUT."""
        if position == INPUT:
            return self.model.get_layer(NORMALISATION).output
        if self.misfit and position not in self.positions:
            raise errors.MismatchedCheckpoint(self.misfit)
        return self.positions[position]

    @functools.cached_property
    def segments(self) -> Mapping[str, Sequence[str]]:
        """As `Network.segments`."""
        waiting: list[str] = []
        by_position: dict[str, list[str]] = {}
        for name, layer in self.layers.items():
            whole = layers.whole_name(name)
            if layers.weights(layer) and whole not in waiting:
                waiting.append(whole)
            if name in self.positions:
                by_position[name], waiting = waiting, []
        return by_position

    @functools.cached_property
    def preparation(self) -> frozenset[str]:
        """Layers before the first one with weights."""
        below = itertools.takewhile(
            lambda name: not layers.weights(self.layers[name]), self.layers
        )
        return frozenset(below)

    @functools.cached_property
    def variable_shapes(self) -> _Shapes:
        """{layer: {variable: shape}}; the filters of groups are added up."""
        shapes: _Shapes = {}
        for name, layer in self.layers.items():
            for path, variable in layers.weights(layer).items():
                variables = shapes.setdefault(layers.whole_name(name), {})
                shape = tuple(variable.shape)
                if path in variables:  # a further group
                    shape = (*shape[:-1], variables[path][-1] + shape[-1])
                variables[path] = shape
        return shapes


@functools.lru_cache(maxsize=64)
def _describe(network: Network, size_px: int, num_classes: int) -> _Description:
    state = random.getstate()  # unbuilt initializers draw their seeds from it
    misfit = ""
    with keras.StatelessScope(initialize_variables=False):
        image = keras.Input((size_px, size_px, 3), name=INPUT, dtype="float32")
        normal = keras.layers.Rescaling(1.0, name=NORMALISATION, dtype="float32")(image)
        try:
            model = keras.Model(image, network.connect(normal, num_classes))
        except ValueError as error:
            is_own_size = size_px == network.input_spec.size_px
            if is_own_size or isinstance(error, errors.CheckpointError):
                raise
            own = _describe(network, network.input_spec.size_px, num_classes)
            last, output = cuts.connect_what_fits(own.model, own.positions, image)
            model = keras.Model(image, output)
            if not model.weights:
                raise
            misfit = (
                f"{network.name} takes images of {size_px} pixels up to {last} only. "
                f"Use --features={last} or a layer below it, or another --image_size."
            )
    random.setstate(state)
    above = {o.name: o for o in model.operations if isinstance(o, keras.Layer)}
    del above[INPUT], above[NORMALISATION]
    positions = {n: above[n].output for n in cuts.positions(model) if n in above}
    return _Description(model, above, positions, misfit)
