"""Do the work of a conversion on this machine's processors."""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, Protocol

from pipeline.images import decode_files
from pipeline.images.decode_files import DecodeOptions, Task
from pipeline.records.manifest_row import Row
from pipeline.system import command_line, process_pool


class Runner(Protocol):
    """Does the work of a conversion, in processes of some kind."""

    def convert(
        self, options: DecodeOptions, tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Row | None]]:
        """Decode files; yield each with its row, None where the previous row stays."""

    def call(self, functions: Sequence[Callable[[], Any]]) -> None:
        """Call functions that write files."""


class Local:
    """A Runner that decodes in processes of this machine, and copies in threads."""

    def __init__(self, num_workers: int) -> None:
        """Store the number of processes; 0 means one for each processor."""
        self._num_workers = num_workers

    def convert(
        self, options: DecodeOptions, tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Row | None]]:
        """Decode files as Runner.convert says."""
        return process_pool.map_blocks(
            functools.partial(decode_files.convert_block, options),
            tasks,
            on_crash=decode_files.crashed,
            initializer=decode_files.start_worker,
            num_workers=self._num_workers,
        )

    def call(self, functions: Sequence[Callable[[], Any]]) -> None:
        """Call functions that write files as Runner.call says."""
        with futures.ThreadPoolExecutor(command_line.available_cpus()) as pool:
            list(pool.map(operator.call, functions))  # raises what they raise
