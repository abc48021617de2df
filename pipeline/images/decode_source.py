"""Decode every file of a source in full, for conversion and for checks."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

from pipeline.images import decode_files, opencv
from pipeline.images.decode_files import DecodeOptions, Task
from pipeline.records.manifest_row import Row
from pipeline.records.previous_dataset import PreviousDataset, outdated_rows
from pipeline.sources.photo_source import Source
from pipeline.system import command_line, process_pool


class Runner:
    """Do the work of a conversion in processes and threads of this machine."""

    def __init__(self, num_workers: int) -> None:
        """Store the number of processes; 0 means one for each processor."""
        self._num_workers = num_workers

    def convert(
        self, options: DecodeOptions, tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Row | None]]:
        """Decode files; yield each with its row, None where the previous row stays."""
        return process_pool.map_blocks(
            functools.partial(decode_files.convert_block, options),
            tasks,
            on_crash=decode_files.crashed,
            initializer=decode_files.start_worker,
            num_workers=self._num_workers,
        )

    def call(self, functions: Sequence[Callable[[], Any]]) -> None:
        """Call functions that write files."""
        with futures.ThreadPoolExecutor(command_line.available_cpus()) as pool:
            list(pool.map(operator.call, functions))  # raises what they raise


def decode(
    options: DecodeOptions,
    source: Source,
    previous: PreviousDataset | None,
    runner: Runner,
    settings: Mapping[str, int | str],
) -> list[Row]:
    """Decode every file whose record cannot stay; return a row for each, in order.

    Records of the previous data set may stay if it had the same `settings`, which
    decide records and hashes. Files and offsets are those of part files or of the
    previous data set; only rows of the latter have group and split.
    """
    rows: list[Row] = []
    opencv.limit_pixels(options.max_pixels)
    what = "check" if options.part_dir is None else "convert"
    with command_line.progress(len(source.photos), "photo", what) as progress:
        for task, row in runner.convert(options, _tasks(source, previous, settings)):
            rows.append(_shared(task, row))
            progress.update()
    return rows


def _shared(task: Task, row: Row | None) -> Row:
    """Return the row of a task, without texts or rows that are in memory already."""
    photo = task.photo
    if row is not None:
        return dataclasses.replace(row, path=photo.path, class_name=photo.class_name)
    if task.previous is None:
        raise RuntimeError(f"{photo.path}: no row to keep")
    return task.previous


def _tasks(
    source: Source, previous: PreviousDataset | None, settings: Mapping[str, int | str]
) -> Iterator[Task]:
    """Yield one task a file, in the order of the paths."""
    reusable, outdated = set[str](), set[str]()
    if previous is not None:
        # Class names decide the labels in records, settings all else and the hashes.
        info = previous.manifest.info
        same_settings = settings.items() <= ({"white_level": 0} | info.settings).items()
        if same_settings and info.class_names == source.class_names:
            reusable = previous.intact_files()
        outdated = {row.path for row in outdated_rows(previous.manifest)}
    for photo in source.photos:
        row = previous.row_at(photo.path) if previous else None
        is_usable = row and row.is_included and row.file in reusable
        yield Task(
            photo=photo,
            label=source.labels.get(photo.class_name, -1),
            previous=row,
            may_keep=bool(is_usable and photo.path not in outdated),
        )
