"""Restore the weights of a file: convert its tensors to the variables of a network.

`model_variables.assign` puts the result into a Keras model.
"""

import collections
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import ml_dtypes
import numpy as np

from model.checkpoints import errors
from model.checkpoints.checkpoint import Checkpoint
from model.networks.architecture import Network
from model.weights import (
    identify_network,
    model_variables,
    usual_preprocessing,
    weight_settings,
)
from model.weights.identify_network import NetworkMatch
from model.weights.layer_naming import LayerNaming
from model.weights.weight_settings import Overrides
from pipeline.batches.input_spec import InputSpec
from pipeline.system import config_flags

# Restored into a variable; a new variable; a tensor without a variable; a tensor of the
# wrong shape or type; left out by --skip.
Status = Literal["restored", "new", "unused", "mismatched", "skipped"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger: a tensor of the file, a variable such as conv1/kernel."""

    status: Status
    variable: str = ""  # "" for a tensor without a variable
    shape: tuple[int, ...] = ()
    tensor: str = ""  # "" for a variable without a tensor
    file_shape: tuple[int, ...] = ()
    file_dtype: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RestoredWeights:
    """Weights of a file as values for the variables of a network."""

    where: str  # name of the file, for messages
    network: Network
    naming: LayerNaming
    spec: InputSpec  # that the weights expect
    is_bgr: bool  # whether the file's first kernel sees blue first; it is reversed here
    # {layer: {"kernel" or "bias" or ...: array in Graft's layout}} of all tensors that
    # fit; position embeddings for the file's number of patches.
    values: dict[str, dict[str, np.ndarray]]
    shapes: dict[str, dict[str, tuple[int, ...]]]  # of the network, as `values`
    skipped: tuple[str, ...] = ()  # layers that were left out on purpose
    entries: tuple[Entry, ...]  # of the file's tensors

    def arrays(self) -> dict[str, np.ndarray]:
        """Return {"layer/variable": array} of all tensors that fit."""
        return {
            f"{layer}/{name}": array
            for layer, arrays in self.values.items()
            for name, array in arrays.items()
        }

    def is_complete(self, layer: str) -> bool:
        """Return whether all variables of a layer are restored."""
        return self.values.get(layer, {}).keys() == self.shapes[layer].keys()

    def missing_layers(self, last: str) -> list[str]:
        """List the layers up to `last` that are neither restored nor skipped."""
        return [
            name
            for name in self.network.weighted_layers(last)
            if not self.is_complete(name) and name not in self.skipped
        ]

    def possible_features(self) -> list[str]:
        """List the network's features below which nothing is missing."""
        return [*filter(self._can_carry_head, self.network.features)]

    def possible_positions(self) -> list[str]:
        """List all positions of a head below which nothing is missing."""
        return [*filter(self._can_carry_head, self.network.head_positions())]

    def _can_carry_head(self, position: str) -> bool:
        suits = self.network.suits(self.spec, position)
        return suits and not self.missing_layers(position)

    def deepest_feature(self) -> str:
        """Return the deepest feature below which nothing is missing."""
        self.require(self.network.features[0])
        self.network.output_shape(self.spec, self.network.features[0])
        return self.possible_features()[-1]

    def require(self, last: str, *, for_evaluation: bool = False) -> None:
        """Refuse weights without a layer up to `last`; advise what to do instead."""
        missing = self.missing_layers(last)
        if not missing:
            return
        wrong = [
            f"{entry.tensor} is {entry.file_dtype} {list(entry.file_shape)}, expected "
            f"float {list(self.naming.shapes_in_file(entry.shape, entry.variable)[0])}"
            for entry in self.entries
            if entry.status == "mismatched" and entry.variable.split("/")[0] in missing
        ]
        reason = "; ".join(wrong) or "missing in the file"
        if not wrong and (near := self.near_misses()):
            reason += f" ({'; '.join(near)})"
        raise errors.MismatchedCheckpoint(
            f"{self.where}: {', '.join(missing)} of {self.network.name} cannot be "
            f"restored, up to {last}: {reason}. {self._advice(missing, for_evaluation)}"
        )

    def _advice(self, missing: Sequence[str], for_evaluation: bool) -> str:
        possible = self.possible_positions()
        if for_evaluation:
            return (
                "A network can only be evaluated with all of its weights. Use train.py "
                "to give it a new head, or --run_dir to evaluate a run."
            )
        if possible:
            return (
                f"Pass --features={possible[-1]}, below which everything is restored, "
                f"or --skip={','.join(missing)} to start these layers at random."
            )
        return "The file may belong to another network."

    def near_misses(self) -> list[str]:
        """List layers of file and network whose names are nearly equal, as text."""
        unused = {
            re.split(r"[./](?=[^./]*$)", entry.tensor)[0]
            for entry in self.entries
            if entry.status == "unused"
        }
        matched = {entry.variable.split("/")[0] for entry in self.entries}
        lines = []
        for layer in self.shapes.keys() - matched - {*self.skipped}:
            expected = self.naming.layers.get(layer, layer)
            close = sorted(name for name in unused if name.startswith(expected))
            close += difflib.get_close_matches(expected, unused, n=1)
            if close:
                lines.append(f"the file has {close[0]}, the network has {expected}")
        return sorted(lines)


def restore_checkpoint(
    checkpoint: Checkpoint,
    *,
    arch: str = "",
    skip: Sequence[str] = (),
    overrides: Overrides = weight_settings.AS_WEIGHTS,
) -> RestoredWeights:
    """Identify the network of a file's tensors and restore them, except `skip`."""
    match = identify_network.identify(checkpoint, arch=arch)
    return restore_match(match, skip=skip, overrides=overrides)


def restore_match(
    match: NetworkMatch,
    *,
    skip: Sequence[str] = (),
    overrides: Overrides = weight_settings.AS_WEIGHTS,
    num_classes: int = 0,
) -> RestoredWeights:
    """Restore the tensors of a file whose network is known, except layers to `skip`.

    `num_classes` is that of the final layer; 0 for that of the best-known weights.
    """
    where, tensors = match.checkpoint.where, match.checkpoint.tensors
    naming, network = match.naming, match.network
    spec = overrides.apply(naming.spec or network.input_spec, bgr=naming.bgr)
    shapes = network.variable_shapes(spec, num_classes)
    bgr_layer = _bgr_layer(match, overrides)
    if unknown := sorted({*skip} - {*shapes}):
        raise errors.MismatchedCheckpoint(
            f"--skip={','.join(unknown)}: {network.name} has no such layer. Expected "
            f"{config_flags.suggestion(unknown[0], shapes)}."
        )
    in_file = {
        name: Entry(
            status="unused",
            tensor=name,
            file_shape=tensor.shape,
            file_dtype=str(tensor.dtype),
        )
        for name, tensor in sorted(tensors.items())
    }
    values: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
    entries = []
    for layer, variables in shapes.items():
        for variable, shape in variables.items():
            name = naming.tensor_name(layer, variable)
            if name not in tensors:
                continue
            tensor = tensors[name]
            fits = naming.fits(layer, variable, tensor.shape, shape)
            status: Status = "restored" if fits and is_float(tensor) else "mismatched"
            status = "skipped" if layer in skip else status
            entry = dataclasses.replace(in_file[name], status=status, shape=shape)
            entries.append(dataclasses.replace(entry, variable=f"{layer}/{variable}"))
            if status == "restored":
                array = finite_float32(tensor, f"{where}: {name}")
                array = naming.to_graft(layer, variable, array, shape)
                values[layer][variable] = array
    used = {entry.tensor for entry in entries}
    entries += [entry for name, entry in in_file.items() if name not in used]
    return RestoredWeights(
        where=where,
        network=network,
        naming=naming,
        spec=spec,
        is_bgr=bool(bgr_layer),
        values=_reverse_channels(values, bgr_layer),
        shapes=shapes,
        skipped=tuple(skip),
        entries=tuple(entries),
    )


def recognise_preprocessing(
    restored: RestoredWeights, read_photos: Callable[[InputSpec, int], np.ndarray]
) -> RestoredWeights:
    """Replace an assumed preprocessing as usual_preprocessing.by_first_batchnorm."""
    network, spec, values = restored.network, restored.spec, restored.values
    if not spec.is_assumed:
        return restored
    spec, is_bgr = usual_preprocessing.by_first_batchnorm(
        network, spec, values, read_photos
    )
    values = _reverse_channels(values, network.first_convolution() if is_bgr else "")
    return dataclasses.replace(restored, spec=spec, values=values, is_bgr=is_bgr)


def _reverse_channels(
    values: Mapping[str, dict[str, np.ndarray]], layer: str
) -> dict[str, dict[str, np.ndarray]]:
    """Return values with the kernel of a layer for the other colour order."""
    arrays = values.get(layer, {})
    if "kernel" not in arrays:
        return dict(values)
    return {**values, layer: arrays | {"kernel": arrays["kernel"][:, :, ::-1]}}


def _bgr_layer(match: NetworkMatch, overrides: Overrides) -> str:
    """Return the layer whose kernel sees blue first; "" if the input is RGB."""
    if not overrides.is_bgr(match.naming.bgr):
        return ""
    layer = match.network.first_convolution()
    if not layer:
        raise errors.MismatchedCheckpoint(
            f"{match.checkpoint.where}: --channel_order=bgr reverses the kernel of the "
            f"first convolution, but {match.network.name} does not begin with one. "
            "Change the order of the channels in the file."
        )
    return layer


def is_float(tensor: np.ndarray) -> bool:
    """Return whether a tensor's numbers can be weights."""
    return tensor.dtype.kind == "f" or tensor.dtype == ml_dtypes.bfloat16


def finite_float32(tensor: np.ndarray, where: str) -> np.ndarray:
    """Convert a tensor to float32; refuse nan and inf, which would spoil all logits."""
    with np.errstate(over="ignore"):
        array = tensor.astype(np.float32)
    if not np.isfinite(array).all():
        raise errors.CorruptCheckpoint(
            f"{where} holds weights that are infinite or not numbers. The file is "
            "damaged, or its training diverged. Use another file."
        )
    return array


def complete_ledger(file_entries: Iterable[Entry], model: Any) -> list[Entry]:
    """Return the whole ledger: a file's tensors, and the trained model's new variables.

    The file has no entries if the start is random.
    """
    shapes = {
        name: (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
        for name, parts in model_variables.by_name(model).items()
    }
    entries = []
    for entry in file_entries:
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
