"""Do the work of a conversion as Apache Beam pipelines, for instance on a cluster.

Each element is a block of files. A worker decodes it in processes that may crash, into
a folder of its own. Then it writes the results to the staging folder, in files named
after the block. So the results do not depend on which worker does a block, or on
whether a block is done twice.
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
    """Do the work with a runner of Apache Beam."""

    block_files = 512

    def __init__(self, name: str, flags: Sequence[str]) -> None:
        """Connect to a runner; see BeamJobs."""
        super().__init__(num_workers=1)  # processes in each worker of Beam
        self._jobs = beam_jobs.BeamJobs(name, flags)

    def convert(
        self, options: decode_files.DecodeOptions, tasks: Iterable[decode_files.Task]
    ) -> Iterator[tuple[decode_files.Task, manifest_row.Row | None]]:
        """Decode files in the workers, which write to the staging folder."""
        if options.part_dir is None:
            raise ValueError("workers of a cluster need a folder to write to")
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
    """Return the file with the rows of a block, a line each; "" where one stays."""
    return part_dir / staging.PARTIAL_NAME / f"{number}.rows"


def _convert(
    options: decode_files.DecodeOptions,
    part_dir: Path,
    numbered: tuple[int, Sequence[decode_files.Task]],
) -> None:
    """Decode a block, and put its records and rows into the staging folder."""
    number, block = numbered
    # Dask's workers are daemons, which must have no children; ours end with them.
    multiprocessing.current_process().daemon = False
    with file_system.scratch_folder() as scratch:
        own_dir, name = scratch, decode_files.part_name(number)
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
