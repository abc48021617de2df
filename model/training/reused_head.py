"""Restore the head of a former run, for a run on the same classes."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.checkpoints import errors
from model.networks import head
from model.runs import run_folder
from model.weights import named_weights, restore


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadPosition:
    """Where the head of a run sits.

    Attributes:
        features: Names of the layers below the head, with commas.
        pooling: Result of head.choose_pooling.
    """

    features: str
    pooling: str


def find_position(weights: named_weights.Weights) -> HeadPosition | None:
    """Return where the head of a run sits; None if the weights are not a run's."""
    path = Path(weights.path)
    if path.name != run_folder.MODEL_NAME:
        return None
    try:
        text = path.with_name(run_folder.CONFIG_NAME).read_text(encoding="utf-8")
        config = json.loads(text)
        features, pooling = config["features"], config.get("pooling", "none")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # the file was moved, or the folder is not a run
    except RecursionError:
        return None  # deeply nested JSON, which no run has
    if not isinstance(features, str) or pooling not in head.POOLINGS:
        return None
    return HeadPosition(features=features, pooling=pooling)


def shapes(
    num_features: int, hidden: int, num_classes: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return {layer: {variable: shape}} of a head.

    Args:
        num_features: Number of features that the head sees.
        hidden: Units of the layer below the final one; 0 for none.
        num_classes: Number of classes of the final layer.
    """
    sizes = [(head.HIDDEN_LAYER, hidden)] * bool(hidden)
    sizes.append((head.FINAL_LAYER, num_classes))
    layers = {}
    for layer, units in sizes:
        layers[layer] = {"kernel": (num_features, units), "bias": (units,)}
        num_features = units
    return layers


def restore_head(
    restored: restore.RestoredWeights,
    weights: named_weights.Weights,
    features: Sequence[str],
    *,
    pooling: str,
    hidden: int,
    class_names: Sequence[str],
) -> restore.RestoredWeights:
    """Return the restored weights together with those of the file's head.

    Args:
        restored: Restored weights of the layers below the head.
        weights: File that they come from.
        features: Layers that the head sits on.
        pooling: Result of head.choose_pooling.
        hidden: Units of the layer below the final one; 0 for none.
        class_names: Names of the data set's classes, in label order.

    Raises:
        errors.MismatchedCheckpoint: The file has no head, or one for other layers or
            classes.
    """
    _check_position_and_classes(weights, features, class_names)
    num_features = head.num_features(restored.network, restored.spec, features, pooling)
    expected = shapes(num_features, hidden, len(class_names))
    tensors = weights.checkpoint.tensors
    values: dict[str, dict[str, np.ndarray]] = {}
    entries = {entry.tensor: entry for entry in restored.entries}
    for layer, variables in expected.items():
        for variable, shape in variables.items():
            name = f"{layer}/{variable}"
            tensor = tensors.get(name)
            if tensor is None or tensor.shape != shape or not restore.is_float(tensor):
                has = "none" if tensor is None else f"{list(tensor.shape)}"
                raise errors.MismatchedCheckpoint(
                    f"--keep_head: {weights.path} does not hold this head. Expected "
                    f"{name} of {list(shape)}, found {has}. Use the model.keras of a "
                    "run with the same --features, --pooling, --hidden and classes."
                )
            values.setdefault(layer, {})[variable] = restore.finite_float32(
                tensor, name
            )
            entries[name] = dataclasses.replace(
                entries[name], status="restored", variable=name, shape=shape
            )
    return dataclasses.replace(
        restored,
        values=restored.values | values,
        shapes=restored.shapes | expected,
        entries=tuple(entries.values()),
    )


def _check_position_and_classes(
    weights: named_weights.Weights, features: Sequence[str], class_names: Sequence[str]
) -> None:
    """Raises MismatchedCheckpoint for a run's head on other layers or classes."""
    position = find_position(weights)
    if position and position.features != ",".join(features):
        raise errors.MismatchedCheckpoint(
            f"--keep_head: the head of {weights.path} sits on {position.features}, the "
            f"new one on {','.join(features)}. Use the same --features."
        )
    path = Path(weights.path).with_name("labels.txt")
    if path.is_file():
        labels = path.read_text("utf-8", errors="surrogateescape").splitlines()
        if labels != list(class_names):
            raise errors.MismatchedCheckpoint(
                f"--keep_head: the classes of {path} and of the data set differ. "
                f"Expected the same classes in the same order, found "
                f"{', '.join(labels)} and {', '.join(class_names)}."
            )
