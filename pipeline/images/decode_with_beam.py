"""Decode the files of a conversion in jobs of Apache Beam, for instance on a cluster.

Each element of a job is a block of files. A worker decodes it in a child process, which
may crash, into a scratch folder. Then it writes the results to the staging folder, in
files named after the block. So it does not matter which worker decodes a block, or
whether two do.
"""

import dataclasses
import functools
import multiprocessing
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.images import decode_files
from pipeline.records import manifest_row, staging
from pipeline.system import file_system, process_pool
from pipeline.system.remote import beam_jobs


class Beam(decode_files.Runner):
    """Do the work of a conversion with a runner of Apache Beam."""

    block_files = 512  # in one element

    def __init__(self, name: str, flags: Sequence[str]) -> None:
        """Import Beam, or raise DataError as BeamJobs does."""
        super().__init__(num_workers=1)
        self._jobs = beam_jobs.BeamJobs(name, flags)

    def convert(
        self, options: decode_files.DecodeOptions, tasks: Iterable[decode_files.Task]
    ) -> Iterator[tuple[decode_files.Task, manifest_row.Row | None]]:
        """Decode files in the workers, which write to the staging folder."""
        if options.part_dir is None:
            raise ValueError("part_dir: None. Workers of Beam need a staging folder")
        numbered = list(enumerate(process_pool.blocks(tasks, self.block_files)))
        function = functools.partial(_convert, options, options.part_dir)
        self._jobs.each("Convert", function, numbered)
        for number, block in numbered:
            path = _rows_path(options.part_dir, number)
            lines = path.read_text(encoding="ascii").splitlines()
            rows = (manifest_row.from_line(line) if line else None for line in lines)
            yield from zip(block, rows, strict=True)

    def call(self, functions: Sequence[Callable[[], Any]]) -> None:
        """Call functions that write files."""
        if functions:
            self._jobs.each("Join", operator.call, list(functions))


def _rows_path(part_dir: Path, number: int) -> Path:
    """Return the file with a line per row of a block, empty for a row that stays."""
    return part_dir / staging.PARTIAL_NAME / f"{number}.rows"


def _convert(
    options: decode_files.DecodeOptions,
    part_dir: Path,
    numbered: tuple[int, Sequence[decode_files.Task]],
) -> None:
    """Decode a block, and write its records and rows to the staging folder."""
    number, block = numbered
    name = decode_files.part_name(number)
    # A worker of Dask is a daemon, which may have no children; ours end with it.
    multiprocessing.current_process().daemon = False
    with file_system.scratch_folder() as own_dir:
        (own_dir / staging.PARTIAL_NAME).mkdir()
        own_options = dataclasses.replace(options, part_dir=own_dir)
        local = decode_files.Runner(num_workers=1)
        lines = []
        with (part_dir / name).open("wb") as part:
            for _, row in local.convert(own_options, block):
                if row and row.is_included:
                    with (own_dir / row.file).open("rb") as own_part:
                        own_part.seek(row.offset)
                        record = own_part.read(row.length)
                    row = dataclasses.replace(row, file=name, offset=part.tell())
                    part.write(record)
                lines.append(manifest_row.to_line(row) if row else "\n")
        _rows_path(part_dir, number).write_text("".join(lines), encoding="ascii")
