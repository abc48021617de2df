"""Choose the network that a training starts from: weights and settings -> network."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoints import errors
from model.networks import architecture, head
from model.networks.keras_models import from_keras_config
from model.runs import finished_run, run_folder
from model.training import settings
from model.weights import named_weights, restore
from pipeline.batches import image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """A network, and which of its weights are restored."""

    network: architecture.Network  # below the head
    spec: InputSpec
    features: tuple[str, ...]  # layers that the new head sits on, from shallow to deep
    pooling: str  # result of head.choose_pooling
    scaling: str = "none"  # of a kept head, one of head.SCALINGS
    train_from: str  # lowest layer that is not restored, or the final layer
    restored: restore.RestoredWeights | None  # None for a random start
    weights: named_weights.Weights | None  # None for a random start

    @property
    def source(self) -> dict[str, Any]:
        """What identifies the weights, as JSON can hold it."""
        if self.weights is None:
            return {"ckpt": "none"}
        return {
            "ckpt": self.weights.name,
            "variant": self.weights.variant,
            "path": str(self.weights.path),
            "tensors_sha256": self.weights.checkpoint.digest(),
        }

    def describe_weights(self) -> dict[str, Any]:
        """Return all facts about the weight file, as JSON can hold them."""
        if self.weights is None or self.restored is None:
            return self.source
        checkpoint = self.weights.checkpoint
        return self.source | {
            "format": checkpoint.format,
            "metadata": checkpoint.metadata,
            "naming": self.restored.naming.source,
            "set_aside": list(checkpoint.ignored_entries),
        }

    def notes(self) -> list[str]:
        """Return what users may not expect about the restored weights, line by line."""
        if self.restored is None:
            return []
        misses = self.restored.near_misses()
        lines = [f"{line}; layers are matched by name" for line in misses]
        unused = [e.tensor for e in self.restored.entries if e.status == "unused"]
        if unused:
            names = ", ".join(unused[:3]) + ", ..." * (len(unused) > 3)
            lines.append(
                f"tensors of the file that are not used: {len(unused)} ({names}); "
                "ledger.json lists all"
            )
        return lines


def choose(config: settings.Config, records: manifest.Manifest) -> StartingPoint:
    """Find the network of the weights, and restore what fits.

    The preprocessing may be recognised on photos of the records, the training's own.
    """
    # A training starts from the first of these that the flags name:
    # 1. --resume=RUN: the run's last snapshot. `train_run.resume` continues with the
    #    run's settings; layers that have not trained yet come from 2 to 5.
    # 2. --ckpt=RUN/model.keras: a finished run. The new head sits where the run's head
    #    sat; --keep_head restores that head, too.
    # 3. --ckpt=NAME: named weights, which are downloaded once.
    # 4. --ckpt=FILE: a weight file, or the prefix of a TensorFlow checkpoint.
    # 5. --ckpt=none: random weights.
    weights = restored = previous = None
    if config.ckpt == "none":
        network = from_keras_config.by_name_or_file(config.arch or "alexnet_owt")
        spec = network.input_spec
        if spec.is_assumed:  # random weights expect nothing else
            spec = dataclasses.replace(spec, source="usual for the network")
        spec = config.overrides.apply(spec)
    else:
        weights = named_weights.resolve(config.ckpt, arch=config.arch)
        previous = _find_head_position(weights)
        restored = restore.restore_checkpoint(
            weights.checkpoint,
            arch=config.arch,
            skip=tuple(filter(None, config.skip.split(","))),
            overrides=config.overrides,
        )
        restored = restore.recognise_preprocessing(
            restored,
            functools.partial(image_batches.sample, records, records.included("train")),
        )
        network, spec = restored.network, restored.spec
    features = _choose_features(config, network, restored, previous)
    if restored:
        restored.require(features[-1])
    requested = config.pooling
    if previous and config.keep_head and requested == "auto":
        requested = previous.pooling
    solved = any(stage.allows_solver for stage in config.in_stages())
    pooling = head.choose_pooling(network, spec, features, requested, is_solved=solved)
    if weights and restored and config.keep_head:
        names, hidden = records.class_names, config.hidden
        _check_position_and_classes(weights.path, previous, features, names)
        kept = head.HeadPosition(features=features, pooling=pooling, hidden=hidden)
        restored = _restore_head(restored, weights, kept, len(names))
    return StartingPoint(
        network=network,
        spec=spec,
        features=features,
        pooling=pooling,
        scaling=previous.scaling if previous and config.keep_head else "none",
        train_from=_lowest_new(network, features[-1], restored),
        restored=restored,
        weights=weights,
    )


def _choose_features(
    config: settings.Config,
    network: architecture.Network,
    restored: restore.RestoredWeights | None,
    previous: head.HeadPosition | None,
) -> tuple[str, ...]:
    """Return the layers that the new head sits on, from shallow to deep.

    These are the requested ones; else those of the run's head; else the deepest
    restored layer, with others if the network's heads are better on several.
    """
    positions = network.head_positions()
    requested = tuple(filter(None, map(str.strip, config.features.split(","))))
    if previous and not requested and set(previous.features) <= set(positions):
        requested = previous.features
    if requested:
        if not set(requested) <= set(positions):
            raise errors.MismatchedCheckpoint(
                f"--features={config.features}: {network.name} has no such layer for a "
                f"head. Expected one or more of {', '.join(positions)}."
            )
        return tuple(name for name in positions if name in requested)
    deepest = restored.deepest_feature() if restored else network.features[-1]
    if network.combined_features[-1:] == (deepest,) and config.pooling != "none":
        return network.combined_features
    return (deepest,)


def _lowest_new(
    network: architecture.Network, last: str, restored: restore.RestoredWeights | None
) -> str:
    """Return the lowest position up to `last` that is not restored, or the head."""
    for position in network.positions_between(architecture.INPUT, last):
        layers = network.segments()[position]
        if layers and not (restored and all(map(restored.is_complete, layers))):
            return position
    return head.FINAL_LAYER


def _find_head_position(weights: named_weights.Weights) -> head.HeadPosition | None:
    """Return where the head of a run sits; None if the weights are not a run's."""
    path, metadata = weights.path, weights.checkpoint.metadata
    if path.name != run_folder.MODEL_NAME or "features" in metadata:
        return head.HeadPosition.from_json(metadata)
    path = path.with_name(run_folder.CONFIG_NAME)
    try:
        return finished_run.read_json(path, head.HeadPosition.from_json)
    except run_folder.RunError:
        return None  # the file was moved, or the folder is not a run


def _check_position_and_classes(
    path: Path,
    previous: head.HeadPosition | None,
    features: tuple[str, ...],
    class_names: Sequence[str],
) -> None:
    """Refuse a run's head on other layers or classes."""
    if previous and previous.features != features:
        raise errors.MismatchedCheckpoint(
            f"--keep_head: the head of {path} sits on {','.join(previous.features)}, "
            f"the new one on {','.join(features)}. Use the same --features."
        )
    path = path.with_name("labels.txt")
    if path.is_file():
        labels = path.read_text("utf-8", errors="surrogateescape").splitlines()
        if labels != list(class_names):
            raise errors.MismatchedCheckpoint(
                f"--keep_head: the classes of {path} and of the data set differ. "
                f"Expected the same classes in the same order, found "
                f"{', '.join(labels)} and {', '.join(class_names)}."
            )


def _restore_head(
    restored: restore.RestoredWeights,
    weights: named_weights.Weights,
    position: head.HeadPosition,
    num_classes: int,
) -> restore.RestoredWeights:
    """Return the restored weights together with those of the file's head."""
    tensors, spec = weights.checkpoint.tensors, restored.spec
    whole = head.attach(restored.network, spec, position)
    of_whole = whole.variable_shapes(spec, num_classes)
    shapes = {n: of_whole[n] for n in head.weighted_layers(position.hidden)}
    values: dict[str, dict[str, np.ndarray]] = {}
    entries = {entry.tensor: entry for entry in restored.entries}
    for layer, variables in shapes.items():
        values[layer] = {}
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
            values[layer][variable] = restore.finite_float32(tensor, name)
            entries[name] = dataclasses.replace(
                entries[name], status="restored", variable=name, shape=shape
            )
    return dataclasses.replace(
        restored,
        values=restored.values | values,
        shapes=restored.shapes | shapes,
        entries=tuple(entries.values()),
    )
