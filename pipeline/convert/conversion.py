"""Convert photos to records, so that everything appears at once or not at all."""

import dataclasses
import heapq
import operator
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np

from pipeline.convert import conversion_notes, predefined_splits, record_files
from pipeline.convert.convert_settings import Config
from pipeline.grouping import (
    duplicate_search,
    near_duplicates,
    selection,
    split_assignment,
)
from pipeline.images import (
    beam_runner,
    decode_files,
    decode_source,
    local_runner,
    opencv,
)
from pipeline.records import file_table, manifest, previous_dataset, staging
from pipeline.sources import caffe_lists, find_source, photo_source
from pipeline.system import file_system
from pipeline.system.errors import DataError

# What may stand in an output folder without being ours.
_TOLERATED = {"README.md", ".gitignore", ".gitkeep"}
_SHOWN_SKIPPED = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a conversion did.

    Attributes:
        directory: of the data set.
        info: the data set as it is now.
        tally: counts of its rows.
        written: names of the record files written; none when nothing had changed.
        skipped: path and reason of the first files that were not taken.
        findings: what was found out about photos together, in lines.
        changed: whether anything was.
        notes: on source and split.
    """

    directory: Path
    info: manifest.DatasetInfo
    tally: manifest.Tally
    written: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    findings: tuple[str, ...]
    changed: bool
    notes: tuple[str, ...]

    @property
    def manifest(self) -> manifest.Manifest:
        """The data set, read."""
        return manifest.read(self.directory)


def convert(config: Config) -> Summary:
    """Converts photos.

    Raises:
        DataError: source or output folder are not as they should be.
        OSError: as the system reports it, no space left on the device among them.
    """
    run: local_runner.Runner = (
        local_runner.Local(config.workers)
        if config.runner == "local"
        else beam_runner.Beam(config.runner, config.beam_flags)
    )
    directory = file_system.path(config.out)
    source = find_source.list_source(
        file_system.path(config.source),
        list_files=caffe_lists.parse(config.lists),
        csv_file=config.csv,
        labels_file=config.labels,
    )
    if config.lacking == "refuse":
        photo_source.check_given(source)
    _check_output(directory, source)
    with staging.staged(directory) as partial:
        before = _read_known(directory)
        _check_same_source(before, source)
        keys = selection.user_keys(source, config.group_by)
        how = decode_files.How(
            root=source.root,
            partial=partial,
            directory=directory,
            resize_min=config.resize_min,
            max_pixels=config.max_pixels,
            refuse_animated=config.animated == "refuse",
        )
        found = decode_source.decode(
            how,
            source,
            before,
            run,
            settings=how.settings | {"duplicates": near_duplicates.VERSION},
        )
        files = record_files.RecordFiles(
            partial=partial,
            directory=directory,
            known=before.files if before else (),
        )
        told = _decide(config, found, source, before, files, keys)
        info = _info(config, source, before)
        shard_bytes = config.shard_mb << 20
        places = record_files.place(found, source.class_names, shard_bytes, before)
        record_files.write(found, places, files, run)
        lines = _lines(found, source, places, partial)
        if before is not None:
            gone = before.gone(source.paths, found.found["sha256"])
            key = operator.attrgetter("path")
            lines = heapq.merge(lines, map(manifest.Line.of, gone), key=key)
        skipped: list[tuple[str, str]] = []
        with manifest.Writer(info, partial) as writer:
            for line in lines:
                writer.add(line)
                if line.action == "skipped" and len(skipped) < _SHOWN_SKIPPED:
                    skipped.append((line.path, line.reason))
            writer.finish()
        summary = Summary(
            directory=directory,
            info=info,
            tally=writer.tally,
            written=tuple(places.written),
            skipped=tuple(skipped),
            findings=tuple(told),
            changed=bool(places.written) or not _same(before, info, writer.digest),
            notes=(*source.notes, *predefined_splits.notes(source, info.shares)),
        )
        if not summary.changed:
            return summary
        for pattern in ("*.part", "*.lines", "*.found"):
            for path in partial.glob(pattern):
                path.unlink()
        manifest.commit(directory, places.obsolete)
    return summary


def _decide(
    config: Config,
    found: file_table.Table,
    source: find_source.Source,
    before: previous_dataset.Known | None,
    files: record_files.RecordFiles,
    keys: np.ndarray,
) -> list[str]:
    """What is taken, in which group and split; returns what was found out, in lines."""
    similar = duplicate_search.similar(
        found,
        source,
        encoded=lambda number: record_files.image_of(found, number, files),
        num_workers=config.workers,
    )
    bonds = selection.Bonds(similar=similar, keys=keys)
    left_out = selection.leave_out(
        found, source, bonds, before, keep_conflicts=config.conflicts == "keep"
    )
    bonds = bonds.among(found)
    predefined_splits.leave_out_copies(found, source, bonds.together(found))
    bonds = bonds.among(found)
    selection.check_classes(found, source, files.partial)
    selection.group(found, bonds)
    predefined_splits.place(found, source, before)
    info = _info(config, source, before)
    shares = predefined_splits.open_shares(source, info.shares)
    selection.assign_splits(found, seed=info.seed, shares=shares)
    return conversion_notes.lines(found, source, bonds, left_out)


def _row_settings(config: Config) -> dict[str, int | str]:
    """Return the settings that decide what the rows of the manifest say."""
    return {
        "resize_min": config.resize_min,
        "max_pixels": config.max_pixels,
        "animated": config.animated,
        "shard_mb": config.shard_mb,
        "group_by": config.group_by,
        "conflicts": config.conflicts,
        "duplicates": near_duplicates.VERSION,
    }


def _info(
    config: Config, source: find_source.Source, before: previous_dataset.Known | None
) -> manifest.DatasetInfo:
    return manifest.DatasetInfo(
        class_names=source.class_names,
        seed=before.info.seed if before else config.seed,
        shares=before.info.shares if before else split_assignment.DEFAULT_SHARES,
        settings={**_row_settings(config), **source.settings},
        versions={
            "graft": manifest.GRAFT_VERSION,
            "opencv": opencv.OPENCV_VERSION,
            "numpy": np.__version__,
            "crc32c": google_crc32c.implementation,
        },
        ignored=source.ignored,
    )


def _same(
    before: previous_dataset.Known | None, info: manifest.DatasetInfo, digest: str
) -> bool:
    """Whether the data set is as it was; other versions of tools do not count."""
    return (
        before is not None
        and before.digest == digest
        and before.info == dataclasses.replace(info, versions=before.info.versions)
    )


def _check_output(directory: Path, source: find_source.Source) -> None:
    if directory.exists() and not directory.is_dir():
        raise DataError(f"{directory}: is a file; expected a folder to write into")
    listed = source.kind in ("lists", "CSV")  # what else lies there does not matter
    if not listed:
        photo_source.check_outside(directory, source.root)
    if not directory.exists():
        return
    found = {path.name for path in directory.iterdir()}
    if manifest.HEAD_NAME in found or staging.PARTIAL_NAME in found:
        return
    if foreign := sorted(found - _TOLERATED):
        raise DataError(
            f"{directory}: not empty and not made by a conversion (holds {foreign[0]}"
            f"{' and more' if len(foreign) > 1 else ''}); choose another --out"
        )


def _read_known(directory: Path) -> previous_dataset.Known | None:
    if (directory / manifest.HEAD_NAME).exists():
        return previous_dataset.Known(directory)
    return None


def _check_same_source(
    before: previous_dataset.Known | None, source: find_source.Source
) -> None:
    """Refuses to replace another data set: none of its photos is in this source."""
    if before is None:
        return
    if not any(
        row and row.is_included
        for row in previous_dataset.rows_at(before, source.paths)
    ):
        raise DataError(
            f"{before.directory}: holds another data set (classes "
            f"{', '.join(before.info.class_names[:5])}); choose another --out or "
            "remove it"
        )


def _lines(
    found: file_table.Table,
    source: find_source.Source,
    places: record_files.Places,
    partial: Path,
) -> Iterator[manifest.Line]:
    """The line of each file of the source, in the order of their paths."""
    for number, own in enumerate(found.texts(partial)):
        action, reason = file_table.ACTIONS[found.found["action"][number]], ""
        if not found.taken[number]:
            row = manifest.row_of(own)
            if number in found.reasons:
                row = row.skipped(*found.reasons[number])
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


def _place(
    number: int, found: file_table.Table, places: record_files.Places
) -> manifest.Place:
    """What a row says beside what is known of the file by itself."""
    split_number, fold = int(found.splits[number]), int(found.folds[number])
    if split_number == file_table.NO_SPLIT:
        return manifest.Place()
    group = found.sha256(int(found.groups[number]))
    name = manifest.SPLITS[split_number]
    kept_fold = None if fold == file_table.NO_FOLD else fold
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
