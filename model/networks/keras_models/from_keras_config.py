"""Rebuild the network that the configuration of a Keras model describes.

The configuration is data, which config_graph and config_layers check one by one. No
function, class or initializer of the file ever runs.
"""

import dataclasses
import functools
import itertools
import math
from pathlib import Path
from typing import Any

import keras

from model.checkpoints import checkpoint, errors, reading
from model.networks import architecture, registry
from model.networks.keras_models import config_graph, config_layers
from model.networks.keras_models.config_graph import Call, Graph, Refused
from pipeline.batches.input_spec import MAX_SIDE_PX, InputSpec

_MAX_PARAMETERS = 1_000_000_000
_MAX_OUTPUT = 1 << 27  # numbers in a layer's output for one image
# What Keras raises if layers, shapes and values do not fit.
_DOES_NOT_FIT = (
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(RecursionError, NotImplementedError),
)
_PREFIX = "keras-"  # begins the names of rebuilt networks
_LAST = ("softmax", "sigmoid", "log_softmax")  # turn logits into probabilities
_WITH_KERNEL = (
    *("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense"),
    *("Conv2DTranspose", "BatchNormalization", "LayerNormalization"),
)
_PREPARING = ("Rescaling", "Normalization")
# Layers whose output still has the classes of their input.
_KEEPING = (
    *("Flatten", "Reshape", "Dropout", "Activation", "Softmax", "Identity"),
    *("GlobalAveragePooling2D", "GlobalMaxPooling2D", "AveragePooling2D"),
)


def rebuild(text: str, where: str, *, is_run: bool = False) -> architecture.Network:
    """Rebuild the network of a configuration; it ends in logits in any case.

    `text` is the JSON of a Sequential or functional model of Keras 2 or 3 in the
    file `where`. Of the model of a run, the head and the normalisation of the input,
    which the file's metadata state, are left out. Raises MismatchedCheckpoint for a
    layer or value that is not on the allow-list, or an input that is not an image.
    """
    config = checkpoint.parse_dict(text, where, "its Keras configuration")
    try:
        return _as_network(config_graph.read(config, is_run=is_run))
    except Refused as error:
        what = str(error)
    except (errors.CheckpointError, *_DOES_NOT_FIT) as error:
        what = f"parts that do not go together ({' '.join(str(error).split())[:200]})"
    raise errors.MismatchedCheckpoint(
        f"{where}: its Keras configuration cannot be rebuilt: it has {what}."
    )


def is_file(arch: str) -> bool:
    """Return whether --arch is a file that describes a network, instead of a name."""
    return arch not in registry.NETWORKS and Path(arch).is_file()


def config_of(arch: str) -> str:
    """Return the configuration in the file that --arch is; "" if it is a name."""
    return reading.read_keras_config(Path(arch)) if is_file(arch) else ""


def by_name_or_file(arch: str) -> architecture.Network:
    """Return the network that --arch names, or that the file there describes."""
    config = config_of(arch)
    return rebuild(config, arch) if config else registry.by_name(arch)


def name_of(model_name: str) -> str:
    """Return the name of the network that is rebuilt from a model of that name."""
    return model_name if model_name.startswith(_PREFIX) else _PREFIX + model_name


def _as_network(graph: Graph) -> architecture.Network:
    """Find the final layer, the input and the positions of a head."""
    side, scale = _side(graph.input_shape), 255.0
    source = "assumed, because the file states none"
    if _prepares_pixels(graph):
        scale = 1.0
        source = "stated by the file, whose first layers prepare pixels of 0 to 255"
    spec = InputSpec(
        size_px=side, short_side_px=side, resize="squash", scale=scale, source=source
    )
    graph, ending = _end_in_logits(graph)
    network = architecture.Network(
        name=name_of(graph.name),
        connect=functools.partial(_connect, graph, ending == "one logit"),
        input_spec=spec,
        features=(),
        is_classifier=False,
    )
    _check_sizes(network)
    shape = network.output_shape(network.input_spec, network.positions()[-1])
    if ending and len(shape) == 2 and shape[1] > 1:
        network = dataclasses.replace(network, num_classes=shape[1], is_classifier=True)
    places = network.head_positions()
    if not places:
        raise Refused("a single layer, below which no head can sit")
    # By default a head sits below the first dense layer, whatever follows it.
    kinds = {call.name: call.kind for call in graph.calls}
    below = itertools.takewhile(lambda name: kinds.get(name) != "Dense", places)
    features = [n for n in below if kinds.get(n) not in ("Flatten", "Reshape")]
    return dataclasses.replace(network, features=tuple(features or places))


def _side(shape: list[Any]) -> int:
    """Return the longer side of the input, in pixels."""
    if len(shape) != 4:
        raise Refused("no input of an image, [batch, height, width, channels]")
    height, width, channels = shape[1:]
    if channels not in (1, 3):
        raise Refused(f"an input of {channels} channels, expected 3 (RGB) or 1 (grey)")
    if height is None and width is None:
        return 224
    for side in (height, width):
        if type(side) is not int or not 1 <= side <= MAX_SIDE_PX:
            raise Refused(f"an input of {height} x {width} pixels")
    return int(max(height, width))


def _prepares_pixels(graph: Graph) -> bool:
    """Return whether the model rescales pixels before its first layer with a kernel."""
    for call in graph.calls:
        function = call.config.get("function", call.kind) if call.is_operation else ""
        if call.kind in _PREPARING or function in config_layers.ARITHMETIC:
            return True
        if call.kind in _WITH_KERNEL:
            break
    return False


def _end_in_logits(graph: Graph) -> tuple[Graph, str]:
    """Return a graph without the activation that turns logits into probabilities.

    The second value says how it ends: in "logits" of classes, in "one logit" of the
    second of two classes, or in features, "".
    """
    calls = {call.name: call for call in graph.calls}
    output, last = graph.output, ""
    while calls[output].kind in ("Activation", "Softmax"):
        activation = _activation(calls[output])
        if activation not in _LAST or calls[output].sources[0] not in calls:
            break
        output, last = calls[output].sources[0], activation
    final, between = calls[output], []
    while final.kind in _KEEPING and len(final.sources) == 1:
        between.append(final)
        if final.sources[0] not in calls:
            break
        final = calls[final.sources[0]]
    keeps_logits = not any(_activation(call) in _LAST for call in between)
    activation = _activation(final)
    if final.kind in ("Dense", "Conv2D") and activation in _LAST:
        if any("Pooling" in call.kind for call in between):
            keeps_logits = False  # it pools probabilities
        else:
            config = {**final.config, "activation": "linear"}
            calls[final.name] = dataclasses.replace(final, config=config)
            last = activation
    graph = dataclasses.replace(graph, calls=tuple(calls.values()), output=output)
    # A convolution of features may be the last layer, too.
    ends = {
        "Dense": ("linear", *_LAST),
        "Conv2D": ("linear", "relu", *_LAST) * bool(last),
    }
    if not keeps_logits or activation not in ends.get(final.kind, ()):
        return graph, ""
    units = final.config.get("units", final.config.get("filters"))
    return graph, "one logit" if units == 1 and last == "sigmoid" else "logits"


def _activation(call: Call) -> str:
    default = "softmax" if call.kind == "Softmax" else "linear"
    return str(call.config.get("activation", default))


def _connect(graph: Graph, has_one_logit: bool, image: Any, num_classes: int) -> Any:
    """Connect the layers of a graph; its number of classes stays as it is."""
    del num_classes
    _, height, width, channels = graph.input_shape
    if height != width:
        image = keras.layers.Resizing(height, width, name="resize_input")(image)
    if channels == 1:
        image = keras.ops.image.rgb_to_grayscale(image)
    outputs = {"": image}
    for call in graph.calls:
        arguments = config_layers.call_arguments(call)
        args, kwargs = config_graph.replaced(arguments, outputs)
        if config_layers.TRAINING_ONLY.fullmatch(call.kind):
            outputs[call.name] = args[0]
        else:
            outputs[call.name] = config_layers.make(call)(*args, **kwargs)
        if call.name == graph.output:
            break
    logits = outputs[graph.output]
    if call.is_operation:
        logits = keras.layers.Identity(name="output")(logits)
    if has_one_logit:  # the other class has the logit 0
        logits = keras.ops.pad(logits, [[0, 0], [1, 0]])
        return keras.layers.Identity(name="two_logits")(logits)
    return logits


def _check_sizes(network: architecture.Network) -> None:
    """Refuse networks, and outputs of their layers, that are too large."""
    for name, shape in network.layer_shapes().items():
        sides = [side for side in shape[1:] if side is not None]
        if min(sides, default=1) < 1:
            raise Refused(f"layer {name}, whose output is empty")
        if (numbers := math.prod(sides)) > _MAX_OUTPUT:
            raise Refused(f"layer {name}, with {numbers:,} numbers per image")
    shapes = network.variable_shapes(network.input_spec)
    weights = [shape for layer in shapes.values() for shape in layer.values()]
    if not weights:
        raise Refused("a model without weights")
    if any(0 in shape for shape in weights):
        raise Refused("an empty weight")
    if (total := sum(map(math.prod, weights))) > _MAX_PARAMETERS:
        raise Refused(f"{total:,} parameters")
