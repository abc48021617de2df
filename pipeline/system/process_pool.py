"""Work on blocks of items in several processes; a crash costs one item only.

Decoders may crash their process on untrusted files. Then the items of that block are
tried again one at a time, and the caller learns which of them crash.
"""

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pipeline.system.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
Function = Callable[[Sequence[Item]], Result]
Initializer = Callable[[], None]


def map_blocks(
    function: Function[Item, Result],
    blocks: Iterable[Sequence[Item]],
    *,
    on_crash: Callable[[Item], Result],
    num_workers: int,
    initializer: Initializer,
) -> Iterator[tuple[Sequence[Item], list[Result]]]:
    """Apply a function to each block in worker processes; yield blocks and results.

    Blocks come in order, each with one result of `function`, which must be picklable.
    If an item crashes its process, its block comes with one result for each item:
    `on_crash` makes that of the item. `initializer` is called once in each process.

    Raises:
        DataError: SIGKILL ended a process also when it worked on one item alone, as the
            system does when memory runs out.
    """
    pending = collections.deque[tuple[Sequence[Item], futures.Future[Result]]]()
    remaining = iter(blocks)
    pool, processes = _pool(num_workers, initializer)
    try:
        while True:
            # A few blocks ahead keep every worker busy and memory bounded.
            for block in itertools.islice(remaining, 4 * num_workers - len(pending)):
                pending.append((block, _submit(pool, function, block)))
            if not pending:
                return
            block, future = pending.popleft()
            try:
                results = [future.result()]
            except BrokenProcessPool:
                pool.shutdown(wait=True, cancel_futures=True)
                if num_workers == len(block) == 1:  # no other item can be to blame
                    if -signal.SIGKILL in [process.exitcode for process in processes]:
                        raise DataError(
                            f"{block[0]}: its process was killed, also when alone: "
                            "memory is short. Free some, or lower --max_pixels."
                        ) from None
                    results = [on_crash(block[0])]
                else:
                    singles = map_blocks(
                        function,
                        [[item] for item in block],
                        on_crash=on_crash,
                        num_workers=1,
                        initializer=initializer,
                    )
                    results = [result for _, (result,) in singles]
                pool, processes = _pool(num_workers, initializer)
                _check_starts(pool)
                for index, (later, future) in enumerate(pending):
                    if future.cancelled() or future.exception():
                        pending[index] = later, _submit(pool, function, later)
            yield block, results
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(
    num_workers: int, initializer: Initializer
) -> tuple[futures.ProcessPoolExecutor, list[Any]]:
    """Make a pool and start its first process; return both.

    Whether that was killed is known afterwards, even if it ends at once.
    """
    context = multiprocessing.get_context("spawn")
    pool = futures.ProcessPoolExecutor(
        num_workers, context, initializer=_start_worker, initargs=(initializer,)
    )
    _submit(pool, len, [])
    return pool, multiprocessing.active_children()


def _start_worker(initializer: Initializer) -> None:
    """Prepare a worker; it ends with its parent, even when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
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
) -> futures.Future[Result]:
    # A process that starts here inherits the mask, and so survives Ctrl-C until it can
    # ignore it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(function, block)
    except BrokenProcessPool as error:  # the caller handles it with the other futures
        future = futures.Future[Result]()
        future.set_exception(error)
        return future
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_starts(pool: futures.ProcessPoolExecutor) -> None:
    """Raise if processes cannot start, so that no item is blamed for it."""
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise RuntimeError("worker processes do not start here") from error
