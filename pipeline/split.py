"""Photos -> train, validation, test or folds; and the command that splits anew.

    python -m pipeline.split tfrecords --seed=7
    python -m pipeline.split tfrecords --folds=5 --fold=0

The records stay as they are: a split is a column of the manifest. Photos of one
duplicate group always stay on one side.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from pipeline.grouping import split_assignment
from pipeline.records import count_tables, file_table, manifest, staging
from pipeline.system import command_line
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the command.

    Attributes:
        data: folder with records and manifest.
        seed: ranks the photos.
        folds: number of folds; 0 splits by shares.
        fold: which fold is the test split, from 0.
        validation_share: of each class's photos.
        test_share: likewise; not used with folds.
    """

    data: str = "tfrecords"
    seed: int = 0
    folds: int = 0
    fold: int = 0
    validation_share: float = split_assignment.DEFAULT_SHARES["validation"]
    test_share: float = split_assignment.DEFAULT_SHARES["test"]

    def __post_init__(self) -> None:
        if not self.validation_share + self.test_share < 1:  # nan included
            raise ValueError(
                f"--validation_share={self.validation_share} and --test_share="
                f"{self.test_share} leave nothing to train on"
            )
        if self.folds == 1 or self.fold >= max(1, self.folds):
            raise ValueError(
                f"--folds={self.folds} --fold={self.fold}: expected two folds or more, "
                "counted from 0"
            )


def resplit(config: Config) -> manifest.Manifest:
    """Writes a new split into the manifest.

    Raises:
        DataError: no data set there, or as split_anew.
    """
    directory = Path(config.data)
    if not (directory / staging.PARTIAL_NAME).exists():
        manifest.read(directory)  # before anything is written there
    with staging.staged(directory) as partial:
        found = manifest.read(directory)
        changed = split_anew(config, found)
        if changed.same_data(found):
            return found
        changed.stage(partial)
        manifest.commit(directory)
    return dataclasses.replace(changed, format_version=manifest.FORMAT_VERSION)


def split_anew(config: Config, found: manifest.Manifest) -> manifest.Manifest:
    """The data set with a new split; nothing is written.

    Raises:
        DataError: more folds than groups.
    """
    shares = {"validation": config.validation_share, "test": config.test_share}
    taken = found.included()
    names = np.array([bytes.fromhex(row.group) for row in taken], "S32")
    labels = np.array([found.labels[row.class_name] for row in taken], np.int32)
    unknown = np.full(len(taken), file_table.NO_SPLIT, np.int8)
    groups, group_of = split_assignment.groups_of(names, names, labels, unknown)
    folds = np.full(len(groups), file_table.NO_FOLD)
    if config.folds > min(len(groups), split_assignment.MAX_FOLDS):
        raise DataError(
            f"{config.data}: --folds={config.folds} for {len(groups):,} groups of "
            "photos that stay together; choose fewer, so that each fold has some"
        )
    if config.folds:
        splits, folds = split_assignment.by_folds(
            groups,
            seed=config.seed,
            folds=config.folds,
            fold=config.fold,
            validation=config.validation_share,
        )
    else:
        splits = split_assignment.by_shares(groups, seed=config.seed, shares=shares)
    decided = zip(splits[group_of].tolist(), folds[group_of].tolist(), strict=True)
    rows = []
    for row in found.rows:
        split, fold = (
            next(decided)
            if row.is_included
            else (file_table.NO_SPLIT, file_table.NO_FOLD)
        )
        rows.append(
            dataclasses.replace(
                row,
                split="" if split == file_table.NO_SPLIT else manifest.SPLITS[split],
                fold=None if fold == file_table.NO_FOLD else fold,
            )
        )
    info = dataclasses.replace(found.info, seed=config.seed, shares=shares)
    return dataclasses.replace(found, info=info, rows=tuple(rows))


def define_flags() -> None:
    """Declares the command's flags; defaults are those of Config."""
    default = Config()
    flags.DEFINE_integer(
        "seed", default.seed, "Ranks the photos of a class.", lower_bound=0
    )
    flags.DEFINE_integer(
        "folds", default.folds, "Number of folds; 0 splits by shares.", lower_bound=0
    )
    flags.DEFINE_integer(
        "fold", default.fold, "Fold to test on, from 0.", lower_bound=0
    )
    flags.DEFINE_float(
        "validation_share",
        default.validation_share,
        "Share of each class for validation, 0..1.",
        lower_bound=0,
        upper_bound=1,
    )
    flags.DEFINE_float(
        "test_share",
        default.test_share,
        "Share of each class for the test split, 0..1; unused with --folds.",
        lower_bound=0,
        upper_bound=1,
    )


def main(argv: Sequence[str]) -> None:
    """Splits the data set named on the command line."""
    if len(argv) > 2:
        raise app.UsageError(f"expected one folder of records, found {argv[1:]}")
    config = command_line.config_from_flags(Config, data=(*argv, Config.data)[1])
    found = resplit(config)
    command_line.say(count_tables.splits(found.counts()))
    if replaced := found.info.settings.get("given_splits"):
        command_line.say(
            f"replaced the split that the photos came with ({', '.join(replaced)}); "
            "convert into a new folder to have it again"
        )
    for line in split_assignment.warnings(found.counts()):
        command_line.say(f"warning: {line}")


if __name__ == "__main__":
    define_flags()
    command_line.run(main, DataError)
