"""Settings of a training: from flags, from a recipe, and as a run folder keeps them."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import app, flags

from model.loop import device, optimization
from model.networks import head, registry
from model.training import recipe
from model.weights import named_weights, preprocessing_overrides
from pipeline.batches import random_augmentation
from pipeline.system import absl_flags, config_flags
from pipeline.system.errors import DataError

COMPARISONS = ("none", "scratch")
STARTS = ("best", "last")
_AUTO_VIEWS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a training; each is a flag of that name, and a key of a recipe.

    Attributes:
        ckpt: name or path of the weights to start from; "none" for a random start.
        data: folder of records and manifest.
        run_dir: folder of the new run; "" for one named by time and weights.
        arch: network that the weights belong to; "" to find it.
        skip: layers not to restore although the file has them, with commas.
        overrides: of the preprocessing.
        features: layers the new head sits on, with commas; "" for the deepest restored,
            with those of which it sees the means beside it best.
        pooling: one of head.POOLINGS: "average" shows the head the mean of each
            channel over the photo, not every place of the layer it sits on;
            "statistics" its standard deviation, too; "auto": the mean, where the layer
            has places.
        hidden: units of a layer between it and the final one; 0 for none.
        keep_head: takes the head from the weights too, which are those of a run.
        dropout: share of what the final layer sees that is dropped in training, 0..1;
            -1: 0.5, or 0.1 of the few numbers that channels are on the whole.
        precision: of the network's layers; one of device.PRECISIONS.
        seed: of order, dropout, new weights and windows.
        seeds: trainings that differ in their seed: this one, the next ones.
        folds: trainings that each leave out another of so many folds for testing; 0:
            one training on the split of the records.
        compare: "scratch" trains the same network from a random start beside it.
        snapshot_minutes: between two snapshots that a training can be resumed from.
        snapshot_steps: likewise, in steps; 0: by time alone.
        snapshots_kept: so many of the last, at least 1.
        stage: what this part of the training is called.
        start: which weights of the stage before it starts from; one of STARTS.
        train_from: lowest layer that trains; "" for the new head alone, or for all of a
            random start.
        train: names of the layers that train, with * and commas; "" for all from
            `train_from` on.
        views: windows of each photo of which features are cached; 0 computes the whole
            network in every epoch, each time with new random windows; -1: 2,
            or 0 where photos are augmented.
        epochs: passes over the training split.
        steps: after so many it ends, at any place in an epoch; 0: by `epochs` alone.
        batch_size: photos per step.
        learning_rate: the base rate. 0: what suits the number of features that the new
            final layer sees.
        learning: how it learns.
        augmentation: what else is random about the training photos.
        stages: parts of the training, one after the other; each says which of the
            settings from `stage` on are others than here.
    """

    ckpt: str = "alexnet"
    data: str = "tfrecords"
    run_dir: str = ""
    arch: str = ""
    skip: str = ""
    overrides: preprocessing_overrides.Overrides = preprocessing_overrides.AS_WEIGHTS
    features: str = ""
    pooling: str = "auto"
    hidden: int = 0
    keep_head: bool = False
    dropout: float = -1.0
    precision: str = "auto"
    seed: int = 0
    seeds: int = 1
    folds: int = 0
    compare: str = "none"
    snapshot_minutes: float = 10.0
    snapshot_steps: int = 0
    snapshots_kept: int = 2
    stage: str = ""
    start: str = "best"
    train_from: str = ""
    train: str = ""
    views: int = -1
    epochs: int = 30
    steps: int = 0
    batch_size: int = 64
    learning_rate: float = 0.0
    learning: optimization.Settings = optimization.DEFAULTS
    augmentation: random_augmentation.Augmentation = random_augmentation.NONE
    stages: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            absl_flags.check_choice(name, getattr(self, name), choices)
        for name, least, most in (
            ("hidden", 0, 1 << 16),
            ("seed", 0, (1 << 31) - 1),
            ("seeds", 1, 1000),
            ("folds", 0, 1000),
            ("snapshot_steps", 0, math.inf),
            ("snapshots_kept", 1, 1000),
            ("views", -1, 1000),
            ("epochs", 1, math.inf),
            ("steps", 0, math.inf),
            ("batch_size", 1, 1 << 14),
            ("learning_rate", 0, math.inf),
        ):
            value = getattr(self, name)
            if not least <= value <= most or not math.isfinite(value):
                raise ValueError(
                    f"--{name}={value}: expected {least} "
                    + (f"to {most}" if math.isfinite(most) else "or more")
                )
        self._check_together()
        if self.stages:
            self.in_stages()  # which checks them

    def _check_together(self) -> None:
        """Raises ValueError for settings that exclude each other."""
        if not (0 <= self.dropout < 1 or self.dropout == -1):
            raise ValueError(
                f"--dropout={self.dropout}: expected 0 or more, below 1, or -1"
            )
        if not 0 < self.snapshot_minutes < math.inf:
            raise ValueError(
                f"--snapshot_minutes={self.snapshot_minutes}: expected above 0"
            )
        if self.folds == 1 or (self.folds and self.seeds > 1):
            raise ValueError(
                f"--folds={self.folds}, --seeds={self.seeds}: expected one of them, "
                "2 or more"
            )
        if self.views > 0 and self.augmentation.active:
            raise ValueError(
                f"--views={self.views}: cached features are of photos as they are; "
                "augmentation needs --views=0"
            )
        if not self.augmentation.mirror and self.views > 1:
            raise ValueError("--nomirror: expected --views=0 or 1")
        if self.train and self.train_from:
            raise ValueError(
                "--train and --train_from both say which layers train; expected one"
            )
        of_weights = ("keep_head", "skip", "compare")
        given = [n for n in of_weights if getattr(self, n) not in (False, "", "none")]
        if self.ckpt == "none" and given:
            raise ValueError(
                f"--{given[0]}: says what to do with weights; expected them by --ckpt"
            )
        if self.start != "best" and not (self.stages or self.stage):
            raise ValueError(
                f"--start={self.start}: says how a stage goes on from the one before; "
                "expected a recipe with stages"
            )

    @property
    def num_views(self) -> int:
        """Windows of each photo of which features are cached; 0: none are."""
        if self.views >= 0:
            return self.views
        if self.augmentation.active:
            return 0
        return _AUTO_VIEWS if self.augmentation.mirror else 1

    def in_stages(self) -> tuple["Config", ...]:
        """The settings of each stage; without stages the training is one.

        Raises:
            ValueError: a stage's settings do not go together.
        """
        if not self.stages:
            return (self,)
        found = []
        for number, changes in enumerate(self.stages, start=1):
            whole = dataclasses.replace(self, stages=())
            named = {"stage": f"stage {number}", **changes}
            try:
                found.append(_changed(whole, named))
                if len(self.stages) == 1 and found[0].start != "best":
                    raise ValueError(
                        f"--start={found[0].start}: there is no stage before it to "
                        "start from"
                    )
            except ValueError as error:
                raise ValueError(f"{named['stage']}: {error}") from error
        return tuple(found)


# Flags that are no settings.
MODES = ("recipe", "plan", "find_rate", "resume")
_GROUPS: dict[str, Any] = {
    "overrides": preprocessing_overrides.Overrides,
    "learning": optimization.Settings,
    "augmentation": random_augmentation.Augmentation,
}
_LEARNING_HELP = {
    name: described.help
    for name, described in config_flags.settings_of(optimization.Settings).items()
}
_HELP_OF_GROUPS = (
    preprocessing_overrides.HELP | _LEARNING_HELP | random_augmentation.HELP
)
_OF_STAGES = {
    "stage",
    "start",
    "train_from",
    "train",
    "views",
    "epochs",
    "steps",
    "batch_size",
    "learning_rate",
    *_LEARNING_HELP,
    *random_augmentation.HELP,
}
_CHOICES = {
    "pooling": head.POOLINGS,
    "precision": device.PRECISIONS,
    "compare": COMPARISONS,
    "start": STARTS,
}
_HELP = {
    "ckpt": f"Weights to start from: {', '.join(named_weights.NAMES)}, "
    "the path of a weight file or TensorFlow checkpoint, or none.",
    "data": "Folder of records, from convert.",
    "run_dir": "Folder of the run; by default runs/<time>-<ckpt>. Beside it: cache/ "
    "with features, and latest, a link to the newest run.",
    "arch": f"Network that the weights belong to: {', '.join(registry.NETWORKS)}; by "
    "default found by names and shapes.",
    "skip": "Layers not to restore although the file has them, as fc6,fc7.",
    "features": "Layer the new head sits on, as pool5, fc6, fc7, or several, as "
    "conv3,conv4,pool5, whose channels it sees on the whole; by default the deepest "
    "that was restored, with those that help it.",
    "pooling": "What the new head sees of a layer with places: the mean of each "
    "channel (average, and auto), its standard deviation too (statistics), or all of "
    "it (none).",
    "hidden": "Units of a ReLU layer between it and the final layer; 0: none.",
    "keep_head": "Takes the head from --ckpt too: a run of this project, on the same "
    "classes.",
    "dropout": "Share of what the final layer sees that is dropped in training, 0..1; "
    "-1: 0.5, or 0.1 where it sees channels on the whole.",
    "precision": "Of the network's layers; auto: bfloat16 or float16 where the "
    "hardware has it.",
    "seed": "Of order, new weights, dropout, windows and augmentation.",
    "seeds": "Trains so often, with this seed and the next ones; reports the spread.",
    "folds": "Trains so often, each time with another fold for testing, and tests each "
    "photo once; 0: once, on the records' own split.",
    "compare": "scratch: trains the same network from a random start too, on the same "
    "batches.",
    "snapshot_minutes": "Between two snapshots, from which --resume goes on.",
    "snapshot_steps": "The same in steps; 0: by time alone.",
    "snapshots_kept": "How many of the last snapshots stay.",
    "stage": "What the training is called in its log.",
    "start": "Which weights of the stage before a stage starts from.",
    "train_from": "Lowest layer that trains, as conv5; by default the new head alone.",
    "train": "Layers that train, as block5_*,logits; by default all from --train_from.",
    "views": "Windows of each photo whose features are cached: the central one, the "
    "same mirrored, then random ones. 0: new random windows in every epoch, uncached. "
    f"-1: {_AUTO_VIEWS}, or 0 with augmentation.",
    "epochs": "Passes over the training photos.",
    "steps": "Training ends after so many steps; 0: after --epochs.",
    "batch_size": "Photos per step.",
    "learning_rate": "The base rate. 0: as suits Adam and the number of features that "
    "the new final layer sees; the less, the higher.",
}


def _changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """The settings with some of them changed, those in groups among them."""
    own = {name: value for name, value in changes.items() if name in _HELP}
    for group, kind in _GROUPS.items():
        names = {field.name for field in dataclasses.fields(kind)} & changes.keys()
        if names:
            inner = {name: changes[name] for name in names}
            own[group] = dataclasses.replace(getattr(config, group), **inner)
    return dataclasses.replace(config, **own)


def define_flags() -> None:
    """Declares train.py's flags; defaults are those of Config."""
    absl_flags.define(Config, _HELP, _CHOICES)
    preprocessing_overrides.define_flags()
    flags.adopt_module_key_flags(preprocessing_overrides)  # so that --help shows them
    absl_flags.define(optimization.Settings, _LEARNING_HELP)
    absl_flags.define(random_augmentation.Augmentation, random_augmentation.HELP)
    flags.DEFINE_string("recipe", "", "File of settings; flags override it.")
    flags.DEFINE_bool(
        "plan", False, "Only says what trains, for how long, and in how much memory."
    )
    flags.DEFINE_bool(
        "find_rate", False, "Only tries which learning rate suits the first stage."
    )
    flags.DEFINE_string(
        "resume", "", "Run folder whose training goes on where it was stopped."
    )


def from_flags() -> Config:
    """What flags and recipe say; a flag that is given holds in all stages.

    What holds in all stages is checked as part of each, for alone it need not go
    together: a momentum is for the stages' optimizers.

    Raises:
        app.UsageError: the flags do not go together.
        DataError: the recipe cannot be read, or its settings do not go together.
    """
    names = {*_HELP, *_HELP_OF_GROUPS}
    path = flags.FLAGS.recipe
    written = _read_recipe(Path(path)) if path else recipe.Recipe()
    given = absl_flags.given(names)
    try:
        found = absl_flags.values(names)
        flagged = {name: found[name] for name in given}
        for one in (flagged, written.values, *written.stages):
            if "epochs" in one and one.get("steps"):
                raise ValueError(
                    f"--steps={one['steps']}, --epochs={one['epochs']}: both say when "
                    "training ends; expected one of them"
                )
        if not written.stages:
            return _changed(Config(), _overridden(found, written.values, flagged))
        everywhere, whole = _parted(written.values)
        in_stages, of_whole = _parted(flagged)
        stages = tuple(
            _overridden(everywhere, stage, in_stages) for stage in written.stages
        )
        return dataclasses.replace(_changed(Config(), whole | of_whole), stages=stages)
    except ValueError as error:
        if path and not given:
            raise DataError(f"{path}: {error}") from error
        raise app.UsageError(str(error)) from error


def _overridden(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of which the later ones hold; an end in epochs replaces one in steps."""
    found: dict[str, Any] = {}
    for layer in layers:
        if "epochs" in layer and "steps" in found:
            found["steps"] = 0
        found |= layer
    return found


def _parted(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those that a stage may have, and those of the whole training."""
    of_stages = {name: v for name, v in values.items() if name in _OF_STAGES}
    return of_stages, {n: v for n, v in values.items() if n not in _OF_STAGES}


def _read_recipe(path: Path) -> recipe.Recipe:
    defaults = {
        field.name: field.default
        for kind in (Config, *_GROUPS.values())
        for field in dataclasses.fields(kind)
    }
    for group in (*_GROUPS, "stages"):
        del defaults[group]
    return recipe.read(path, defaults, of_stages=_OF_STAGES)


def run_to_resume() -> Path:
    """What --resume names; the run's own settings hold.

    Raises:
        app.UsageError: there are other flags.
    """
    names = {*MODES, *_HELP, *_HELP_OF_GROUPS}
    if others := sorted(absl_flags.given(names) - {"resume"}):
        raise app.UsageError(
            f"--resume goes on with the run's own settings; without --{others[0]}"
        )
    return Path(flags.FLAGS.resume)


def from_run(directory: Path, about: Mapping[str, Any]) -> Config:
    """Of config.json.

    Args:
        directory: of the run.
        about: content of its config.json.

    Raises:
        DataError: its settings are damaged, or of another version of Graft.
    """
    values = about["settings"]
    try:
        groups = {name: kind(**values[name]) for name, kind in _GROUPS.items()}
        return Config(**{**values, **groups, "stages": tuple(values["stages"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{directory / 'config.json'}: settings that are damaged, or of another "
            f"version of Graft ({error!r:.200}); train anew"
        ) from error
