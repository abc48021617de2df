"""A folder of class folders -> one TFRecord file per class, and a manifest.

    python -m pipeline.convert flowers/ --out=tfrecords

Every file of the source is accounted for by a row of the manifest; the source is never
changed. Running again over the same source changes nothing; over a source that grew, it
keeps every known photo in its split and decodes only what is new.
"""

import dataclasses
import functools
import heapq
import itertools
import operator
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import google_crc32c
import numpy as np
from absl import app, flags

from pipeline import (
    account,
    command,
    duplicates,
    findings,
    image,
    known,
    manifest,
    parts,
    placing,
    schema,
    sources,
    split,
    staging,
    summaries,
    table,
    workers,
)

Item = TypeVar("Item")
BLOCK_FILES = 16
CONFLICTS = ("leave_out", "keep")
# What may stand in an output folder without being ours.
_TOLERATED = {"README.md", ".gitignore", ".gitkeep"}
_SHOWN_SKIPPED = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the command.

    Attributes:
        source: folder with one folder of photos per class.
        out: folder for records and manifest.
        seed: ranks the photos for the split.
        resize_min: longest short side of a record's image, in pixels; 0: no limit.
        shard_mb: a class with more megabytes gets several record files; 0: never.
        group_by: regular expression; photos in whose paths it finds the same share a
            split; "": none.
        conflicts: what becomes of a photo that is filed under several classes.
        workers: processes; 0: one for each processor.
    """

    source: str
    out: str = "tfrecords"
    seed: int = 0
    resize_min: int = 512
    shard_mb: int = 128
    group_by: str = ""
    conflicts: str = "leave_out"
    workers: int = 0

    def __post_init__(self) -> None:
        try:
            re.compile(self.group_by)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(
                f"--group_by={self.group_by}: not a regular expression ({error})"
            ) from error
        if self.conflicts not in CONFLICTS:
            raise ValueError(
                f"--conflicts={self.conflicts}: expected {' or '.join(CONFLICTS)}"
            )

    @property
    def settings(self) -> dict[str, int | str]:
        """What decides the rows."""
        return {
            "resize_min": self.resize_min,
            "shard_mb": self.shard_mb,
            "group_by": self.group_by,
            "conflicts": self.conflicts,
            "duplicates": duplicates.VERSION,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a conversion did.

    Attributes:
        directory: of the data set.
        about: the data set as it is now.
        tally: counts of its rows.
        written: names of the record files written; none when nothing had changed.
        skipped: path and reason of the first files that were not taken.
        findings: what was found out about photos together, in lines.
        changed: whether anything was.
    """

    directory: Path
    about: manifest.About
    tally: manifest.Tally
    written: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    findings: tuple[str, ...]
    changed: bool

    @property
    def manifest(self) -> manifest.Manifest:
        """The data set, read."""
        return manifest.read(self.directory)


def convert(config: Config) -> Summary:
    """Converts a folder of photos.

    Raises:
        schema.DataError: source or output folder are not as they should be.
        OSError: as the system reports it, no space left on the device among them.
    """
    source = sources.list_class_folders(Path(config.source))
    directory = Path(config.out)
    _check_output(directory, source.root)
    with staging.staged(directory) as partial:
        before = _read_known(directory)
        _check_same_source(before, source)
        keys = account.user_keys(source, config.group_by)
        found = _run_workers(config, source, before, partial)
        about = _about(config, source, before)
        similar = _similar(config, found, source, before, partial)
        bonds = account.Bonds(similar=similar, keys=keys)
        left_out = account.leave_out(
            found, source, bonds, before, keep_conflicts=config.conflicts == "keep"
        )
        bonds = bonds.among(found)
        account.check_classes(found, source, partial)
        account.group(found, bonds)
        account.assign_splits(found, seed=about.seed, shares=about.shares)
        shard_bytes = config.shard_mb << 20
        places = placing.place(found, source.class_names, shard_bytes, before)
        placing.write(found, places, before, partial)
        lines = _lines(found, source, places, partial)
        if before is not None:
            gone = before.gone(source.paths, found.found["sha256"])
            key = operator.attrgetter("path")
            lines = heapq.merge(lines, map(manifest.Line.of, gone), key=key)
        skipped: list[tuple[str, str]] = []
        with manifest.Writer(about, partial) as writer:
            for line in lines:
                writer.add(line)
                if line.action == "skipped" and len(skipped) < _SHOWN_SKIPPED:
                    skipped.append((line.path, line.reason))
            writer.finish()
        summary = Summary(
            directory=directory,
            about=about,
            tally=writer.tally,
            written=tuple(places.written),
            skipped=tuple(skipped),
            findings=tuple(findings.lines(found, source, bonds, left_out)),
            changed=bool(places.written) or not _same(before, about, writer.digest),
        )
        if not summary.changed:
            return summary
        for path in (*partial.glob("*.part"), *partial.glob("*.lines")):
            path.unlink()
        manifest.commit(directory, places.obsolete)
    return summary


def _similar(
    config: Config,
    found: table.Table,
    source: sources.Source,
    before: known.Known | None,
    partial: Path,
) -> duplicates.Similar:
    """Searches near-duplicates; only what the hashes propose is decoded again."""

    def thumbnail(number: int) -> np.ndarray:
        encoded = placing.image_of(found, number, before, partial)
        return image.thumbnail(encoded, duplicates.SIDE)

    def digests(numbers: Sequence[int]) -> list[bytes]:
        done = workers.map_blocks(
            functools.partial(parts.digest_block, source.root),
            _blocks(source.paths[number] for number in numbers),
            on_crash=parts.no_digest,
            num_workers=_num_workers(config, len(numbers)),
            initializer=parts.start_worker,
        )
        return list(itertools.chain(*(one for _, found in done for one in found)))

    return duplicates.find(found, thumbnail, digests, partial)


def _about(
    config: Config, source: sources.Source, before: known.Known | None
) -> manifest.About:
    return manifest.About(
        class_names=source.class_names,
        seed=before.about.seed if before else config.seed,
        shares=before.about.shares if before else split.DEFAULT_SHARES,
        settings=config.settings,
        versions={
            "graft": manifest.GRAFT_VERSION,
            "opencv": image.OPENCV_VERSION,
            "numpy": np.__version__,
            "crc32c": google_crc32c.implementation,
        },
        ignored=source.ignored,
    )


def _same(before: known.Known | None, about: manifest.About, digest: str) -> bool:
    """Whether the data set is as it was; other versions of tools do not count."""
    return (
        before is not None
        and before.digest == digest
        and before.about == dataclasses.replace(about, versions=before.about.versions)
    )


def _check_output(directory: Path, root: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise schema.DataError(
            f"{directory}: is a file; expected a folder to write into"
        )
    if directory.resolve().is_relative_to(root.resolve()):
        raise schema.DataError(
            f"{directory}: lies inside the source {root}, where the next conversion "
            "would take it for a class; choose another --out"
        )
    if not directory.exists():
        return
    found = {path.name for path in directory.iterdir()}
    if manifest.HEAD_NAME in found or staging.PARTIAL_NAME in found:
        return
    if foreign := sorted(found - _TOLERATED):
        raise schema.DataError(
            f"{directory}: not empty and not made by a conversion (holds {foreign[0]}"
            f"{' and more' if len(foreign) > 1 else ''}); choose another --out"
        )


def _read_known(directory: Path) -> known.Known | None:
    if (directory / manifest.HEAD_NAME).exists():
        return known.Known(directory)
    return None


def _check_same_source(before: known.Known | None, source: sources.Source) -> None:
    """Refuses to replace another data set: none of its photos is in this source."""
    if before is None:
        return
    if not any(row and row.taken for row in known.rows_at(before, source.paths)):
        raise schema.DataError(
            f"{before.directory}: holds another data set (classes "
            f"{', '.join(before.about.class_names[:5])}); choose another --out or "
            "remove it"
        )


def _run_workers(
    config: Config,
    source: sources.Source,
    before: known.Known | None,
    partial: Path,
) -> table.Table:
    """Decodes every file that is not known yet."""
    how = parts.How(root=source.root, partial=partial, resize_min=config.resize_min)
    found = table.Table(source.labels)
    count = len(source.paths)
    with command.progress(count, "photo", "convert") as progress:
        for block, results in workers.map_blocks(
            functools.partial(parts.convert_block, how),
            _blocks(_tasks(config, source, before, found)),
            on_crash=functools.partial(parts.crashed, how),
            num_workers=_num_workers(config, count),
            initializer=parts.start_worker,
        ):
            for segment in results:
                found.add(segment)
            progress.update(len(block))
    return found


def _num_workers(config: Config, num_files: int) -> int:
    return min(config.workers or command.available_cpus(), -(-num_files // BLOCK_FILES))


def _blocks(items: Iterator[Item]) -> Iterator[Sequence[Item]]:
    while block := list(itertools.islice(items, BLOCK_FILES)):
        yield block


def _tasks(
    config: Config,
    source: sources.Source,
    before: known.Known | None,
    found: table.Table,
) -> Iterator[parts.Task]:
    """One task a file, in the order of the paths; the split of a path is noted."""
    rows: Iterator[manifest.Row | None] = itertools.repeat(None)
    reusable: dict[str, int] = {}
    if before is not None:
        rows = known.rows_at(before, source.paths)
        # A record holds its label, and the settings decide its bytes; a row, its hash.
        kept = before.about.settings
        if (
            before.about.class_names == source.class_names
            and kept["resize_min"] == config.resize_min
            and kept.get("duplicates") == duplicates.VERSION
        ):
            reusable = {
                name: table.KNOWN_FILES - before.files.index(name)
                for name in before.intact_files()
            }
    for number, (path, row) in enumerate(zip(source.paths, rows, strict=False)):
        file = reusable.get(row.file) if row and row.taken else None
        if row and row.split:
            found.splits[number] = manifest.SPLITS.index(row.split)
            found.folds[number] = table.NO_FOLD if row.fold is None else row.fold
        yield parts.Task(
            path=path,
            class_name=source.class_name(number),
            label=int(source.labels[number]),
            known=row if file is not None else None,
            known_file=table.NO_RECORD if file is None else file,
            known_sha256=row.sha256 if row else "",
        )


def _lines(
    found: table.Table, source: sources.Source, places: placing.Places, partial: Path
) -> Iterator[manifest.Line]:
    """The line of each file of the source, in the order of their paths."""
    for number, own in enumerate(found.texts(partial)):
        action, reason = table.ACTIONS[found.found["action"][number]], ""
        if not found.taken[number]:
            row = manifest.row_of(own)
            row = row.skipped(found.reasons.get(number, row.reason))
            own, action, reason = manifest.own_text(row), row.action, row.reason
        yield manifest.Line(
            path=source.paths[number],
            own=own,
            place=_place(number, found, places),
            class_name=source.class_name(number),
            sha256=found.sha256(number),
            action=action,
            reason=reason,
        )


def _place(number: int, found: table.Table, places: placing.Places) -> manifest.Place:
    """What a row says beside what is known of the file by itself."""
    split_number, fold = int(found.splits[number]), int(found.folds[number])
    if split_number == table.NO_SPLIT:
        return manifest.Place()
    group = found.sha256(int(found.groups[number]))
    name = manifest.SPLITS[split_number]
    kept_fold = None if fold == table.NO_FOLD else fold
    if not found.taken[number]:
        return manifest.Place(group=group, split=name, fold=kept_fold)
    return manifest.Place(
        group=group,
        split=name,
        fold=kept_fold,
        file=places.names[places.files[number]],
        offset=int(places.offsets[number]),
        length=int(found.found["length"][number]),
    )


def define_flags() -> None:
    """Declares the command's flags; defaults are those of Config."""
    default = Config(source="")
    flags.DEFINE_string("out", default.out, "Folder for records and manifest.")
    flags.DEFINE_integer(
        "seed", default.seed, "Ranks the photos for the split.", lower_bound=0
    )
    flags.DEFINE_integer(
        "resize_min",
        default.resize_min,
        "Photos with a longer short side, in pixels, are shrunk to it: twice the 256 "
        "that networks resize to, so nothing they see is lost. 0: keep all pixels.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "shard_mb",
        default.shard_mb,
        "A class with more megabytes of records gets several files. 0: never.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "group_by",
        default.group_by,
        "Regular expression searched in each path, as in 'patient(\\d+)': photos with "
        "the same match, or the same groups of it, are never divided by the split.",
    )
    flags.DEFINE_enum(
        "conflicts",
        default.conflicts,
        CONFLICTS,
        "What becomes of a photo that is filed under several classes.",
    )
    flags.DEFINE_integer(
        "workers", default.workers, "Processes; 0: one per processor.", lower_bound=0
    )


def main(argv: Sequence[str]) -> None:
    """Converts the folder named on the command line."""
    if len(argv) != 2:
        raise app.UsageError(
            "expected one folder of photos: python -m pipeline.convert flowers/"
        )
    config = command.config_from_flags(Config, source=argv[1])
    summary = convert(config)
    command.say(summaries.conversion(summary.tally))
    for kind, count in summary.about.ignored.items():
        command.say(f"ignored: {count} {kind}")
    for path, reason in summary.skipped:
        command.say(f"skipped {path}: {reason}")
    if (more := summary.tally.total()["skipped"] - len(summary.skipped)) > 0:
        where = summary.directory / manifest.ROWS_NAME
        command.say(f"... and {more} more, in {where}")
    for line in summary.findings:
        command.say(line)
    for line in split.warnings(summary.tally.splits()):
        command.say(f"warning: {line}")
    kept = summary.about.seed
    if flags.FLAGS["seed"].present and kept != config.seed:
        command.say(
            f"--seed={config.seed} is not used: known photos keep the split of seed "
            f"{kept}; python -m pipeline.split {config.out} --seed={config.seed} "
            "splits anew"
        )
    if summary.changed:
        command.say(f"wrote {len(summary.written)} record files to {config.out}")
    else:
        command.say(f"nothing changed: {config.out} is up to date with {config.source}")


if __name__ == "__main__":
    define_flags()
    command.run(main, schema.DataError)
