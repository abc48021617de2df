"""Do the work of a conversion on this machine's processors."""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, Protocol

from pipeline.images import decode_files
from pipeline.images.decode_files import DecodeOptions, Task
from pipeline.records.manifest_row import Row
from pipeline.system import command_line, process_pool

# Tasks of a block, and for each its row, or None where the previous row stays.
BlockRows = tuple[Sequence[Task], Sequence[Row | None]]


class Runner(Protocol):
    """Does the work of a conversion, in processes of some kind."""

    block_files: int

    def convert(
        self, options: DecodeOptions, blocks: Iterable[Sequence[Task]], num_files: int
    ) -> Iterator[BlockRows]:
        """Decode blocks of files; yield each with its rows, in the order of blocks.

        A block has at most `block_files` tasks; all together have `num_files`.
        """

    def call(self, functions: Sequence[Callable[[], Any]]) -> None:
        """Call functions that write files."""


class Local:
    """A Runner that decodes in processes of this machine, and copies in threads."""

    block_files = 16

    def __init__(self, num_workers: int) -> None:
        """Store the number of processes; 0 means one for each processor."""
        self._num_workers = num_workers or command_line.available_cpus()

    def convert(
        self, options: DecodeOptions, blocks: Iterable[Sequence[Task]], num_files: int
    ) -> Iterator[BlockRows]:
        """Decode blocks of files as Runner.convert says."""
        for block, results in process_pool.map_blocks(
            functools.partial(decode_files.convert_block, options),
            blocks,
            on_crash=decode_files.crashed,
            num_workers=min(self._num_workers, -(-num_files // self.block_files)),
            initializer=decode_files.start_worker,
        ):
            yield block, list(itertools.chain(*results))

    def call(self, functions: Sequence[Callable[[], Any]]) -> None:
        """Call functions that write files as Runner.call says."""
        with futures.ThreadPoolExecutor(command_line.available_cpus()) as pool:
            list(pool.map(operator.call, functions))  # raises what they raise
