"""Weights and settings -> the network that a training starts from."""

import dataclasses
from collections.abc import Sequence

from model.checkpoints import errors
from model.networks import architecture, composite_layers, head, registry
from model.training import reused_head, settings
from model.weights import named_weights, restore
from pipeline.batches.input_spec import InputSpec
from pipeline.system import command_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """A network, and what of it is restored.

    Attributes:
        network: the architecture.
        spec: of the input.
        features: layers that the new head sits on, from shallow to deep.
        pooling: what it sees of that; see head.choose_pooling.
        train_from: lowest layer that is not restored; the new head if all are.
        fit: what is restored; None for a random start.
        weights: where it comes from; None likewise.
    """

    network: architecture.Network
    spec: InputSpec
    features: tuple[str, ...]
    pooling: str
    train_from: str
    fit: restore.RestoredWeights | None
    weights: named_weights.Weights | None

    def from_scratch(self) -> "Base":
        """The same with random weights, of which the same layers train."""
        return dataclasses.replace(self, fit=None, weights=None)


def choose(config: settings.Config, class_names: Sequence[str]) -> Base:
    """Finds the network of the weights, and says what it found.

    Args:
        config: of the training.
        class_names: of the data, in label order.

    Raises:
        errors.CheckpointError: the weights cannot be used.
    """
    weights = None if config.ckpt == "none" else named_weights.resolve(config.ckpt)
    fit = _fit(config, weights) if weights else None
    chosen = fit.network if fit else registry.by_name(config.arch or "alexnet_owt")
    seat = reused_head.seat(weights) if weights else None
    features = _features(config, chosen, fit, seat)
    if fit:
        fit.require(features[-1])
    spec = fit.spec if fit else config.overrides.apply(chosen.input_spec)
    wanted = config.pooling
    if seat and config.keep_head and wanted == "auto":
        wanted = seat.pooling
    pooling = head.choose_pooling(chosen, spec, features, wanted)
    if fit and weights and config.keep_head:
        fit = reused_head.keep(
            fit,
            weights,
            features,
            pooling=pooling,
            hidden=config.hidden,
            class_names=class_names,
        )
    if fit:
        _note_unused(fit)
    return Base(
        network=chosen,
        spec=spec,
        features=features,
        pooling=pooling,
        train_from=_lowest_new(chosen, features[-1], fit),
        fit=fit,
        weights=weights,
    )


def _features(
    config: settings.Config,
    chosen: architecture.Network,
    fit: restore.RestoredWeights | None,
    seat: reused_head.Seat | None,
) -> tuple[str, ...]:
    """Layers that the new head sits on, from shallow to deep.

    Those that are asked for; else, of a run, those that its head sat on; else the
    deepest restored, or what is best together with it.

    Raises:
        errors.MismatchedCheckpoint: the network has no such layer, or no head may sit
            there.
    """
    places = chosen.head_positions()
    asked = _names(config.features)
    if seat and not asked and set(_names(seat.features)) <= set(places):
        asked = _names(seat.features)
    if asked:
        if not set(asked) <= set(places):
            raise errors.MismatchedCheckpoint(
                f"--features={config.features}: {chosen.name} has {', '.join(places)}"
            )
        return tuple(name for name in places if name in asked)
    last = fit.deepest_feature() if fit else chosen.features[-1]
    if chosen.combined_features[-1:] == (last,) and config.pooling != "none":
        return chosen.combined_features
    return (last,)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _fit(
    config: settings.Config, weights: named_weights.Weights
) -> restore.RestoredWeights:
    fit = restore.restore_checkpoint(
        weights.checkpoint,
        str(weights.path),
        arch=config.arch,
        skip=tuple(filter(None, config.skip.split(","))),
        overrides=config.overrides,
    )
    command_line.log(
        f"weights: {weights.name} is {weights.variant}, from {weights.path}"
    )
    for line in fit.near_misses():
        command_line.log(f"note: {line}; layers are matched by name")
    return fit


def _note_unused(fit: restore.RestoredWeights) -> None:
    if unused := [e.tensor for e in fit.entries if e.status == "unused"]:
        more = ", ..." * (len(unused) > 3)
        command_line.log(
            f"note: {len(unused)} tensors of the file are not used "
            f"({', '.join(unused[:3])}{more}); ledger.json has all"
        )


def _lowest_new(
    chosen: architecture.Network, last: str, fit: restore.RestoredWeights | None
) -> str:
    """The lowest step up to `last` that is not restored; else the new final layer."""
    for step in chosen.steps():
        layers = composite_layers.weighted_layers(step)
        if layers and not (fit and all(map(fit.is_complete, layers))):
            return str(step.name)
        if step.name == last:
            break
    return head.FINAL_LAYER
