"""Photos -> train, validation, test or folds; and the command that splits anew.

    python -m pipeline.split tfrecords --seed=7
    python -m pipeline.split tfrecords --folds=5 --fold=0

The records stay as they are: a split is a column of the manifest. Photos of one
duplicate group always stay on one side.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from pipeline import command, manifest, schema, staging, summaries, table

DEFAULT_SHARES = {"validation": 0.1, "test": 0.1}
# Below this many photos a class, a split of a tenth rounds to nothing.
SMALL_CLASS = 10
_TRAIN, _VALIDATION, _TEST = range(3)  # in manifest.SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """Photos that must share a split, as columns.

    Attributes:
        names: S32 [num_groups], smallest SHA-256 of a group's photos.
        labels: int32 [num_groups], 0-based class of its photos.
        sizes: int64 [num_groups], number of its photos.
        splits: int8 [num_groups], index into manifest.SPLITS of what some of them
            already have; table.NO_SPLIT when all are new.
    """

    names: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def groups_of(
    groups: np.ndarray, hashes: np.ndarray, labels: np.ndarray, splits: np.ndarray
) -> tuple[Groups, np.ndarray]:
    """Collects the groups of some photos; a group's class is that of its first photo.

    Args:
        groups: int [num_photos], any number that stands for a photo's group.
        hashes: S32 [num_photos], SHA-256 of each photo's group.
        labels: int32 [num_photos].
        splits: int8 [num_photos]; photos of a group have the same, or NO_SPLIT.

    Returns:
        The groups, and int64 [num_photos]: which of them each photo is in.
    """
    _, first, inverse, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    known = np.full(len(first), table.NO_SPLIT, np.int8)
    np.maximum.at(known, inverse, splits)
    found = Groups(names=hashes[first], labels=labels[first], sizes=sizes, splits=known)
    return found, inverse


def by_shares(groups: Groups, *, seed: int, shares: Mapping[str, float]) -> np.ndarray:
    """Splits class by class; groups that have a split keep it.

    Within a class, new groups are ranked by a salted hash of their name and fill the
    share of test, then of validation, and the rest is for training. Each class comes
    within one group of its shares, and a class of three or more groups has at least one
    in each split.

    Args:
        groups: all groups, with the split that is already known, if any.
        seed: salt of the ranking.
        shares: {"validation": share, "test": share} of a class's photos, 0..1.

    Returns:
        int8 [num_groups], index into manifest.SPLITS.
    """
    assigned = groups.splits.copy()
    for members in _by_class(groups):
        counts = [
            int(groups.sizes[members[assigned[members] == split]].sum())
            for split in range(len(manifest.SPLITS))
        ]
        new = members[assigned[members] == table.NO_SPLIT]
        new = _ranked(groups, new, seed, "split")
        targets = _targets(groups.sizes[members], shares)
        if not counts[_TRAIN] and new:
            assigned[new.pop()] = _TRAIN
        for group in new:
            chosen = _TRAIN
            for split in (_TEST, _VALIDATION):
                if counts[split] < targets[split]:
                    chosen = split
                    break
            assigned[group] = chosen
            counts[chosen] += int(groups.sizes[group])
    return assigned


def by_folds(
    groups: Groups, *, seed: int, folds: int, fold: int, validation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Deals every group to one of `folds` folds; fold `fold` becomes the test split.

    Each class is dealt evenly. From the other folds, `validation` of the class's photos
    (at least one) serve validation, the rest training.

    Returns:
        int8 and int16 [num_groups]: index into manifest.SPLITS, and fold; what fold a
        group is in does not depend on `fold`.
    """
    assigned = np.full(len(groups), _TRAIN, np.int8)
    fold_of = np.full(len(groups), table.NO_FOLD, np.int16)
    totals = [0] * folds
    for members in _by_class(groups):
        dealt = [0] * folds
        for group in _ranked(groups, members, seed, "fold"):
            emptiest = min(range(folds), key=lambda f: (dealt[f], totals[f], f))
            fold_of[group] = emptiest
            dealt[emptiest] += int(groups.sizes[group])
            totals[emptiest] += int(groups.sizes[group])
        assigned[members[fold_of[members] == fold]] = _TEST
        target = max(1, round(validation * int(groups.sizes[members].sum())))
        rest = members[fold_of[members] != fold]
        count = 0
        for group in _ranked(groups, rest, seed, f"validation {fold}"):
            if count < target and len(rest) > 1:
                assigned[group] = _VALIDATION
            count += int(groups.sizes[group])
    return assigned, fold_of


def _by_class(groups: Groups) -> Iterator[np.ndarray]:
    """Numbers of the groups of each class that has any, class by class."""
    order = np.argsort(groups.labels, kind="stable")
    borders = np.flatnonzero(np.diff(groups.labels[order])) + 1
    for members in np.split(order, borders):
        if len(members):
            yield members


def _ranked(groups: Groups, members: np.ndarray, seed: int, salt: str) -> list[int]:
    def rank(group: int) -> bytes:
        name = groups.names[group].ljust(32, b"\0").hex()
        return hashlib.sha256(f"{salt} {seed} {name}".encode()).digest()

    return sorted(members.tolist(), key=rank)


def _targets(sizes: np.ndarray, shares: Mapping[str, float]) -> dict[int, int]:
    """Photos that test and validation of one class should have."""
    photos = int(sizes.sum())
    enough = {"test": len(sizes) >= 2, "validation": len(sizes) >= 3}
    return {
        manifest.SPLITS.index(name): max(1, round(share * photos))
        if share and enough[name]
        else 0
        for name, share in shares.items()
    }


def warnings(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Names classes that lack photos in a split, or whose accuracy means little.

    Args:
        counts: {class name: {split: photos}}.
    """
    lines = []
    for name, splits in counts.items():
        lacking = [split for split in manifest.SPLITS if not splits[split]]
        total = sum(splits.values())
        if lacking:
            lines.append(f"class {name}: no photo for {' and '.join(lacking)}")
        elif total < SMALL_CLASS:
            lines.append(
                f"class {name}: {total} photos only, {splits['test']} of them to test "
                "on; consider --folds=5"
            )
    return lines


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
    validation_share: float = DEFAULT_SHARES["validation"]
    test_share: float = DEFAULT_SHARES["test"]

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
        schema.DataError: no data set there.
    """
    directory = Path(config.data)
    if not (directory / staging.PARTIAL_NAME).exists():
        manifest.read(directory)  # before anything is written there
    with staging.staged(directory) as partial:
        found = manifest.read(directory)
        changed = _resplit(config, found)
        if not changed.same_data(found):
            changed.stage(partial)
            manifest.commit(directory)
    return changed


def _resplit(config: Config, found: manifest.Manifest) -> manifest.Manifest:
    shares = {"validation": config.validation_share, "test": config.test_share}
    taken = found.taken()
    names = np.array([bytes.fromhex(row.group) for row in taken], "S32")
    labels = np.array([found.labels[row.class_name] for row in taken], np.int32)
    unknown = np.full(len(taken), table.NO_SPLIT, np.int8)
    groups, group_of = groups_of(names, names, labels, unknown)
    folds = np.full(len(groups), table.NO_FOLD)
    if config.folds:
        splits, folds = by_folds(
            groups,
            seed=config.seed,
            folds=config.folds,
            fold=config.fold,
            validation=config.validation_share,
        )
    else:
        splits = by_shares(groups, seed=config.seed, shares=shares)
    decided = zip(splits[group_of].tolist(), folds[group_of].tolist(), strict=True)
    rows = []
    for row in found.rows:
        split, fold = next(decided) if row.taken else (table.NO_SPLIT, table.NO_FOLD)
        rows.append(
            dataclasses.replace(
                row,
                split="" if split == table.NO_SPLIT else manifest.SPLITS[split],
                fold=None if fold == table.NO_FOLD else fold,
            )
        )
    about = dataclasses.replace(found.about, seed=config.seed, shares=shares)
    return dataclasses.replace(found, about=about, rows=tuple(rows))


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
    config = command.config_from_flags(Config, data=(*argv, Config.data)[1])
    found = resplit(config)
    command.say(summaries.splits(found.counts()))
    if replaced := found.about.settings.get("given_splits"):
        command.say(
            f"replaced the split that the photos came with ({', '.join(replaced)}); "
            "convert into a new folder to have it again"
        )
    for line in warnings(found.counts()):
        command.say(f"warning: {line}")


if __name__ == "__main__":
    define_flags()
    command.run(main, schema.DataError)
