"""Make fast TensorFlow graphs: fold batch normalisation, and trace a graph once.

A network that does not train normalises by constants. They can be multiplied into the
filters of a convolution once, instead of into its outputs every time. The result is the
same up to rounding in float32.
"""

import collections
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Layers whose output channels are the last axes of their kernels.
_LINEAR = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


def folded(model: Any) -> Callable[[Any], Any]:
    """Return a function that computes what a network does with training=False.

    It keeps the weights that folded layers have now; the network is not changed. Where
    nothing can be folded, it computes the same bytes. Models inside it are folded, too.
    """
    functional = getattr(model, "_functional", None) or model  # of keras.Sequential
    norms = _foldable(functional)
    parts = {name: _fold(*pair) for name, pair in norms.items()}
    removed = {norm.name for _, norm in norms.values()}
    inner = {m.name: folded(m) for m in functional.layers if isinstance(m, keras.Model)}

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation.name in removed:
            return args[0]
        if operation.name in inner:
            return inner[operation.name](*args)
        if getattr(operation, "_call_has_training_arg", False):
            kwargs["training"] = False
        if operation.name not in parts:
            return operation(*args, **kwargs)
        kernel, bias = parts[operation.name]
        mapping = [(operation.kernel, kernel)]
        if operation.use_bias:
            mapping.append((operation.bias, bias))
        with keras.StatelessScope(state_mapping=mapping):
            outputs = operation(*args, **kwargs)
        if operation.use_bias:
            return outputs
        return tf.nn.bias_add(outputs, tf.cast(bias, outputs.dtype))

    if not parts and not inner:
        return functools.partial(model, training=False)
    return lambda inputs: functional._run_through_graph(
        functional._standardize_inputs(inputs),
        operation_fn=lambda operation: operation,
        call_fn=call,
    )


def _foldable(model: Any) -> dict[str, tuple[Any, Any]]:
    """Return {name: (layer, batch normalisation that alone sees its output)}."""
    by_depth = model._nodes_by_depth.values()
    nodes = [node for nodes in by_depth for node in nodes if not node.is_input]
    calls = collections.Counter(node.operation.name for node in nodes)
    uses = collections.Counter(map(id, model.outputs))
    producers: dict[int, Any] = {}
    for node in nodes:
        uses.update(map(id, node.input_tensors))
        producers |= {id(tensor): node.operation for tensor in node.output_tensors}
    pairs = {}
    for node in nodes:
        norm, (tensor, *_) = node.operation, node.input_tensors
        layer = producers.get(id(tensor))
        if (
            isinstance(norm, keras.layers.BatchNormalization)
            and isinstance(layer, _LINEAR)
            and uses[id(tensor)] == calls[layer.name] == calls[norm.name] == 1
            and layer.activation is keras.activations.linear
            and getattr(layer, "data_format", "channels_last") == "channels_last"
            and norm.axis in (-1, len(tensor.shape) - 1)
        ):
            pairs[layer.name] = (layer, norm)
    return pairs


def _fold(layer: Any, norm: Any) -> tuple[Any, Any]:
    """Return kernel and bias of a layer and the batch normalisation after it."""
    variables = (norm.moving_mean, norm.moving_variance, layer.kernel)
    mean, variance, kernel = (np.float64(variable.numpy()) for variable in variables)
    gamma = norm.gamma.numpy() if norm.scale else 1.0
    beta = norm.beta.numpy() if norm.center else 0.0
    bias = layer.bias.numpy() if layer.use_bias else 0.0
    factor = gamma / np.sqrt(variance + norm.epsilon)
    by_depth = isinstance(layer, keras.layers.DepthwiseConv2D)
    kernel = kernel * (factor.reshape(kernel.shape[-2:]) if by_depth else factor)
    parts = (kernel, (bias - mean) * factor + beta)
    return tuple(tf.constant(part, tf.float32) for part in parts)


def for_any_batch(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of tensors or arrays that is traced once for all batch sizes.

    The first axis of the tensors is the batch; scalars are allowed, too. tf.function
    would trace again for the smaller last batch of a pass: 0.1 to 0.2 s.
    """
    graph = tf.function(function, autograph=False)
    traced: dict[Any, Any] = {}

    def call(*batch: Any) -> Any:
        tensors = [tf.convert_to_tensor(part) for part in batch]
        signature = tuple(
            (tensor.dtype, (None, *tensor.shape[1:]) if tensor.shape.rank else ())
            for tensor in tensors
        )
        if signature not in traced:
            specs = [tf.TensorSpec(shape, dtype) for dtype, shape in signature]
            traced[signature] = graph.get_concrete_function(*specs)
        return traced[signature](*tensors)

    return call
