"""Plan the stages of a training: which layers train, at which rate, for how long.

In each stage a network is cut into a frozen trunk and a trained tail.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Sequence

from model.checkpoints import errors
from model.loop import optimization
from model.networks import architecture, head, layers
from model.networks.architecture import Network
from model.training import head_solver, settings
from model.training.settings import Config
from model.training.starting_point import StartingPoint
from pipeline.batches.input_spec import InputSpec
from pipeline.system import config_flags
from pipeline.system.errors import UsageError

# Default dropout before the final layer: for a head that sees all numbers of a layer,
# and for one that sees few. On flower photos of 288 pixels, a head on AlexNet's 256
# channel means did not even fit its training photos with 0.5 (loss 0.42 after 40
# epochs).
_DROPOUT_OF_ALL, _DROPOUT_OF_FEW = 0.5, 0.1
# From here on, mirror images hardly help a head that is solved: in five folds, accuracy
# was 87.2 instead of 87.1 % for 1,127 flowers, but 40.3 instead of 38.4 % for 315 bees.
_MANY_PHOTOS = 500
MOST_SOLVED_BYTES = 4 << 30  # of features on which a head is solved


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagePlan:
    """A network with a new final layer, and where a stage cuts it."""

    network: Network
    spec: InputSpec
    features: tuple[str, ...]  # layers that the new head sits on, shallow to deep
    train_from: str  # lowest layer that trains: the final layer or one below it
    cut: str  # the frozen trunk ends here; architecture.INPUT if it is empty
    num_classes: int
    dropout: float  # share of the final layer's input dropped in training, 0..1
    seed: int  # of new kernels and of dropout
    pooling: str = "none"  # result of head.choose_pooling
    hidden: int = 0  # units of a layer before the final one; 0 for none
    frozen: frozenset[str] = frozenset()  # layers above the cut that do not train
    scaling: str = "none"  # of the head's features, one of head.SCALINGS

    @property
    def num_features(self) -> int:
        """How many numbers of a photo the new head sees."""
        return head.num_features(self.network, self.spec, self.features, self.pooling)

    @property
    def trunk_pools(self) -> bool:
        """Whether the frozen trunk computes all that a pooling head sees."""
        return self.pooling != "none" and self.cut == self.features[-1]

    @property
    def trunk_output(self) -> str:
        """Name of what the trunk computes: the cut layer, or pooled features."""
        if self.trunk_pools:
            return head.pooled_name(self.features, self.pooling, self.scaling)
        return self.cut

    @property
    def frozen_layers(self) -> frozenset[str]:
        """Layers below the head that do not train."""
        if self.cut == architecture.INPUT:
            return self.frozen
        return self.frozen.union(self.network.weighted_layers(self.cut))

    def trains(self, layer_name: str) -> bool:
        """Return whether a layer above the cut trains."""
        return layers.whole_name(layer_name) not in self.frozen

    def describe(self) -> str:
        """Return which layers train, in words."""
        if self.train_from == head.FINAL_LAYER:
            return f"the head ({', '.join(head.weighted_layers(self.hidden))})"
        if self.cut == architecture.INPUT and not self.frozen:
            return "all layers"
        normal = self.frozen & batch_normalisations(self.network, self.spec)
        frozen = sorted(self.frozen - normal) + ["batch normalisation"] * bool(normal)
        text = f"; frozen: {', '.join(frozen)}" * bool(frozen)
        return f"{self.train_from} and the layers above it{text}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a training: settings, cut network and length."""

    config: Config
    plan: StagePlan
    num_training: int  # photos
    # Flags because of which the head is trained by steps, although it could be solved.
    step_flags: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Name of the stage; "" if the training has one alone."""
        return self.config.stage

    @property
    def is_cached(self) -> bool:
        """Whether the stage trains on cached features of its trunk."""
        return self.plan.cut != architecture.INPUT and self.config.num_views > 0

    @property
    def is_solved(self) -> bool:
        """Whether the final layer is solved, instead of trained by steps."""
        return self.config.learning.optimizer == optimization.SOLVER

    @property
    def base_rate(self) -> float:
        """Learning rate that the schedule scales."""
        return self.config.learning_rate or self.default_rate

    @property
    def default_rate(self) -> float:
        """Learning rate that the schedule scales if the settings give none."""
        if self.plan.train_from != head.FINAL_LAYER:
            return optimization.suitable_rate(0)
        kinds = len(self.plan.features) * head.numbers_per_channel(self.plan.pooling)
        return optimization.suitable_rate(self.plan.num_features // kinds)

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of an epoch, the last of them perhaps on fewer photos."""
        if self.is_solved:
            return 1
        batches = math.ceil(self.num_training / self.config.batch_size)
        return math.ceil(batches / self.config.learning.iter_size)

    @property
    def steps(self) -> int:
        """Number of steps, if the stage is not stopped early."""
        return self.config.steps or self.epochs * self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Number of epochs, if it is not stopped early; the last may be incomplete."""
        if self.is_solved:
            return len(head_solver.PENALTIES)
        if self.config.steps:
            return math.ceil(self.config.steps / self.steps_per_epoch)
        return self.config.epochs or settings.DEFAULT_EPOCHS

    @property
    def photos(self) -> int:
        """Number of photos of all steps; each counts once per epoch."""
        epochs, left = divmod(self.steps, self.steps_per_epoch)
        in_epoch = left * self.config.learning.iter_size * self.config.batch_size
        return epochs * self.num_training + in_epoch


def plan_stages(
    start: StartingPoint, config: Config, *, num_classes: int, num_training: int
) -> list[Stage]:
    """Plan all stages of a training on `num_training` photos."""
    planned = [
        _plan_learning(each, plan_stage(start, each, num_classes), num_training)
        for each in config.in_stages()
    ]
    scaling = start.scaling
    if scaling == "none" and any(stage.is_solved for stage in planned):
        # The head's in all stages.
        scaling = head.choose_scaling(start.network, start.features, start.pooling)
    for number, stage in enumerate(planned):
        dropout = 0.0 if stage.is_solved else stage.plan.dropout
        plan = dataclasses.replace(stage.plan, scaling=scaling, dropout=dropout)
        planned[number] = dataclasses.replace(stage, plan=plan)
    return planned


def _plan_learning(config: Config, plan: StagePlan, num_training: int) -> Stage:
    """Return a stage, with its optimizer chosen if the settings leave that open.

    The final layer can be solved if it alone trains, on cached features, and if no
    setting is about steps.
    """
    requested = config.learning.optimizer
    step_flags = config.step_flags()
    table_bytes = 4 * num_training * max(config.num_views, 1) * plan.num_features
    reasons = []
    if plan.train_from != head.FINAL_LAYER:
        reasons.append(f"{plan.train_from} trains as well")
    elif plan.cut == architecture.INPUT or not config.num_views:
        reasons.append("no features are cached")
    elif table_bytes > MOST_SOLVED_BYTES:
        reasons.append(f"the features take {table_bytes / 1e9:.1f} GB of memory")
    is_solvable = requested == "auto" and not reasons
    reasons += [f"{flag} is given" for flag in step_flags]
    if requested == optimization.SOLVER and reasons:
        raise UsageError(
            f"--optimizer={requested}: solves a linear head on cached features, but "
            f"{reasons[0]}. Choose another optimizer, such as adam, or remove that "
            "setting."
        )
    if requested == "auto":
        config = config.with_optimizer("adam" if reasons else optimization.SOLVER)
    stage = Stage(
        config=config,
        plan=plan,
        num_training=num_training,
        step_flags=step_flags if is_solvable else (),
    )
    if stage.is_solved and config.views < 0 and num_training >= _MANY_PHOTOS:
        return dataclasses.replace(stage, config=dataclasses.replace(config, views=1))
    return stage


def plan_stage(start: StartingPoint, config: Config, num_classes: int) -> StagePlan:
    """Plan where a stage cuts the network."""
    train_from = config.train_from or start.train_from
    frozen: frozenset[str] = frozenset()
    if config.train:
        train_from, frozen = _match_patterns(start, config)
    elif start.restored:
        # With the statistics of batches of 32, a head that was right for 97 % of its
        # training flowers was right for 84 %, before any weight had changed.
        normal = batch_normalisations(start.network, start.spec)
        frozen = frozenset(filter(start.restored.is_complete, normal))
    cut = cut_below(start.network, train_from, start.features)
    if train_from != head.FINAL_LAYER:
        lowest = lowest_segment(start.network, train_from, start.features)
        below = start.network.weighted_layers(lowest, after=cut)
        frozen |= {*below} - {*start.network.segments()[lowest]}
    if cut != architecture.INPUT:
        frozen -= set(start.network.weighted_layers(cut))
    sees_few = start.pooling != "none" and not config.hidden
    dropout = _DROPOUT_OF_FEW if sees_few else _DROPOUT_OF_ALL
    return StagePlan(
        network=start.network,
        spec=start.spec,
        features=start.features,
        train_from=train_from,
        cut=cut,
        num_classes=num_classes,
        dropout=dropout if config.dropout < 0 else config.dropout,
        seed=config.seed,
        pooling=start.pooling,
        hidden=config.hidden,
        frozen=frozen,
    )


def batch_normalisations(network: Network, spec: InputSpec) -> frozenset[str]:
    """Return the layers that normalise by statistics of the training photos."""
    shapes = network.variable_shapes(spec)
    return frozenset(name for name in shapes if "moving_mean" in shapes[name])


def _match_patterns(start: StartingPoint, config: Config) -> tuple[str, frozenset[str]]:
    """Return the lowest step that --train names, and layers above it that it omits."""
    patterns = [pattern.strip() for pattern in config.train.split(",")]
    positions = start.network.positions_between(architecture.INPUT, start.features[-1])
    segments = start.network.segments()
    segment_of = {layer: name for name in positions for layer in segments[name]}
    segment_of |= {name: name for name in head.weighted_layers(config.hidden)}

    def is_named(layer: str, pattern: str) -> bool:
        names = layer, segment_of[layer]
        return any(
            fnmatch.fnmatchcase(n, p) for n in names for p in (pattern, f"{pattern}_*")
        )

    for pattern in patterns:
        if not any(is_named(layer, pattern) for layer in segment_of):
            known = sorted({*segment_of, *segment_of.values()})
            raise errors.MismatchedCheckpoint(
                f"--train: {pattern} fits no layer up to the new head. Expected "
                f"{config_flags.suggestion(pattern, known)}"
            )
    trained = [n for n in segment_of if any(is_named(n, p) for p in patterns)]
    frozen = segment_of.keys() - trained
    lowest = segment_of[trained[0]]
    if lowest == head.HIDDEN_LAYER:
        lowest = head.FINAL_LAYER
    return lowest, frozenset(frozen)


def cut_below(network: Network, train_from: str, features: Sequence[str]) -> str:
    """Return the position below `train_from`, or architecture.INPUT.

    If the head sits on several layers and not all of them are frozen, the cut lies no
    higher than the first of them, so that the tail computes all that the head sees.
    """
    if train_from == head.FINAL_LAYER:
        return features[-1]
    lowest = lowest_segment(network, train_from, features)
    names = network.positions()
    if lowest == next(name for name in names if network.segments()[name]):
        return architecture.INPUT
    # Dropout in front of a trained layer belongs to the tail.
    cut = names.index(lowest) - 1
    while network.is_random(names[cut]):
        cut -= 1
    return names[min(cut, names.index(features[0]))]


def lowest_segment(network: Network, train_from: str, features: Sequence[str]) -> str:
    """Return the position whose layers are the lowest that train.

    `train_from` names the position, the first of its layers, or what the names of
    several layers begin with, such as block_15 for block_15_expand_conv.
    """
    segments = network.segments()
    positions = network.positions_between(architecture.INPUT, features[-1])
    if segments.get(train_from) and train_from in positions:
        return train_from
    for position in positions:
        is_named = [f"{n}_".startswith(f"{train_from}_") for n in segments[position]]
        if is_named[:1] == [True]:
            return position
        if any(is_named):
            raise errors.MismatchedCheckpoint(
                f"--train_from={train_from}: lies in a part of {network.name} that "
                "branches, where training cannot start. Expected a layer that lies on "
                f"all paths; the nearest is {segments[position][0]}."
            )
    starts = [segments[name][0] for name in positions if segments[name]]
    raise errors.MismatchedCheckpoint(
        f"--train_from={train_from}: {network.name} has no such layer below its "
        "head. Expected "
        + config_flags.suggestion(train_from, [*starts, head.FINAL_LAYER])
        + "."
    )
