"""The head of a former run, taken along into the next one."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.checkpoints import errors
from model.networks import head
from model.runs import run_folder
from model.weights import named_weights, restore

_TEXT_LIMIT = 16 << 20  # characters of a run's config.json; it may be a stranger's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seat:
    """Where the head of a run sits.

    Attributes:
        features: layers, with commas.
        pooling: what it sees of them; see head.choose_pooling.
    """

    features: str
    pooling: str


def seat(weights: named_weights.Weights) -> Seat | None:
    """That of the run whose model the weights are; None if they are no run's."""
    path = Path(weights.path)
    if path.name != run_folder.MODEL_NAME:
        return None
    try:
        with path.with_name(run_folder.CONFIG_NAME).open(encoding="utf-8") as file:
            about = json.loads(file.read(_TEXT_LIMIT))
        features, pooling = about["features"], about.get("pooling", "none")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # moved away from it; or not ours
    except RecursionError:
        return None  # nobody's configuration
    if not isinstance(features, str) or pooling not in head.POOLINGS:
        return None
    return Seat(features=features, pooling=pooling)


def shapes(
    num_features: int, hidden: int, num_classes: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """{layer: {variable: shape}} of a head.

    Args:
        num_features: that it sits on.
        hidden: units of the layer below the final one; 0 if there is none.
        num_classes: of the final layer.
    """
    sizes = [(head.HIDDEN_LAYER, hidden)] * bool(hidden)
    sizes.append((head.FINAL_LAYER, num_classes))
    found = {}
    for layer, units in sizes:
        found[layer] = {"kernel": (num_features, units), "bias": (units,)}
        num_features = units
    return found


def keep(
    fit: restore.RestoredWeights,
    weights: named_weights.Weights,
    features: Sequence[str],
    *,
    pooling: str,
    hidden: int,
    class_names: Sequence[str],
) -> restore.RestoredWeights:
    """The fit with the file's own head, for the same classes in the same order.

    Args:
        fit: of the layers below.
        weights: that it is of.
        features: layers that the head sits on.
        pooling: of head.choose_pooling.
        hidden: units of the layer below the final one; 0 if there is none.
        class_names: of the data, in label order.

    Raises:
        errors.MismatchedCheckpoint: the file has no such head, or one for others.
    """
    _check_same(weights, features, class_names)
    seen = head.num_features(fit.network, fit.spec, features, pooling)
    wanted = shapes(seen, hidden, len(class_names))
    tensors = weights.checkpoint.tensors
    values: dict[str, dict[str, np.ndarray]] = {}
    entries = {entry.tensor: entry for entry in fit.entries}
    for layer, variables in wanted.items():
        for variable, shape in variables.items():
            name = f"{layer}/{variable}"
            tensor = tensors.get(name)
            if tensor is None or tensor.shape != shape or not restore.is_float(tensor):
                has = "none" if tensor is None else f"{list(tensor.shape)}"
                raise errors.MismatchedCheckpoint(
                    f"--keep_head: expected {name} of {list(shape)} in {weights.path}, "
                    f"found {has}; a run of this project has it, with the same "
                    "--features, --pooling, --hidden and classes"
                )
            values.setdefault(layer, {})[variable] = restore.finite_float32(
                tensor, name
            )
            entries[name] = dataclasses.replace(
                entries[name], status="restored", variable=name, shape=shape
            )
    return dataclasses.replace(
        fit,
        values=fit.values | values,
        shapes=fit.shapes | wanted,
        entries=tuple(entries.values()),
    )


def _check_same(
    weights: named_weights.Weights, features: Sequence[str], class_names: Sequence[str]
) -> None:
    """Raises MismatchedCheckpoint for a run's head on other layers or classes."""
    was = seat(weights)
    if was and was.features != ",".join(features):
        raise errors.MismatchedCheckpoint(
            f"--keep_head: in {weights.path} the head sits on {was.features}, here on "
            f"{','.join(features)}; expected the same --features"
        )
    labels = Path(weights.path).with_name("labels.txt")
    if labels.is_file():
        known = labels.read_text("utf-8", errors="surrogateescape").splitlines()
        if known != list(class_names):
            raise errors.MismatchedCheckpoint(
                f"--keep_head: {labels} has the classes {', '.join(known)}, the data "
                f"{', '.join(class_names)}; expected the same in the same order"
            )
