"""Photos -> train, validation, test or folds; and the command that splits anew.

    python -m pipeline.split tfrecords --seed=7
    python -m pipeline.split tfrecords --folds=5 --fold=0

The records stay as they are: a split is a column of the manifest. Photos of one
duplicate group always stay on one side.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from absl import app, flags

from pipeline import command, manifest, schema, summaries

DEFAULT_SHARES = {"validation": 0.1, "test": 0.1}
# Below this many photos a class, a split of a tenth rounds to nothing.
SMALL_CLASS = 10


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Photos that must share a split.

    Attributes:
        name: smallest SHA-256 of its photos.
        class_name: of its photos.
        size: number of its photos.
        split: that some of them already have; "" when all are new.
    """

    name: str
    class_name: str
    size: int
    split: str = ""


def by_shares(
    groups: Iterable[Group], *, seed: int, shares: Mapping[str, float]
) -> dict[str, str]:
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
        {group name: split}.
    """
    assigned: dict[str, str] = {}
    for members in _by_class(groups).values():
        counts: collections.Counter[str] = collections.Counter()
        for group in members:
            if group.split:
                assigned[group.name] = group.split
                counts[group.split] += group.size
        new = _ranked((group for group in members if not group.split), seed, "split")
        targets = _targets(members, shares)
        if not counts["train"] and new:
            first = new.pop()
            assigned[first.name] = "train"
        for group in new:
            split = "train"
            for name in ("test", "validation"):
                if counts[name] < targets[name]:
                    split = name
                    break
            assigned[group.name] = split
            counts[split] += group.size
    return assigned


def by_folds(
    groups: Iterable[Group], *, seed: int, folds: int, fold: int, validation: float
) -> dict[str, tuple[str, int]]:
    """Deals every group to one of `folds` folds; fold `fold` becomes the test split.

    Each class is dealt evenly. From the other folds, `validation` of the class's photos
    (at least one) serve validation, the rest training.

    Returns:
        {group name: (split, fold)}; what fold a group is in does not depend on `fold`.
    """
    assigned: dict[str, tuple[str, int]] = {}
    totals: collections.Counter[int] = collections.Counter()
    for members in _by_class(groups).values():
        dealt: collections.Counter[int] = collections.Counter()
        fold_of = {}
        for group in _ranked(members, seed, "fold"):
            emptiest = min(range(folds), key=lambda f: (dealt[f], totals[f], f))
            fold_of[group.name] = emptiest
            dealt[emptiest] += group.size
            totals[emptiest] += group.size
        target = max(1, round(validation * sum(group.size for group in members)))
        count = 0
        rest = [group for group in members if fold_of[group.name] != fold]
        for group in _ranked(rest, seed, f"validation {fold}"):
            split = "validation" if count < target and len(rest) > 1 else "train"
            count += group.size
            assigned[group.name] = (split, fold_of[group.name])
        for group in members:
            if fold_of[group.name] == fold:
                assigned[group.name] = ("test", fold)
    return assigned


def _by_class(groups: Iterable[Group]) -> dict[str, list[Group]]:
    classes: dict[str, list[Group]] = collections.defaultdict(list)
    for group in groups:
        classes[group.class_name].append(group)
    return dict(sorted(classes.items()))


def _ranked(groups: Iterable[Group], seed: int, salt: str) -> list[Group]:
    def rank(group: Group) -> bytes:
        return hashlib.sha256(f"{salt} {seed} {group.name}".encode()).digest()

    return sorted(groups, key=rank)


def _targets(groups: Sequence[Group], shares: Mapping[str, float]) -> dict[str, int]:
    """Photos that test and validation of one class should have."""
    photos = sum(group.size for group in groups)
    enough = {"test": len(groups) >= 2, "validation": len(groups) >= 3}
    return {
        name: max(1, round(share * photos)) if share and enough[name] else 0
        for name, share in shares.items()
    }


def warnings(found: manifest.Manifest) -> list[str]:
    """Names classes that lack photos in a split, or whose accuracy means little."""
    lines = []
    for name, counts in found.counts().items():
        lacking = [split for split in manifest.SPLITS if not counts[split]]
        total = sum(counts.values())
        if lacking:
            lines.append(f"class {name}: no photo for {' and '.join(lacking)}")
        elif total < SMALL_CLASS:
            lines.append(
                f"class {name}: {total} photos only, {counts['test']} of them to test "
                "on; consider --folds=5"
            )
    return lines


def groups_of(rows: Iterable[manifest.Row], *, keep_splits: bool) -> list[Group]:
    """Collects the groups of the rows taken; a group's class is that of its first."""
    members: dict[str, list[manifest.Row]] = collections.defaultdict(list)
    for row in rows:
        if row.taken:
            members[row.group].append(row)
    return [
        Group(
            name=name,
            class_name=group[0].class_name,
            size=len(group),
            split=max(row.split for row in group) if keep_splits else "",
        )
        for name, group in members.items()
    ]


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
    if not (directory / manifest.PARTIAL_NAME).exists():
        manifest.read(directory)  # before anything is written there
    with manifest.staging(directory) as partial:
        found = manifest.read(directory)
        changed = _resplit(config, found)
        if not changed.same_data(found):
            changed.stage(partial)
            manifest.commit(directory)
    return changed


def _resplit(config: Config, found: manifest.Manifest) -> manifest.Manifest:
    shares = {"validation": config.validation_share, "test": config.test_share}
    groups = groups_of(found.rows, keep_splits=False)
    fold_of: dict[str, int | None] = collections.defaultdict(lambda: None)
    if config.folds:
        dealt = by_folds(
            groups,
            seed=config.seed,
            folds=config.folds,
            fold=config.fold,
            validation=config.validation_share,
        )
        split_of = {name: split for name, (split, _) in dealt.items()}
        fold_of.update({name: fold for name, (_, fold) in dealt.items()})
    else:
        split_of = by_shares(groups, seed=config.seed, shares=shares)
    rows = tuple(
        dataclasses.replace(row, split=split_of[row.group], fold=fold_of[row.group])
        if row.taken
        else dataclasses.replace(row, split="", fold=None)
        for row in found.rows
    )
    return dataclasses.replace(found, rows=rows, seed=config.seed, shares=shares)


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
    command.say(summaries.splits(found))
    for line in warnings(found):
        command.say(f"warning: {line}")


if __name__ == "__main__":
    define_flags()
    command.run(main, schema.DataError)
