"""Where the work of a conversion is done: on this machine's processors."""

import concurrent.futures
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from pipeline.images import decode_files
from pipeline.records import file_table
from pipeline.system import command_line, process_pool


class Runner(Protocol):
    """What does the work, and in what order its results come."""

    block_files: int

    def convert(
        self,
        how: decode_files.How,
        blocks: Iterable[Sequence[decode_files.Task]],
        num_files: int,
    ) -> Iterator[tuple[int, list[file_table.Segment]]]:
        """Decodes blocks of files; yields numbers of files and what is told of them."""

    def call(self, functions: Sequence[Callable[[], Any]]) -> None:
        """Calls functions that write files."""


class Local:
    """Worker processes of this machine, and threads for what only copies."""

    block_files = 16

    def __init__(self, num_workers: int) -> None:
        """Takes a number of processes; 0: one for each processor."""
        self._num_workers = num_workers or command_line.available_cpus()

    def convert(
        self,
        how: decode_files.How,
        blocks: Iterable[Sequence[decode_files.Task]],
        num_files: int,
    ) -> Iterator[tuple[int, list[file_table.Segment]]]:
        """As Runner.convert."""
        for block, results in process_pool.map_blocks(
            functools.partial(decode_files.convert_block, how),
            blocks,
            on_crash=functools.partial(decode_files.crashed, how),
            num_workers=min(self._num_workers, -(-num_files // self.block_files)),
            initializer=decode_files.start_worker,
        ):
            yield len(block), results

    def call(self, functions: Sequence[Callable[[], Any]]) -> None:
        """As Runner.call."""
        with concurrent.futures.ThreadPoolExecutor(
            command_line.available_cpus()
        ) as pool:
            for called in [pool.submit(function) for function in functions]:
                called.result()
