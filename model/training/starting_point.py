"""Choose the network that a training starts from: weights and settings -> network."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from model.checkpoints import errors
from model.networks import architecture, composite_layers, head, registry
from model.training import reused_head, settings
from model.weights import named_weights, restore
from pipeline.batches.input_spec import InputSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """A network, and which of its weights are restored.

    Attributes:
        network: Architecture below the head.
        spec: Preprocessing of the network's input.
        features: Layers that the new head sits on, from shallow to deep.
        pooling: Result of head.choose_pooling.
        train_from: Lowest layer that is not restored; the final layer if all are.
        restored: Restored weights; None for a random start.
        weights: File that the weights come from; None for a random start.
    """

    network: architecture.Network
    spec: InputSpec
    features: tuple[str, ...]
    pooling: str
    train_from: str
    restored: restore.RestoredWeights | None
    weights: named_weights.Weights | None

    def from_scratch(self) -> "StartingPoint":
        """Return the same network with random weights; the same layers train."""
        return dataclasses.replace(self, restored=None, weights=None)

    def describe_weights(self) -> dict[str, Any]:
        """Return facts about the weight file, as JSON can hold them."""
        if self.weights is None or self.restored is None:
            return {"ckpt": "none"}
        checkpoint = self.weights.checkpoint
        return {
            "ckpt": self.weights.name,
            "variant": self.weights.variant,
            "path": str(self.weights.path),
            "tensors_sha256": checkpoint.digest(),
            "format": checkpoint.format,
            "metadata": checkpoint.metadata,
            "naming": self.restored.naming.source,
            "set_aside": list(checkpoint.ignored_entries),
        }

    def notes(self) -> list[str]:
        """Return what users may not expect about the restored weights, line by line."""
        if self.restored is None:
            return []
        lines = [
            f"{line}; layers are matched by name"
            for line in self.restored.near_misses()
        ]
        unused = [e.tensor for e in self.restored.entries if e.status == "unused"]
        if unused:
            names = ", ".join(unused[:3]) + ", ..." * (len(unused) > 3)
            lines.append(
                f"{len(unused)} tensors of the file are not used ({names}); "
                "ledger.json lists all"
            )
        return lines


def choose(config: settings.Config, class_names: Sequence[str]) -> StartingPoint:
    """Find the network of the weights, and restore what fits.

    Args:
        config: Settings of the training.
        class_names: Names of the data set's classes, in label order.

    Raises:
        errors.CheckpointError: The weights cannot be used.
    """
    # A training starts from the first of these that the flags name:
    # 1. --resume=RUN: the run's last snapshot. `train_run.resume` continues with the
    #    run's settings; layers that have not trained yet come from 2 to 5.
    # 2. --ckpt=RUN/model.keras: a finished run. The new head sits where the run's head
    #    sat; --keep_head restores that head, too.
    # 3. --ckpt=NAME: named weights, which are downloaded once.
    # 4. --ckpt=FILE: a weight file, or the prefix of a TensorFlow checkpoint.
    # 5. --ckpt=none: random weights.
    weights = None if config.ckpt == "none" else named_weights.resolve(config.ckpt)
    restored = _restore(config, weights) if weights else None
    if restored:
        network, spec = restored.network, restored.spec
    else:
        network = registry.by_name(config.arch or "alexnet_owt")
        spec = config.overrides.apply(network.input_spec)
    previous = reused_head.find_position(weights) if weights else None
    features = _choose_features(config, network, restored, previous)
    if restored:
        restored.require(features[-1])
    requested = config.pooling
    if previous and config.keep_head and requested == "auto":
        requested = previous.pooling
    pooling = head.choose_pooling(network, spec, features, requested)
    if restored and weights and config.keep_head:
        restored = reused_head.restore_head(
            restored,
            weights,
            features,
            pooling=pooling,
            hidden=config.hidden,
            class_names=class_names,
        )
    return StartingPoint(
        network=network,
        spec=spec,
        features=features,
        pooling=pooling,
        train_from=_lowest_new(network, features[-1], restored),
        restored=restored,
        weights=weights,
    )


def _restore(
    config: settings.Config, weights: named_weights.Weights
) -> restore.RestoredWeights:
    return restore.restore_checkpoint(
        weights.checkpoint,
        str(weights.path),
        arch=config.arch,
        skip=tuple(filter(None, config.skip.split(","))),
        overrides=config.overrides,
    )


def _choose_features(
    config: settings.Config,
    network: architecture.Network,
    restored: restore.RestoredWeights | None,
    previous: reused_head.HeadPosition | None,
) -> tuple[str, ...]:
    """Return the layers that the new head sits on, from shallow to deep.

    These are the requested ones; else those of the run's head; else the deepest
    restored layer, with others if the network's heads are better on several.

    Raises:
        errors.MismatchedCheckpoint: The network has no such layer, or no head can sit
            there.
    """
    positions = network.head_positions()
    requested = _split(config.features)
    if previous and not requested and set(_split(previous.features)) <= {*positions}:
        requested = _split(previous.features)
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


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _lowest_new(
    network: architecture.Network, last: str, restored: restore.RestoredWeights | None
) -> str:
    """Return the lowest step up to `last` that is not restored, or the final layer."""
    for step in network.steps():
        layers = composite_layers.weighted_layers(step)
        if layers and not (restored and all(map(restored.is_complete, layers))):
            return str(step.name)
        if step.name == last:
            break
    return head.FINAL_LAYER
