"""Tensors of a weight file -> variables of a network, by name; and the ledger of it.

The ledger lists every tensor of the file and every variable of the network: what was
restored from what, what is new, what was left unused, and what did not fit.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import ml_dtypes
import numpy as np

from model import naming, network
from model.checkpoints import errors
from pipeline import preprocess

Status = Literal["restored", "new", "unused", "mismatched"]
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
        network_name: of the network.
        naming: by which the tensors were found.
        values: {layer: {"kernel" or "bias": array in our layout}} of all that fit.
        weighted_layers: all layers of the network with weights, from input to logits.
        entries: ledger lines of the file's tensors.
    """

    where: str
    network_name: str
    naming: naming.Naming
    values: dict[str, dict[str, np.ndarray]]
    weighted_layers: tuple[str, ...]
    entries: tuple[Entry, ...]

    def complete(self, layer: str) -> bool:
        """Whether kernel and bias of a layer were found and fit."""
        return self.values.get(layer, {}).keys() == {"kernel", "bias"}

    def deepest_feature(self, layer_names: Sequence[str]) -> str:
        """The deepest layer for a head below which everything can be restored.

        Raises:
            errors.MismatchedCheckpoint: not even the first one.
        """
        features = network.NETWORKS[self.network_name].features
        possible = [name for name in features if not self.missing(layer_names, name)]
        if not possible:
            self.require(layer_names, features[0])
        return possible[-1]

    def missing(self, layer_names: Sequence[str], last: str) -> list[str]:
        """Layers up to `last` that have weights and cannot be restored."""
        below = layer_names[: layer_names.index(last) + 1]
        return [
            name
            for name in below
            if name in self.weighted_layers and not self.complete(name)
        ]

    def require(self, layer_names: Sequence[str], last: str) -> None:
        """Refuses a random start where restored weights are expected.

        Raises:
            errors.MismatchedCheckpoint: a layer up to `last` cannot be restored.
        """
        missing = self.missing(layer_names, last)
        if not missing:
            return
        wrong = [
            f"{e.tensor} is {e.file_dtype} {list(e.file_shape)}, expected float "
            f"{list(self.naming.shape_in_file(e.shape))}"
            for e in self.entries
            if e.status == "mismatched" and e.variable.split("/")[0] in missing
        ]
        features = network.NETWORKS[self.network_name].features
        possible = [name for name in features if not self.missing(layer_names, name)]
        advice = (
            f"use --features={possible[-1]}, which they reach"
            if possible
            else "is it another network's file?"
        )
        raise errors.MismatchedCheckpoint(
            f"{self.where}: {', '.join(missing)} of {self.network_name} cannot be "
            f"restored up to {last}: {'; '.join(wrong) or 'not in the file'}; {advice}"
        )


def fit(
    tensors: Mapping[str, np.ndarray], where: str, spec: preprocess.InputSpec | None
) -> Fit:
    """Matches the tensors of a file to the network they belong to.

    Args:
        tensors: {name in the file: array}.
        where: the file, for errors and the ledger.
        spec: of the input; None for the network's own.

    Raises:
        errors.MismatchedCheckpoint: the names are of no network.
        errors.CorruptCheckpoint: a weight is infinite or not a number.
    """
    found = naming.recognise(tensors, where)
    chosen = network.NETWORKS[found.network]
    shapes = network.variable_shapes(chosen, spec or chosen.input_spec)
    values: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
    entries = []
    used = set()
    for layer in found.layers:
        for variable, name in found.tensor_names(layer).items():
            if name not in tensors:
                continue
            used.add(name)
            tensor = found.to_ours(layer, variable, tensors[name])
            shape = shapes[layer][variable]
            fits = tensor.shape == shape and _is_float(tensor.dtype)
            entries.append(
                Entry(
                    status="restored" if fits else "mismatched",
                    variable=f"{layer}/{variable}",
                    shape=shape,
                    tensor=name,
                    file_shape=tensors[name].shape,
                    file_dtype=str(tensor.dtype),
                )
            )
            if fits:
                values[layer][variable] = _finite(tensor, f"{where}: {name}")
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
        network_name=found.network,
        naming=found,
        values=dict(values),
        weighted_layers=tuple(shapes),
        entries=tuple(entries),
    )


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def _finite(tensor: np.ndarray, where: str) -> np.ndarray:
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
        values: {layer: {"kernel" or "bias": array}}; layers that the model does not
            have are left out.
    """
    for layer in model.layers:
        for name, array in values.get(layer.name, {}).items():
            getattr(layer, name).assign(array)


def ledger(found: Fit | None, model: Any) -> list[Entry]:
    """All lines: tensors of the file, and variables of the model that are new.

    Args:
        found: what was restored; None for a random start.
        model: the model as it will be trained.
    """
    in_model = {variable_name(variable) for variable in model.variables}
    entries = []
    for entry in found.entries if found else ():
        if entry.status == "restored" and entry.variable not in in_model:
            # The file has it, but the model ends below that layer.
            entry = dataclasses.replace(entry, status="unused", variable="", shape=())
        entries.append(entry)
    restored = {entry.variable for entry in entries if entry.status == "restored"}
    for variable in model.trainable_variables + model.non_trainable_variables:
        name = variable_name(variable)
        if name not in restored and not name.endswith(RANDOM_STATE):
            shape = tuple(int(size) for size in variable.shape)
            entries.append(Entry(status="new", variable=name, shape=shape))
    return entries


def variable_name(variable: Any) -> str:
    """The layer's name and the variable's, as in conv1/kernel."""
    return str(variable.path)


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
