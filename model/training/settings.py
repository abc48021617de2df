"""Define the settings of a training: flags, keys of recipes, content of config.json."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.loop import optimization
from model.weights import weight_settings
from pipeline.batches import augmentation_settings
from pipeline.system import config_flags
from pipeline.system.errors import DataError, UsageError

DEFAULT_EPOCHS = 30
_AUTO_VIEWS = 2
_weights = functools.partial(config_flags.setting, group="Data and weights")
_source = functools.partial(_weights, basic=True)
_head = functools.partial(config_flags.setting, group="New head")
_training = functools.partial(config_flags.setting, group="Training")
_stage = functools.partial(_training, per_stage=True)
_length = functools.partial(_stage, basic=True)
_several = functools.partial(config_flags.setting, group="Several runs", basic=True)
_snapshots = functools.partial(config_flags.setting, group="Snapshots")
_action = functools.partial(config_flags.setting, group="What to do", basic=True)

# From the package index; better than AlexNet on flowers, in five folds.
DEFAULT_WEIGHTS = "efficientnet_lite0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Action:
    """What train.py does, and with whose settings."""

    recipe: str = _action(
        "",
        "Takes settings from a recipe: a name such as flowers (recipes/flowers.toml), "
        "or a path. Flags override it.",
        value="NAME",
    )
    plan: bool = _action(
        False, "Only estimates time and memory, and says what would train."
    )
    find_rate: bool = _action(
        False, "Only measures which learning rate suits the first stage."
    )
    resume: str = _action(
        "", "Continues an interrupted run with its saved settings.", value="RUN"
    )

    def __post_init__(self) -> None:
        if self.plan and self.find_rate:
            raise ValueError("--plan and --find_rate: expected only one of them")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a training."""

    ckpt: str = _source(
        DEFAULT_WEIGHTS,
        f"Weights to start from: {weight_settings.NAME_OF_WEIGHTS}, the path of a "
        "file, none for a random start, or A,B to compare A and B.",
        value="NAME",
    )
    data: str = _source(
        "tfrecords", "Folder of records from pipeline.convert.", value="FOLDER"
    )
    run_dir: str = _source(
        "", "Folder of the new run; by default runs/<time>-<ckpt>.", value="FOLDER"
    )
    arch: str = _weights("", weight_settings.ARCH, value="NAME")
    skip: str = _weights(
        "", "Layers not to restore from the weights, such as fc6,fc7.", value="LAYERS"
    )
    overrides: weight_settings.Overrides = weight_settings.AS_WEIGHTS
    features: str = _head(
        "",
        "Layers below the new head, such as pool5 or conv3,conv4,pool5; by default the "
        "deepest restored layer, with others where they help.",
        value="LAYERS",
    )
    pooling: str = _head(
        "auto",
        "What the head sees of a convolutional layer: average = mean of each channel; "
        "statistics = also its deviation; none = the whole map; auto = "
        "statistics for a solved head, else average.",
        choices=("auto", "none", "average", "statistics"),
    )
    hidden: int = _head(
        0,
        "Units of a ReLU layer below the final layer; 0 adds none.",
        lower=0,
        upper=65536,
    )
    keep_head: bool = _head(
        False, "Restores the head too, from a run on the same classes."
    )
    dropout: float = _head(
        -1.0,
        "Share of the final layer's inputs that training drops; -1 drops 0.1 of pooled "
        "features and 0.5 of others.",
        lower=-1,
        below=1,
    )
    precision: str = _training(
        "auto",
        "Number format of layers; auto uses bfloat16 or float16 where they are fast.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    seed: int = _training(
        0,
        "Seed of everything random: order, new weights, dropout, crops.",
        basic=True,
        lower=0,
        upper=(1 << 31) - 1,
    )
    seeds: int = _several(
        1,
        "Number of runs, with seeds SEED, SEED+1, ...; reports mean and standard "
        "deviation.",
        lower=1,
        upper=1000,
    )
    folds: int = _several(
        0,
        "Number of folds; each is the test split of one run, or validates networks "
        "that are compared. 0 uses the split of the records.",
        lower=0,
        upper=1000,
    )
    compare: str = _several(
        "none",
        "Also trains the same network from a random start (scratch) on the same "
        "batches, which shows what the weights are worth; needs --train_from, so that "
        "all layers train.",
        choices=("none", "scratch"),
        basic=False,
    )
    snapshot_minutes: float = _snapshots(
        10.0, "Minutes between two snapshots, from which --resume continues.", above=0
    )
    snapshot_steps: int = _snapshots(
        0, "Steps between two snapshots; 0 counts only minutes.", lower=0
    )
    snapshots_kept: int = _snapshots(
        2, "Number of recent snapshots to keep.", lower=1, upper=1000
    )
    stage: str = _stage("", "Name of the stage in logs and charts.", is_flag=False)
    start: str = _stage(
        "best",
        "Weights of the previous stage from which a stage starts: those of its best "
        "epoch, or the last ones.",
        choices=("best", "last"),
        is_flag=False,
    )
    train_from: str = _length(
        "",
        "Lowest layer that trains, such as conv5; by default only the new head trains, "
        "or everything with --ckpt=none.",
        value="LAYER",
    )
    train: str = _stage(
        "",
        "Layers that train, such as block5_*,logits, in place of --train_from.",
        value="LAYERS",
    )
    views: int = _stage(
        -1,
        "Views of each photo whose frozen features are computed once: the central "
        "crop, its mirror image, then random ones. 0 computes new random views in "
        f"every epoch; -1 means {_AUTO_VIEWS}, or 0 with augmentation, or 1 if the "
        "head is solved on many photos.",
        lower=-1,
        upper=1000,
    )
    epochs: int = _length(
        0, f"Passes over the training photos; 0 is {DEFAULT_EPOCHS}.", lower=0
    )
    steps: int = _stage(0, "Steps after which training ends; 0 uses --epochs.", lower=0)
    batch_size: int = _length(
        64, "Photos per step; smaller batches need less memory.", lower=1, upper=1 << 14
    )
    learning_rate: float = _length(
        0.0,
        "Step size of the optimizer; 0 chooses one that suits adam and the number of "
        "inputs of the final layer.",
        lower=0,
    )
    learning: optimization.Settings = optimization.DEFAULTS
    augmentation: augmentation_settings.Augmentation = augmentation_settings.NONE
    # {setting: value} of each stage, where it differs from the whole.
    stages: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        config_flags.check(self)
        if -1 < self.dropout < 0:
            raise ValueError(f"--dropout={self.dropout}: expected 0 to below 1, or -1")
        if self.folds == 1:
            raise ValueError("--folds=1: expected 2 or more, or 0")
        if self.folds and self.seeds > 1:
            raise ValueError("--folds and --seeds: expected only one of them")
        if self.views > 0 and self.augmentation.active:
            raise ValueError(
                f"--views={self.views}: cached features cannot be augmented. Expected "
                "--views=0 with augmentation."
            )
        if not self.augmentation.mirror and self.views > 1:
            raise ValueError("--nomirror: expected --views=0 or 1")
        if self.train and self.train_from:
            raise ValueError("--train and --train_from: expected only one of them")
        weights_only = ("keep_head", "skip", "compare")
        given = [n for n in weights_only if getattr(self, n) not in (False, "", "none")]
        if self.ckpt == "none" and given:
            raise ValueError(f"--{given[0]}: expected weights; --ckpt=none has none")
        if self.start != "best" and not (self.stages or self.stage):
            raise ValueError(f"start={self.start}: expected a recipe with stages")
        if self.stages:
            self.in_stages()  # which checks them

    @property
    def label(self) -> str:
        """Name of a network in a comparison: weights, resizing and size."""
        size_px, resize = self.overrides.image_size, self.overrides.resize
        parts = [self.ckpt, resize.removeprefix("auto"), f"{size_px} px"]
        return " ".join(filter(None, parts[: 3 if size_px else 2]))

    @property
    def num_views(self) -> int:
        """Number of views of each photo whose features are cached; 0 caches none."""
        if self.views >= 0:
            return self.views
        if self.augmentation.active:
            return 0
        return _AUTO_VIEWS if self.augmentation.mirror else 1

    def step_flags(self) -> list[str]:
        """Return the given flags that only a training by steps can follow."""
        names = (
            *("epochs", "steps", "batch_size", "learning_rate", "dropout", "hidden"),
            *("keep_head", "compare"),
        )
        given = [n for n in names if getattr(self, n) != getattr(Config, n)]
        for field in dataclasses.fields(self.learning):
            if field.name not in optimization.SOLVER_SETTINGS:
                value = getattr(self.learning, field.name)
                given += [field.name] * (value != field.default)
        return [f"--{name}" for name in given]

    @property
    def allows_solver(self) -> bool:
        """Whether a linear head on cached features may be solved."""
        is_new_head = self.ckpt != "none" and not (self.train_from or self.train)
        allowed = self.learning.optimizer in ("auto", optimization.SOLVER)
        return is_new_head and allowed and self.num_views > 0 and not self.step_flags()

    def with_optimizer(self, optimizer: str) -> "Config":
        """Return the settings with another optimizer."""
        learning = dataclasses.replace(self.learning, optimizer=optimizer)
        return dataclasses.replace(self, learning=learning)

    def in_stages(self) -> tuple["Config", ...]:
        """Return the settings of each stage; without stages the training is one."""
        if not self.stages:
            return (self,)
        stages = []
        for number, values in enumerate(self.stages, start=1):
            whole = dataclasses.replace(self, stages=())
            named = {"stage": f"stage {number}", **values}
            try:
                stages.append(config_flags.changed(whole, named))
                if len(self.stages) == 1 and stages[0].start != "best":
                    raise ValueError(
                        f"start={stages[0].start}: expected a stage before this one"
                    )
            except ValueError as error:
                raise ValueError(f"{named['stage']}: {error}") from error
        return tuple(stages)


SETTINGS = config_flags.settings_of(Config)
_GROUPS = ("overrides", "learning", "augmentation")


def run_to_resume(typed: Mapping[str, Any]) -> Path | None:
    """Return the run folder that --resume names; None without --resume."""
    for name in ("recipe", "resume"):
        if typed.get(name) == "":  # as from a variable of the shell that is not set
            raise UsageError(f"--{name}=: a value is missing. Expected one, or no flag")
    if "resume" not in typed:
        return None
    if others := sorted(typed.keys() - {"resume"}):
        raise UsageError(
            f"--{others[0]}: expected no other flag with --resume, which continues "
            "with the run's own settings"
        )
    return Path(typed["resume"])


def from_run(path: Path, values: Mapping[str, Any]) -> Config:
    """Return the settings that a file of a run holds, or raise DataError."""
    try:
        groups = {name: type(getattr(Config, name))(**values[name]) for name in _GROUPS}
        return Config(**{**values, **groups, "stages": tuple(values["stages"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path}: the settings are damaged or of another version of Graft "
            f"({error!r:.200}). Start a new training."
        ) from error
