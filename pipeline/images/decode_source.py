"""A source -> every file decoded in full.

The part that converting and checking share.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from pipeline.images import decode_files, local_runner, opencv
from pipeline.records import file_table, manifest, previous_dataset
from pipeline.sources import find_source
from pipeline.system import command_line

Item = TypeVar("Item")


def decode(
    how: decode_files.How,
    source: find_source.Source,
    before: previous_dataset.Known | None,
    run: local_runner.Runner,
    settings: Mapping[str, int | str],
) -> file_table.Table:
    """Decodes every file that is not known yet.

    Args:
        how: for the workers.
        source: the files.
        before: an earlier conversion, whose records are kept; None if there is none.
        run: does the work.
        settings: what decides records and hashes; those of an earlier conversion are
            kept where it had the same.
    """
    found = file_table.Table(source.labels)
    count = len(source.paths)
    opencv.limit_pixels(how.max_pixels)
    what = "convert" if how.keeps_records else "check"
    with command_line.progress(count, "photo", what) as progress:
        tasks = _tasks(source, before, found, settings)
        work = blocks(tasks, run.block_files)
        for number, results in run.convert(how, work, count):
            for segment in results:
                found.add(segment)
            progress.update(number)
    return found


def blocks(items: Iterator[Item], size: int) -> Iterator[Sequence[Item]]:
    """Items in runs of `size`; the last may be shorter."""
    while block := list(itertools.islice(items, size)):
        yield block


def _tasks(
    source: find_source.Source,
    before: previous_dataset.Known | None,
    found: file_table.Table,
    settings: Mapping[str, int | str],
) -> Iterator[decode_files.Task]:
    """One task a file, in the order of the paths; the split of a path is noted."""
    rows: Iterator[manifest.Row | None] = itertools.repeat(None)
    reusable: dict[str, int] = {}
    if before is not None:
        rows = previous_dataset.rows_at(before, source.paths)
        # A record holds its label, and the settings decide its bytes; a row, its hash.
        kept = {name: before.info.settings.get(name) for name in settings}
        if before.info.class_names == source.class_names and kept == settings:
            reusable = {
                name: file_table.KNOWN_FILES - before.files.index(name)
                for name in before.intact_files()
            }
    for number, (path, row) in enumerate(zip(source.paths, rows, strict=False)):
        file = reusable.get(row.file) if row and row.is_included else None
        if row and row.split:
            found.splits[number] = manifest.SPLITS.index(row.split)
            found.folds[number] = file_table.NO_FOLD if row.fold is None else row.fold
        yield decode_files.Task(
            path=path,
            class_name=source.class_name(number),
            label=int(source.labels[number]),
            span=source.span(number),
            known=row if file is not None else None,
            known_file=file_table.NO_RECORD if file is None else file,
            known_sha256=row.sha256 if row else "",
        )
