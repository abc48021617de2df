"""A file's tensors -> the network they belong to, and the habit that names them.

A name and a shape are no proof: other networks have a features.0.weight, too. So what
a file holds beside the network is looked at, and told if it cannot be explained.
"""

import collections
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from model.checkpoints import errors, reading
from model.checkpoints.tensorflow import ckpt
from model.networks import architecture, composite_layers, from_keras_config, registry
from model.weights import layer_names
from pipeline.batches.input_spec import InputSpec


def by_layer_name(
    chosen: architecture.Network,
    spec: InputSpec,
    variables: Mapping[str, str] = layer_names.KERAS,
) -> layer_names.Naming:
    """The habit of Keras, and of this project: our own names."""
    return layer_names.Naming(
        source="layer names",
        network=chosen.name,
        layers=layer_names.same(chosen.weighted_layers()),
        variables=variables,
        spec=spec,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """How far a file's tensors go by a habit.

    Attributes:
        naming: the habit.
        network: that it is for.
        kernels: number of kernels found whose shapes fit.
        tensors: number of tensors found by name, whatever their shape.
        wanted: number of variables that the network has.
    """

    naming: layer_names.Naming
    network: architecture.Network
    kernels: int
    tensors: int
    wanted: int


def match(
    checkpoint: reading.Checkpoint,
    habit: layer_names.Naming,
    chosen: architecture.Network,
) -> Match:
    """Counts what of a file a habit accounts for."""
    shapes = chosen.variable_shapes(habit.spec or chosen.input_spec)
    kernels = tensors = wanted = 0
    for layer, variables in shapes.items():
        for variable, shape in variables.items():
            wanted += 1
            found = checkpoint.tensors.get(habit.tensor_name(layer, variable))
            if found is not None:
                tensors += 1
                fits = found.shape in habit.shapes_in_file(shape)
                kernels += fits and len(shape) > 1
    return Match(
        naming=habit, network=chosen, kernels=kernels, tensors=tensors, wanted=wanted
    )


def matches(
    checkpoint: reading.Checkpoint,
    where: str,
    others: Sequence[architecture.Network] = (),
) -> list[Match]:
    """All habits by which a file has any tensor of a network; the best first.

    Args:
        checkpoint: the file.
        where: the file, for errors.
        others: networks to try beside those of NETWORKS.

    Raises:
        errors.CorruptCheckpoint: what a file of ours says of itself is damaged.
    """
    known = {**registry.NETWORKS, **{other.name: other for other in others}}
    own, spec = _own(checkpoint, where)
    if own in known:  # a file of ours says what it is
        spec = spec or known[own].input_spec
        habits = [
            (by_layer_name(known[own], spec, variables), known[own])
            for variables in (layer_names.KERAS, layer_names.TENSORFLOW)
        ]
    else:
        habits = [(habit, known[habit.network]) for habit in layer_names.NAMINGS]
        habits += [(by_layer_name(one, one.input_spec), one) for one in known.values()]
        if scope := _scope(checkpoint):
            habits += [(_inside(habit, scope), chosen) for habit, chosen in habits]
    found = [
        match(checkpoint, habit, chosen)
        for habit, chosen in habits
        if habit.met_in(checkpoint)
    ]
    return sorted(
        (one for one in found if one.tensors),
        key=lambda one: (-one.kernels, -one.tensors),
    )


def _scope(checkpoint: reading.Checkpoint) -> str:
    """What the names of all kernels begin with, as "AlexNet/"; "" if nothing."""
    names = [name for name, array in checkpoint.tensors.items() if array.ndim > 1]
    found = {re.match(r"[^/.]+[/.]", name) for name in names}
    scopes = {match[0] if match else "" for match in found}
    return scopes.pop() if len(scopes) == 1 else ""


def _inside(habit: layer_names.Naming, scope: str) -> layer_names.Naming:
    """The same habit with all names in a scope."""
    layers = {ours: scope + theirs for ours, theirs in habit.layers.items()}
    source = f"{habit.source}, in {scope}"
    return dataclasses.replace(habit, layers=layers, source=source)


def _own(checkpoint: reading.Checkpoint, where: str) -> tuple[str, InputSpec | None]:
    """What a file of ours says of its network and preprocessing."""
    text = checkpoint.metadata.get("input_spec", "")
    try:
        spec = InputSpec.from_json(json.loads(text)) if text else None
    except (ValueError, TypeError, RecursionError) as error:
        raise errors.CorruptCheckpoint(
            f"{where}: its metadata state no usable input_spec ({error})"
        ) from error
    if spec is None and checkpoint.keras_config:
        model = from_keras_config.own_model(checkpoint.keras_config)
        if model:
            return model
    return checkpoint.metadata.get("network", ""), spec


def in_our_terms(checkpoint: reading.Checkpoint) -> reading.Checkpoint:
    """What Keras files have otherwise than we: groups in parts, depthwise kernels."""
    tensors = {
        _depthwise(name, checkpoint.tensors): tensor
        for name, tensor in checkpoint.tensors.items()
    }
    parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for name in sorted(tensors):
        layer, _, variable = name.rpartition("/")
        if group := composite_layers.group_of(layer):
            parts[f"{group[0]}/{variable}"].append(tensors[name])
    for name, arrays in parts.items():
        alike = {array.shape for array in arrays}
        if name not in tensors and len(alike) == 1 and arrays[0].ndim:
            tensors[name] = np.concatenate(arrays, axis=-1)
            layer, _, variable = name.rpartition("/")
            for number in range(len(arrays)):
                tensors.pop(f"{layer}_group{number + 1}/{variable}", None)
    return dataclasses.replace(checkpoint, tensors=tensors)


def _depthwise(name: str, tensors: Mapping[str, np.ndarray]) -> str:
    """Keras 2 called the kernel of a DepthwiseConv2D so; a SeparableConv2D has two."""
    layer, _, variable = name.rpartition("/")
    if variable == "depthwise_kernel" and not tensors.keys() & {
        f"{layer}/pointwise_kernel",
        f"{layer}/kernel",
    }:
        return f"{layer}/kernel"
    return name


def recognise(
    checkpoint: reading.Checkpoint,
    where: str,
    *,
    arch: str = "",
    others: Sequence[architecture.Network] = (),
) -> Match:
    """Finds the network that a file's tensors belong to, and by which habit.

    Args:
        checkpoint: the file.
        where: the file, for errors.
        arch: name of the network; "" to find it.
        others: networks to try beside those of NETWORKS, made of the file's own
            description.

    Raises:
        errors.MismatchedCheckpoint: no network has a kernel of these names and shapes,
            several have them alike, the file has layers of another network, or `arch`
            is unknown.
    """
    if arch and arch not in {other.name for other in others}:
        registry.by_name(arch)
    found = [
        one
        for one in matches(checkpoint, where, others)
        if arch in ("", one.network.name) and one.kernels
    ]
    if not found:
        raise errors.MismatchedCheckpoint(_no_match(checkpoint, where, arch, others))
    best = found[0]
    for one in found:
        if one.network in others and not _is_applications(best, one, checkpoint):
            return one
    alike = {
        one.network.name
        for one in found
        if (one.kernels, one.tensors) == (best.kernels, best.tensors)
    }
    if len(alike) > 1:
        choice = " or ".join(f"--arch={name}" for name in sorted(alike))
        raise errors.MismatchedCheckpoint(
            f"{where}: its {best.tensors} known tensors fit {_list(alike)} alike; say "
            f"which they are of: {choice}"
        )
    if not arch and (strange := strangers(checkpoint, best)):
        raise errors.MismatchedCheckpoint(
            f"{where}: {best.tensors} of its tensors are named and shaped as in "
            f"{best.network.name} ({best.naming.source}), but it has what that network "
            f"has not: {_some(strange)}; so it is another network's file, and what "
            f"those tensors mean is unknown; --arch={best.network.name} uses them all "
            "the same"
        )
    return best


def _is_applications(
    known: Match, rebuilt: Match, checkpoint: reading.Checkpoint
) -> bool:
    """Whether a file's own description is that of a network with known preprocessing.

    keras.applications call their networks by name, and the file states nothing of the
    preprocessing, which we know.
    """
    return (
        known.kernels >= rebuilt.kernels
        and known.tensors == len(checkpoint.tensors)
        and rebuilt.network.name == from_keras_config.name_of(known.network.name)
    )


def strangers(checkpoint: reading.Checkpoint, match: Match) -> list[str]:
    """What a file holds that its network does not explain.

    A new final layer under a name of its own does, as do biases, numbers and copies of
    the network's weights; convolutions and normalisations do not, nor do layers that
    compute without weights, where the file lists its layers.

    Returns:
        Names, each with what it is.
    """
    habit = match.naming
    names = {
        habit.tensor_name(layer, variable)
        for layer in habit.layers
        for variable in habit.variables
    }
    shapes: dict[str, list[int]] = collections.defaultdict(list)
    for name in sorted(checkpoint.tensors.keys() - names):
        layer, separator, _ = name.rpartition("/" if "/" in name else ".")
        if not separator:
            layer = name.rpartition("_")[0]
        # A tensor below another is a copy, as moving averages are.
        if layer not in names and not name.startswith(habit.beside):
            shapes[layer or name].append(checkpoint.tensors[name].ndim)
    found = []
    for layer, dimensions in shapes.items():
        if max(dimensions) > 2:
            found.append(f"{layer} (a convolution)")
        elif dimensions.count(1) > 1 and 2 not in dimensions:
            found.append(f"{layer} (a normalisation)")
    lines = [line.split() for line in checkpoint.layers]
    listed = [(line[0], line[-1]) for line in lines if len(line) == 2]
    if "Pooling" in {kind for _, kind in listed}:  # all layers, and not some
        found += [
            f"{name} ({kind})"
            for name, kind in listed
            if kind in _CAFFE_KINDS and kind not in habit.kinds
        ]
    return found


# Layers that compute something of their own; none of our networks has more than LRN.
_CAFFE_KINDS = {
    *("LRN", "BatchNorm", "Scale", "Bias", "Eltwise", "Concat", "PReLU", "ELU"),
    *("Power", "Exp", "Log", "AbsVal", "BNLL", "MVN", "Sigmoid", "TanH", "Slice"),
    *("SPP", "Reduction", "Deconvolution", "Embed", "LSTM", "RNN", "Crop", "Tile"),
}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _no_match(
    checkpoint: reading.Checkpoint,
    where: str,
    arch: str,
    others: Sequence[architecture.Network],
) -> str:
    """Why a file fits no network, or not the one asked for."""
    by_name = [
        one
        for one in matches(checkpoint, where, others)
        if arch in ("", one.network.name)  # none has a kernel
    ]
    if arch:
        fits = [
            one.network.name
            for one in matches(checkpoint, where, others)
            if one.kernels
        ]
        instead = f"; it fits {fits[0]}" if fits else ""
    else:
        instead = "; is it another network's file?"
    if by_name:
        near = by_name[0]
        shapes = near.network.variable_shapes(
            near.naming.spec or near.network.input_spec
        )
        for layer, variables in shapes.items():
            name = near.naming.tensor_name(layer, "kernel")
            if name in checkpoint.tensors and "kernel" in variables:
                expected = near.naming.shapes_in_file(variables["kernel"])[0]
                what = f"does not fit {arch}" if arch else "fits none of our networks"
                return (
                    f"{where}: {what}; nearest is {near.network.name}, but {name} is "
                    f"{list(checkpoint.tensors[name].shape)}, expected "
                    f"{list(expected)}{instead if arch else ''}"
                )
    if any(name.endswith(ckpt.IN_PARTS) for name in checkpoint.ignored_entries):
        instead += (
            "; it has variables in parts, by a partitioner, which Graft does not join: "
            "save them whole"
        )
    names = ", ".join(sorted(checkpoint.tensors)[:4])
    names += ", ..." * (len(checkpoint.tensors) > 4)
    return (
        f"{where}: none of its {len(checkpoint.tensors)} tensors ({names}) has a name "
        f"by which Graft knows the layers of {arch or 'any network'}, as conv1/weights "
        f"or features.0.weight{instead}; "
        "python -m model.inspect shows what it holds"
    )
