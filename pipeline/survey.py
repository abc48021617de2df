"""A source -> every file decoded in full, and which photos show the same.

The part that converting and checking share.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from pipeline import (
    command,
    duplicates,
    image,
    known,
    manifest,
    parts,
    runner,
    schema,
    sources,
    table,
    workers,
)

Item = TypeVar("Item")


def decode(
    how: parts.How,
    source: sources.Source,
    before: known.Known | None,
    run: runner.Runner,
) -> table.Table:
    """Decodes every file that is not known yet.

    Args:
        how: for the workers.
        source: the files.
        before: an earlier conversion, whose records are kept; None if there is none.
        run: does the work.
    """
    found = table.Table(source.labels)
    count = len(source.paths)
    image.limit_pixels(how.max_pixels)
    what = "convert" if how.keeps_records else "check"
    with command.progress(count, "photo", what) as progress:
        tasks = _tasks(how, source, before, found)
        blocks = _blocks(tasks, run.block_files)
        for number, results in run.convert(how, blocks, count):
            for segment in results:
                found.add(segment)
            progress.update(number)
    return found


def similar(
    found: table.Table,
    source: sources.Source,
    *,
    encoded: Callable[[int], bytes],
    num_workers: int,
) -> duplicates.Similar:
    """Searches near-duplicates; only what the hashes propose is decoded again.

    This process does that, whose limit of pixels is that of its start.

    Args:
        found: all files.
        source: likewise.
        encoded: number of a file -> a JPEG or PNG of it, upright.
        num_workers: processes; 0: one for each processor.

    Raises:
        schema.DataError: one does not decode any more; names it.
    """

    def thumbnail(number: int) -> np.ndarray:
        try:
            return image.thumbnail(encoded(number), duplicates.SIDE)
        except image.ImageError as error:
            raise schema.DataError(
                f"{source.root}/{source.paths[number]}: cannot be compared with others "
                f"({error}); run again if it was changed a moment ago, and for a high "
                f"--max_pixels set {image.MAX_PIXELS_NAME} to the same"
            ) from error

    def digests(numbers: Sequence[int]) -> list[bytes]:
        done = workers.map_blocks(
            functools.partial(parts.digest_block, source.root),
            _blocks(map(source.span, numbers), runner.Local.block_files),
            on_crash=parts.no_digest,
            num_workers=min(num_workers or command.available_cpus(), len(numbers)),
            initializer=parts.start_worker,
        )
        return list(itertools.chain(*(one for _, found in done for one in found)))

    return duplicates.find(found, thumbnail, digests)


def _blocks(items: Iterator[Item], size: int) -> Iterator[Sequence[Item]]:
    while block := list(itertools.islice(items, size)):
        yield block


def _tasks(
    how: parts.How,
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
        wanted = how.settings | {"duplicates": duplicates.VERSION}
        kept = {name: before.about.settings.get(name) for name in wanted}
        if before.about.class_names == source.class_names and kept == wanted:
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
            span=source.span(number),
            known=row if file is not None else None,
            known_file=table.NO_RECORD if file is None else file,
            known_sha256=row.sha256 if row else "",
        )
