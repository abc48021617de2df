"""Split records again into train, validation and test, or into folds.

    python -m pipeline.split tfrecords --seed=7
    python -m pipeline.split tfrecords --folds=5 --fold=0

Only the manifest changes, not the records. Photos that belong together, such as
duplicates, always stay in one split.
"""

import pipeline.start  # noqa: F401 # isort: skip
import collections
import dataclasses
import functools
from typing import Any

from pipeline.grouping import split_assignment
from pipeline.records import manifest, manifest_row, staging
from pipeline.records.manifest import SPLITS, Manifest
from pipeline.system import command_line, config_flags
from pipeline.system.errors import DataError
from pipeline.system.remote import mirror

_setting = functools.partial(config_flags.setting, group="Split", basic=True)
_share = functools.partial(_setting, lower=0, upper=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a new split."""

    data: str = config_flags.argument(
        "FOLDER", "Folder of records; by default tfrecords.", "tfrecords"
    )
    seed: int = _setting(0, "Seed of the random order of photos.", lower=0)
    folds: int = _setting(
        0,
        "Number of equal parts for cross-validation, of which --fold is the test "
        "split; 0 splits by shares.",
        lower=0,
    )
    fold: int = _setting(0, "Fold that becomes the test split, from 0.", lower=0)
    validation_share: float = _share(
        split_assignment.DEFAULT_SHARES["validation"],
        "Share of each class's photos for validation.",
    )
    test_share: float = _share(
        split_assignment.DEFAULT_SHARES["test"],
        "Share of each class's photos for the test split; not used with --folds.",
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


def resplit(config: Config) -> Manifest:
    """Write a new split into the manifest."""
    directory = mirror.local(config.data, upload=staging.upload)
    if not (directory / staging.PARTIAL_NAME).exists():
        manifest.read(directory)  # before anything is written there
    with staging.staged(directory) as partial:
        before = manifest.read(directory)
        after = split_rows(config, before)
        if after.same_data(before):
            return before
        after.stage(partial)
        staging.commit(directory)
    return dataclasses.replace(after, format_version=manifest_row.FORMAT_VERSION)


def split_rows(config: Config, before: Manifest) -> Manifest:
    """Return the data set with a new split; nothing is written."""
    shares = {"validation": config.validation_share, "test": config.test_share}
    groups = labels_of_groups(before)
    if config.folds > len(groups):
        raise DataError(
            f"{config.data}: --folds={config.folds} for {len(groups):,} groups of "
            "photos that stay together. Choose fewer, so that each fold has some"
        )
    folds: dict[str, int] = {}
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
    rows = tuple(
        dataclasses.replace(row, split=splits[row.group], fold=folds.get(row.group))
        if row.is_included
        else dataclasses.replace(row, split="", fold=None)
        for row in before.rows
    )
    info = dataclasses.replace(before.info, seed=config.seed, shares=shares)
    return dataclasses.replace(before, info=info, rows=rows)


def labels_of_groups(records: Manifest) -> dict[str, list[int]]:
    """Return the label of each photo of a group that stays together, by its name."""
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for row in records.included():
        groups[row.group].append(records.labels[row.class_name])
    return groups


def main(typed: dict[str, Any]) -> None:
    """Split the data set named on the command line."""
    config = config_flags.build(Config, typed)
    converted = resplit(config)
    rows = converted.tally.rows(*SPLITS)
    command_line.say(*command_line.table(("class", *SPLITS), rows))
    if replaced := converted.info.settings.get("given_splits"):
        command_line.say(
            f"replaced the split that the photos came with ({', '.join(replaced)}). "
            "To get that one back, convert the photos into a new folder"
        )
    command_line.say(*split_assignment.warn_of_small_classes(converted.counts()))


if __name__ == "__main__":
    command_line.run(main, Config, in_buckets=["data"])
