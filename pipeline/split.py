"""Split records again into train, validation and test, or into folds.

    python -m pipeline.split tfrecords --seed=7
    python -m pipeline.split tfrecords --folds=5 --fold=0

Only the manifest changes, not the records. Photos that belong together, such as
duplicates, always stay in one split.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.grouping import split_assignment
from pipeline.records import count_tables, file_table, manifest, staging
from pipeline.system import command_line, config_flags
from pipeline.system.errors import DataError

_setting = functools.partial(config_flags.setting, group="Split", basic=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a new split."""

    data: str = config_flags.argument(
        "FOLDER", "Folder of records; tfrecords if you name no other.", "tfrecords"
    )
    seed: int = _setting(0, "Number that decides the random order of photos.", lower=0)
    folds: int = _setting(
        0,
        "Number of folds for cross-validation, each once the test split; 0 splits by "
        "shares.",
        lower=0,
    )
    fold: int = _setting(0, "Fold that becomes the test split, from 0.", lower=0)
    validation_share: float = _setting(
        split_assignment.DEFAULT_SHARES["validation"],
        "Share of each class's photos for validation.",
        lower=0,
        upper=1,
    )
    test_share: float = _setting(
        split_assignment.DEFAULT_SHARES["test"],
        "Share of each class's photos for the test split; not used with --folds.",
        lower=0,
        upper=1,
    )

    def __post_init__(self) -> None:
        config_flags.check(self)
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


def main(typed: dict[str, Any]) -> None:
    """Split the data set named on the command line."""
    config = config_flags.build(Config, typed)
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
    command_line.run_command(main, Config)
