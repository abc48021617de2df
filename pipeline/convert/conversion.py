"""Convert photos to records; all files of a data set appear at once, or none."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from pipeline.convert import conversion_notes, label_corrections
from pipeline.convert.convert_settings import Config
from pipeline.grouping import (
    near_duplicates,
    photo_groups,
    photo_selection,
    split_assignment,
)
from pipeline.images import decode_files, decode_with_beam, opencv, photo_pixels
from pipeline.records import manifest, previous_dataset, staging, stored_photo
from pipeline.records.manifest import DatasetInfo, Manifest
from pipeline.records.manifest_row import Row
from pipeline.records.previous_dataset import PreviousDataset
from pipeline.sources import find_source, photo_source
from pipeline.sources.photo_source import Source
from pipeline.system import command_line, file_system, program_name
from pipeline.system.errors import DataError
from pipeline.system.remote import mirror

# Part of a file: its name, relative to the data set, and start and size in bytes.
Extent = tuple[str, int, int]
# Files that an output folder may hold before the first conversion.
_TOLERATED = {"README.md", ".gitignore", ".gitkeep"}
# Settings that determine the rows of the manifest.
_ROW_SETTINGS = (
    *("resize_min", "max_pixels", "animated", "shard_mb", "group_by", "conflicts"),
)
# Settings that determine records and hashes.
_RECORD_SETTINGS = ("resize_min", "max_pixels", "white_level", "animated", "duplicates")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Result of a conversion."""

    manifest: Manifest  # of the data set after the conversion
    written: tuple[str, ...]  # names of record files
    findings: tuple[str, ...]  # on copies, groups and photos that were left out
    changed: bool  # whether the conversion changed anything
    notes: tuple[str, ...]  # on source, split, and photos since the last conversion


def convert(config: Config) -> Summary:
    """Convert photos; DataError or OSError leaves everything as it was."""
    runner = decode_files.Runner(config.workers)
    if config.runner != "local":
        runner = decode_with_beam.Beam(config.runner, config.beam_flags)
    directory = file_system.path(config.out)
    source = find_source.list_source(file_system.path(config.source), config.labelling)
    if config.missing_classes == "refuse":
        photo_source.check_given(source)
    _check_output(directory, source)
    if config.runner == "local":
        directory = mirror.local(config.out, upload=staging.upload)
        config = dataclasses.replace(config, out=str(directory))
    corrections = label_corrections.read(config.corrections, source.class_names)
    with staging.staged(directory) as partial:
        previous = _read_previous(directory, source, config)
        info = _dataset_info(config, source, previous)
        rows, findings = _select(config, source, previous, info, runner, corrections)
        written, obsolete = place_records(
            rows, source.class_names, config.shard_mb << 20, previous
        )
        joins = (
            functools.partial(_join, directory, extents, partial / name)
            for name, extents in written.items()
        )
        runner.call(list(joins))
        changes = []
        if previous is not None:
            rows += previous.removed_photos(rows)
            changes = conversion_notes.changes(rows, previous, source.class_names)
            rows.sort(key=lambda row: row.path)  # stable: a file that is there is first
        converted = Manifest(info=info, rows=tuple(rows), directory=directory)
        before = previous.manifest if previous else None
        changed = bool(written) or before is None or not converted.same_data(before)
        if changed:
            converted.stage(partial)
            for path in (*partial.glob("*.part"), *partial.glob("*.rows")):
                path.unlink()
            staging.commit(directory, obsolete)
    names = photo_source.describe_names(source.class_names)
    return Summary(
        manifest=converted if before is None or changed else before,
        written=tuple(written),
        findings=tuple(findings),
        changed=changed,
        notes=(
            *source.notes,
            *photo_selection.describe_given(source, info.shares),
            *changes,
            *(f"warning: {kind}: {text}" for kind, text in names.items()),
        ),
    )


def _select(
    config: Config,
    source: Source,
    previous: PreviousDataset | None,
    info: DatasetInfo,
    runner: decode_files.Runner,
    corrections: list[label_corrections.Correction],
) -> tuple[list[Row], list[str]]:
    """Decode the photos, leave out those that would mislead, group and split the rest.

    The results are the rows of all files, in the order of paths, and lines of findings.
    """
    directory = file_system.path(config.out)
    user_keys = photo_groups.find_user_keys(source, config.labelling.group_by)
    options = decode_files.DecodeOptions(
        root=source.root,
        directory=directory,
        part_dir=directory,
        resize_min=config.resize_min,
        max_pixels=config.max_pixels,
        white_level=config.white_level,
        refuse_animated=config.animated == "refuse",
    )
    settings = {name: info.settings.get(name, 0) for name in _RECORD_SETTINGS}
    rows = decode_files.decode(options, source, previous, runner, settings)
    if previous is not None:
        previous.keep_splits(rows)
    failed = label_corrections.apply(rows, source, corrections, previous, directory)
    photos = stored_photo.StoredPhotos(directory)
    similar = near_duplicates.search(
        rows,
        source,
        encoded=lambda index: photos.record(rows[index]).encoded,
        num_workers=config.workers,
    )
    groups = photo_groups.PhotoGroups(similar=similar, user_keys=user_keys)
    contradicting: photo_selection.Reasons = {}
    if config.conflicts == "leave_out":
        same_pixels = groups.same_pixels(rows)
        contradicting = photo_selection.find_contradicting(rows, same_pixels)
        photo_selection.leave_out(rows, contradicting)
        groups = groups.among(rows)
    bridging = photo_selection.find_bridging(rows, groups.together(rows), previous)
    photo_selection.leave_out(rows, bridging)
    groups = groups.among(rows)
    photo_selection.leave_out_copies(rows, source, groups.together(rows))
    groups = groups.among(rows)
    photo_selection.check_classes(rows, source)
    photo_selection.place_given(rows, source, previous)
    shares = photo_selection.open_shares(source, info.shares)
    photo_selection.assign_splits(
        rows, groups, source.labels, seed=info.seed, shares=shares
    )
    lines = conversion_notes.lines(rows, groups, contradicting, bridging)
    return rows, [*failed, *lines]


def _dataset_info(
    config: Config, source: Source, previous: PreviousDataset | None
) -> DatasetInfo:
    before = previous.manifest.info if previous else None
    values = vars(config) | vars(config.labelling)
    return DatasetInfo(
        class_names=source.class_names,
        seed=before.seed if before else config.seed,
        shares=before.shares if before else split_assignment.DEFAULT_SHARES,
        settings={
            **{name: values[name] for name in _ROW_SETTINGS},
            "duplicates": near_duplicates.VERSION,
            **({"white_level": config.white_level} if config.white_level else {}),
            **source.settings,
        },
        versions={
            "graft": program_name.VERSION,
            "decoder": previous_dataset.DECODER,
            "opencv": opencv.OPENCV_VERSION,
            **photo_pixels.VERSIONS,
            "numpy": np.__version__,
            "crc32c": google_crc32c.implementation,
        },
        ignored=source.ignored,
    )


def _check_output(directory: Path, source: Source) -> None:
    if source.kind not in ("lists", "CSV"):  # these name their photos
        photo_source.check_outside(directory, source.root)
    names = {path.name for path in directory.iterdir()} if directory.exists() else set()
    if manifest.HEAD_NAME in names or staging.PARTIAL_NAME in names:
        return
    if foreign := sorted(names - _TOLERATED):
        raise DataError(
            f"{directory}: is not empty and not made by a conversion (holds "
            f"{command_line.first_few(foreign)}). Choose another --out"
        )


def _read_previous(
    directory: Path, source: Source, config: Config
) -> PreviousDataset | None:
    """Read the data set to update; refuse other photos, or flags that are missing."""
    if not (directory / manifest.HEAD_NAME).exists():
        return None
    previous = PreviousDataset(manifest.read(directory))
    rows = (previous.row_at(photo.path) for photo in source.photos)
    if not any(row and row.is_included for row in rows):
        raise DataError(
            f"{directory}: holds another data set (classes "
            f"{', '.join(previous.manifest.class_names[:5])}). Choose another --out "
            "or remove it"
        )
    present = {"layout": config.labelling.layout, "white_level": config.white_level}
    for name, value in present.items():
        before = previous.manifest.info.settings.get(name)
        if before and not value:
            raise DataError(
                f"{directory}: was converted with --{name}={before}. Pass it again, or "
                "convert into another folder with --out"
            )
    return previous


def record_name(class_name: str, shard: int = 0, num_shards: int = 1) -> str:
    """Return the name of a class's record file, which no shard of another has."""
    quoted = re.sub(r"-(?=\d{5}-of-\d{5}$)", "%2D", file_system.file_name(class_name))
    if num_shards > 1:
        quoted += f"-{shard:05d}-of-{num_shards:05d}"
    return f"{quoted}.tfrecord"


def place_records(
    rows: list[Row],
    class_names: Sequence[str],
    shard_bytes: int,
    previous: PreviousDataset | None,
) -> tuple[dict[str, Sequence[Extent]], list[str]]:
    """Decide where each record goes, and write that into the rows, in place.

    A class's records are in the order of the paths. Rows with a record say where it is
    now. A record file has about `shard_bytes`, or all of its class if that is 0. A file
    that would stay the same is not written again. The results are {record file to
    write: parts of other files to join for it} and the names of record files that are
    not needed.
    """
    members: dict[str, list[int]] = {name: [] for name in class_names}
    for index, row in enumerate(rows):
        if row.is_included:
            members[row.class_name].append(index)
    names: set[str] = set()
    written: dict[str, Sequence[Extent]] = {}
    for class_name, indices in members.items():
        shards = _shards(rows, indices, shard_bytes)
        for number, shard in enumerate(shards):
            name = record_name(class_name, number, len(shards))
            names.add(name)
            extents = _extents(rows[index] for index in shard)
            size = sum(length for _, _, length in extents)
            is_there = previous is not None and previous.file_sizes.get(name) == size
            if not (is_there and extents == [(name, 0, size)]):
                written[name] = extents
            offset = 0
            for index in shard:
                row = rows[index]
                if (row.file, row.offset) != (name, offset):
                    rows[index] = dataclasses.replace(row, file=name, offset=offset)
                offset += row.length
    before = previous.file_sizes.keys() if previous else set()
    return written, sorted(before - names)


def _shards(
    rows: Sequence[Row], indices: Sequence[int], shard_bytes: int
) -> list[list[int]]:
    """Divide photos into files; one ends at each multiple of `shard_bytes`."""
    shards: dict[int, list[int]] = {}
    size = 0
    for index in indices:
        size += rows[index].length
        number = (size - 1) // shard_bytes if shard_bytes else 0
        shards.setdefault(number, []).append(index)
    return list(shards.values())


def _extents(rows: Iterable[Row]) -> list[Extent]:
    """Return where the records of rows lie, neighbours in one file as one part."""
    extents: list[Extent] = []
    for row in rows:
        file, start, length = extents[-1] if extents else ("", 0, 0)
        if (row.file, row.offset) == (file, start + length):
            extents[-1] = (file, start, length + row.length)
        else:
            extents.append((row.file, row.offset, row.length))
    return extents


def _join(directory: Path, extents: Sequence[Extent], target: Path) -> None:
    """Write parts of files, in their order, into one file."""
    with target.open("wb") as out:
        for name, start, length in extents:
            with file_system.regular(directory / name).open("rb") as part:
                part.seek(start)
                while length:
                    chunk = part.read(min(length, 1 << 20))
                    if not chunk:
                        raise DataError(f"{part.name}: ended early while it was copied")
                    out.write(chunk)
                    length -= len(chunk)
