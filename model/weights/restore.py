"""Tensors of a weight file -> variables of a network, by name; and the ledger of it.

The ledger lists every tensor of the file and every variable of the network: what was
restored from what, what is new, what was left unused, and what did not fit.
"""

import collections
import dataclasses
import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import ml_dtypes
import numpy as np

from model.checkpoints import errors, reading
from model.networks import architecture, composite_layers, from_keras_config, registry
from model.weights import identify_network, layer_names, preprocessing_overrides
from pipeline.batches.input_spec import InputSpec

Status = Literal["restored", "new", "unused", "mismatched", "skipped"]
# End of the names of variables that hold a random state and no weight.
RANDOM_STATE = "seed_generator_state"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger.

    Attributes:
        status: what became of it.
        variable: of the network, as "conv1/kernel"; "" for a tensor of the file alone.
        shape: of the variable.
        tensor: its name in the file; "" for a variable alone.
        file_shape: of the tensor as the file has it.
        file_dtype: likewise.
    """

    status: Status
    variable: str = ""
    shape: tuple[int, ...] = ()
    tensor: str = ""
    file_shape: tuple[int, ...] = ()
    file_dtype: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """A file's tensors, matched to a network but not yet put into one.

    Attributes:
        where: the file.
        network: that they belong to.
        naming: by which the tensors were found.
        spec: of the input, as the weights expect it.
        values: {layer: {"kernel" or "bias" or ...: array in our layout}} of all that
            fit.
        shapes: {layer: {variable: shape}} of the network.
        skipped: layers that were left out on purpose.
        entries: ledger lines of the file's tensors.
    """

    where: str
    network: architecture.Network
    naming: layer_names.Naming
    spec: InputSpec
    values: dict[str, dict[str, np.ndarray]]
    shapes: dict[str, dict[str, tuple[int, ...]]]
    skipped: tuple[str, ...] = ()
    entries: tuple[Entry, ...]

    def arrays(self) -> dict[str, np.ndarray]:
        """{"layer/variable": array} of all that fit."""
        return {
            f"{layer}/{name}": array
            for layer, arrays in self.values.items()
            for name, array in arrays.items()
        }

    def complete(self, layer: str) -> bool:
        """Whether all variables of a layer were found and fit."""
        return self.values.get(layer, {}).keys() == self.shapes[layer].keys()

    def deepest_feature(self) -> str:
        """The deepest step for a head below which everything can be restored.

        Raises:
            errors.MismatchedCheckpoint: not even the first one.
        """
        possible = self.possible_features()
        if not possible:
            self.require(self.network.features[0])
        return possible[-1]

    def possible_features(self) -> list[str]:
        """Steps for a head below which everything can be restored, or is skipped."""
        return [name for name in self.network.features if not self.missing(name)]

    def reachable_places(self) -> list[str]:
        """The same of all steps that a head may sit on if it is asked for."""
        return [
            name for name in self.network.head_positions() if not self.missing(name)
        ]

    def missing(self, last: str) -> list[str]:
        """Layers up to step `last` that have weights and cannot be restored."""
        return [
            name
            for name in self.network.weighted_layers(last)
            if not self.complete(name) and name not in self.skipped
        ]

    def require(self, last: str, *, as_it_is: bool = False) -> None:
        """Refuses a random start where restored weights are expected.

        Args:
            last: step up to which they are expected.
            as_it_is: the network is to be judged without training.

        Raises:
            errors.MismatchedCheckpoint: a layer up to `last` cannot be restored.
        """
        missing = self.missing(last)
        if not missing:
            return
        wrong = [
            f"{e.tensor} is {e.file_dtype} {list(e.file_shape)}, expected float "
            f"{list(self.naming.shapes_in_file(e.shape)[0])}"
            for e in self.entries
            if e.status == "mismatched" and e.variable.split("/")[0] in missing
        ]
        possible = self.reachable_places()
        advice = (
            f"use --features={possible[-1]}, which they reach, or start them anew with "
            f"--skip={','.join(missing)}"
            if possible
            else "is it another network's file?"
        )
        if as_it_is:
            advice = (
                "a network is judged as it is only with all of its weights; --run_dir "
                "names a run of this project, and train.py gives others a new head"
            )
        near = "".join(f"; {line}" for line in self.near_misses() if not wrong)
        raise errors.MismatchedCheckpoint(
            f"{self.where}: {', '.join(missing)} of {self.network.name} cannot be "
            f"restored up to {last}: {'; '.join(wrong) or 'not in the file'}{near}; "
            f"{advice}"
        )

    def near_misses(self) -> list[str]:
        """Layers of file and network that nearly have the same name, a line each."""
        unused = {
            re.split(r"[./](?=[^./]*$)", entry.tensor)[0]
            for entry in self.entries
            if entry.status == "unused"
        }
        matched = {entry.variable.split("/")[0] for entry in self.entries}
        lines = []
        for layer in self.shapes.keys() - matched - {*self.skipped}:
            wanted = self.naming.layers.get(layer, layer)
            close = sorted(name for name in unused if name.startswith(wanted))
            close += difflib.get_close_matches(wanted, unused, n=1)
            if close:
                lines.append(f"the file has {close[0]}, the network has {wanted}")
        return sorted(lines)


def fit(
    checkpoint: reading.Checkpoint,
    where: str,
    *,
    arch: str = "",
    skip: Sequence[str] = (),
    overrides: preprocessing_overrides.Overrides = preprocessing_overrides.AS_WEIGHTS,
    num_classes: int = 0,
) -> Fit:
    """Matches the tensors of a file to the network they belong to.

    Args:
        checkpoint: the file.
        where: its name, for errors and the ledger.
        arch: name of the network; "" to find it.
        skip: layers to leave out, although the file may have them.
        overrides: of the preprocessing.
        num_classes: of the network's own final layer; 0 for that of its best-known
            weights.

    Raises:
        errors.MismatchedCheckpoint: the tensors are of no network, or of several.
        errors.CorruptCheckpoint: a weight is infinite or not a number.
    """
    checkpoint = identify_network.in_our_terms(checkpoint)
    others, why_not = rebuilt(checkpoint, where)
    try:
        match = identify_network.recognise(checkpoint, where, arch=arch, others=others)
    except errors.MismatchedCheckpoint as error:
        raise errors.MismatchedCheckpoint(
            f"{error}; {why_not}" if why_not else str(error)
        ) from error
    return fit_match(
        checkpoint,
        where,
        match,
        skip=skip,
        overrides=overrides,
        num_classes=num_classes,
    )


def rebuilt(
    checkpoint: reading.Checkpoint, where: str
) -> tuple[list[architecture.Network], str]:
    """The network that a file's own configuration describes, or why there is none."""
    text = checkpoint.keras_config
    if not text:
        return [], ""
    own = from_keras_config.own_model(text)
    if own and own[0] in registry.NETWORKS:
        return [], ""
    try:
        return [from_keras_config.rebuild(text, where)], ""
    except errors.CheckpointError as error:
        return [], str(error).removeprefix(f"{where}: ")


def fit_match(
    checkpoint: reading.Checkpoint,
    where: str,
    match: identify_network.Match,
    *,
    skip: Sequence[str] = (),
    overrides: preprocessing_overrides.Overrides = preprocessing_overrides.AS_WEIGHTS,
    num_classes: int = 0,
) -> Fit:
    """As `fit`, by a habit and for a network that are known."""
    tensors = checkpoint.tensors
    habit, chosen = match.naming, match.network
    spec = overrides.apply(habit.spec or chosen.input_spec, by_weights_bgr=habit.bgr)
    shapes = chosen.variable_shapes(spec, num_classes)
    bgr = overrides.bgr(habit.bgr)
    first = chosen.first_convolution() if bgr else ""
    if bgr and not first:
        raise errors.MismatchedCheckpoint(
            f"{where}: --channel_order=bgr turns the kernel of a first convolution; "
            f"{chosen.name} does not begin with one, so change the order in the file"
        )
    if unknown := [name for name in skip if name not in shapes]:
        raise errors.MismatchedCheckpoint(
            f"--skip={','.join(unknown)}: {chosen.name} has {', '.join(shapes)}"
        )
    values: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
    entries = []
    for layer, variables in shapes.items():
        for variable, shape in variables.items():
            name = habit.tensor_name(layer, variable)
            if name not in tensors:
                continue
            tensor = tensors[name]
            fits = tensor.shape in habit.shapes_in_file(shape) and is_float(tensor)
            status: Status = "restored" if fits else "mismatched"
            entries.append(
                Entry(
                    status="skipped" if layer in skip else status,
                    variable=f"{layer}/{variable}",
                    shape=shape,
                    tensor=name,
                    file_shape=tensor.shape,
                    file_dtype=str(tensor.dtype),
                )
            )
            if entries[-1].status == "restored":
                ours = habit.to_ours(layer, finite(tensor, f"{where}: {name}"), shape)
                if layer == first and variable == "kernel":
                    ours = ours[:, :, ::-1]
                values[layer][variable] = ours
    used = {entry.tensor for entry in entries}
    entries += [
        Entry(
            status="unused",
            tensor=name,
            file_shape=tensors[name].shape,
            file_dtype=str(tensors[name].dtype),
        )
        for name in sorted(tensors.keys() - used)
    ]
    return Fit(
        where=where,
        network=chosen,
        naming=habit,
        spec=spec,
        values=dict(values),
        shapes=shapes,
        skipped=tuple(skip),
        entries=tuple(entries),
    )


def is_float(tensor: np.ndarray) -> bool:
    """Whether its numbers can be weights."""
    return tensor.dtype.kind == "f" or tensor.dtype == ml_dtypes.bfloat16


def finite(tensor: np.ndarray, where: str) -> np.ndarray:
    """The tensor in float32; one bad weight would make every logit nan."""
    with np.errstate(over="ignore"):
        found = tensor.astype(np.float32)
    if not np.isfinite(found).all():
        raise errors.CorruptCheckpoint(
            f"{where} holds weights that are infinite or not numbers; the file is "
            "damaged, or the training behind it ran away: use another"
        )
    return found


def assign(model: Any, values: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Puts values into a model's layers.

    Args:
        model: keras.Model.
        values: {layer: {"kernel" or "bias" or ...: array}}; layers that the model does
            not have are left out. Of a convolution in groups, each group's layer gets
            its part.
    """
    for layer in model.layers:
        if not layer.weights:
            continue  # as the one that joins the groups, which has their name
        group = composite_layers.group_of(layer.name)
        arrays = values.get(layer.name) or values.get(group[0] if group else "", {})
        for name, array in arrays.items():
            variable = getattr(layer, name)
            if group and layer.name not in values:
                size = variable.shape[-1]
                array = array[..., group[1] * size : (group[1] + 1) * size]
            variable.assign(array)


def _weights(model: Any) -> dict[str, list[Any]]:
    """{"layer/variable": its Keras variables}; several for a convolution in groups."""
    found: dict[str, list[Any]] = collections.defaultdict(list)
    for layer in model.layers:
        group = composite_layers.group_of(layer.name)
        name = group[0] if group else layer.name
        for variable in layer.weights:
            if variable.name != RANDOM_STATE:
                found[f"{name}/{variable.name}"].append(variable)
    return dict(found)


def gather(model: Any) -> dict[str, np.ndarray]:
    """{"layer/variable": array} of a model's weights, groups joined."""
    return {
        name: np.concatenate([v.numpy() for v in variables], axis=-1)
        for name, variables in _weights(model).items()
    }


def ledger(found: Fit | None, model: Any) -> list[Entry]:
    """All lines: tensors of the file, and variables of the model that are new.

    Args:
        found: what was restored; None for a random start.
        model: the model as it will be trained.
    """
    shapes = {
        name: (*some[0].shape[:-1], sum(variable.shape[-1] for variable in some))
        for name, some in _weights(model).items()
    }
    entries = []
    for entry in found.entries if found else ():
        if entry.status == "restored" and entry.variable not in shapes:
            # The file has it, but the model ends below that layer.
            entry = dataclasses.replace(entry, status="unused", variable="", shape=())
        entries.append(entry)
    restored = {entry.variable for entry in entries if entry.status == "restored"}
    entries += [
        Entry(status="new", variable=name, shape=shape)
        for name, shape in shapes.items()
        if name not in restored
    ]
    return entries


def variable_name(variable: Any) -> str:
    """The layer's name and the variable's, as in conv1/kernel."""
    return str(variable.path)


def trainable(model: Any) -> dict[str, Any]:
    """{"layer/variable": variable} of what trains, also in a model's parts."""
    found = {}
    for variable in model.trainable_variables:
        found["/".join(variable_name(variable).split("/")[-2:])] = variable
    return found


def digests(variables: Iterable[Any]) -> dict[str, str]:
    """{variable: SHA-256 of its bytes}: proof of what training did not change.

    Random states are no weights: dropout brings one, another in every model built.
    """
    return {
        variable_name(variable): hashlib.sha256(
            np.ascontiguousarray(variable.numpy()).tobytes()
        ).hexdigest()
        for variable in variables
        if not variable_name(variable).endswith(RANDOM_STATE)
    }


def table(entries: Iterable[Entry]) -> str:
    """The ledger as text, one line per entry."""
    rows: list[tuple[str, ...]] = [
        (
            entry.status,
            entry.variable or "-",
            str(list(entry.shape)) if entry.variable else "-",
            entry.tensor or "-",
            str(list(entry.file_shape)) if entry.tensor else "-",
        )
        for entry in entries
    ]
    rows.insert(0, ("status", "variable", "shape", "tensor in the file", "its shape"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(
            f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )
