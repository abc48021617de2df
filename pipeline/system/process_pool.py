"""Work on many items in several processes; a crash costs one item only.

Decoders may crash their process on untrusted files. Then the items of that block are
tried again one at a time, and the caller learns which of them crash.
"""

import collections
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from types import ModuleType
from typing import Any, TypeVar

from pipeline.system import command_line, platform_support
from pipeline.system.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
Function = Callable[[Sequence[Item]], Sequence[Result]]
Pending = tuple[Sequence[Item], futures.Future[Sequence[Result]]]
Initializer = Callable[[], None]


def blocks(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield items in lists of `size`; the last may be shorter."""
    remaining = iter(items)
    while block := list(itertools.islice(remaining, size)):
        yield block


def map_blocks(
    function: Function[Item, Result],
    items: Iterable[Item],
    *,
    on_crash: Callable[[Item], Result],
    initializer: Initializer,
    num_workers: int = 0,
    block_size: int = 16,
) -> Iterator[tuple[Item, Result]]:
    """Apply a function to blocks of items in worker processes; yield items and results.

    The function, which must be picklable, returns one result for each item of a block;
    `on_crash` makes that of an item that crashes its process. `initializer` is called
    once in each process. Without `num_workers`, each processor has one. DataError says
    that SIGKILL ended a process that worked on one item alone: memory has run out.
    """
    num_workers = num_workers or command_line.available_cpus()
    remaining = blocks(items, block_size)
    pending = collections.deque[Pending[Item, Result]]()
    pool, processes = _pool(num_workers, initializer), list[Any]()
    try:
        while True:
            # A few blocks ahead keep every worker busy and memory bounded.
            for block in itertools.islice(remaining, 4 * num_workers - len(pending)):
                pending.append(_submit(pool, function, block))
                processes = processes or multiprocessing.active_children()
            if not pending:
                return
            block, future = pending.popleft()
            try:
                results = future.result()
            except BrokenProcessPool:
                pool.shutdown(wait=True, cancel_futures=True)
                if num_workers == len(block) == 1:  # no other item can be to blame
                    _check_memory(block[0], processes)
                    results = [on_crash(block[0])]
                else:
                    singles = map_blocks(
                        function,
                        block,
                        on_crash=on_crash,
                        initializer=initializer,
                        num_workers=1,
                        block_size=1,
                    )
                    results = [result for _, result in singles]
                pool = _pool(num_workers, initializer)
                processes = _check_starts(pool)
                for index, (later, future) in enumerate(pending):
                    if future.cancelled() or future.exception():
                        pending[index] = _submit(pool, function, later)
            yield from zip(block, results, strict=True)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _check_memory(item: object, processes: Sequence[Any]) -> None:
    """Raise if SIGKILL ended one of the processes, which is not an item's fault."""
    if platform_support.KILLED in [process.exitcode for process in processes]:
        raise DataError(
            f"{item}: its process was killed, also when alone: memory is short. Free "
            "some, or lower --max_pixels."
        )


def _pool(num_workers: int, initializer: Initializer) -> futures.ProcessPoolExecutor:
    """Make a pool, which starts a process when there is work and no process is idle."""
    context = multiprocessing.get_context("spawn")
    return futures.ProcessPoolExecutor(
        num_workers, context, initializer=_start_worker, initargs=(initializer,)
    )


def _start_worker(initializer: Initializer) -> None:
    """Prepare a worker; it ends with its parent, even when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    platform_support.mask_signals("SIG_UNBLOCK", {signal.SIGINT})
    threading.Thread(target=_follow_parent, daemon=True).start()
    initializer()


def _follow_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _submit(
    pool: futures.ProcessPoolExecutor,
    function: Function[Item, Result],
    block: Sequence[Item],
) -> Pending[Item, Result]:
    # A process that starts here inherits the mask, and so survives Ctrl-C until it can
    # ignore it. It would run the main module, which may be a script of the user's.
    before = platform_support.mask_signals("SIG_BLOCK", {signal.SIGINT})
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        future = pool.submit(function, block)
    except BrokenProcessPool as error:  # the caller handles it with the other futures
        future = futures.Future()
        future.set_exception(error)
    finally:
        sys.modules["__main__"] = main
        platform_support.mask_signals("SIG_SETMASK", before)
    return block, future


def _check_starts(pool: futures.ProcessPoolExecutor) -> list[Any]:
    """Start a process; raise if it ends, so that no item is blamed for it."""
    _, future = _submit(pool, list, [])
    processes = multiprocessing.active_children()
    try:
        future.result()
    except BrokenProcessPool as error:
        raise RuntimeError("worker processes do not start here") from error
    return list(processes)
