"""Blocks of work -> results, on several processes; a crash costs one item, not all.

Decoders of strangers' files can take their process down. The job then goes on: the
items that were under way are tried again one at a time, and the one that crashes again
is reported as such.
"""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_blocks(
    function: Callable[[Sequence[Item]], Result],
    blocks: Iterable[Sequence[Item]],
    *,
    on_crash: Callable[[Item], Result],
    num_workers: int,
    initializer: Callable[[], None],
) -> Iterator[tuple[Sequence[Item], list[Result]]]:
    """Applies `function` to each block in worker processes.

    Args:
        function: block -> result; picklable, and so is what it raises.
        blocks: of items.
        on_crash: the result for an item that takes its process down.
        num_workers: processes.
        initializer: called once in each process.

    Yields:
        (block, results), in the order of the blocks: one result for the block, or, if
        one of its items took a process down, one for each item.
    """
    pending: collections.deque[
        tuple[Sequence[Item], concurrent.futures.Future[Result]]
    ] = collections.deque()
    remaining = iter(blocks)
    pool = _pool(num_workers, initializer)
    try:
        while True:
            # A few blocks ahead keep every worker busy and memory bounded.
            while len(pending) < 4 * num_workers:
                block = next(remaining, None)
                if block is None:
                    break
                pending.append((block, _submit(pool, function, block)))
            if not pending:
                return
            block, future = pending.popleft()
            try:
                yield block, [future.result()]
            except BrokenProcessPool:
                pool.shutdown(wait=True, cancel_futures=True)
                alone = _one_by_one(function, block, on_crash, initializer)
                pool = _pool(num_workers, initializer)
                pending = collections.deque(
                    (waiting, _again(pool, function, waiting, done))
                    for waiting, done in pending
                )
                yield block, alone
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(
    num_workers: int, initializer: Callable[[], None]
) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(initializer,),
    )


def _start_worker(initializer: Callable[[], None]) -> None:
    """Makes the worker end with its parent, even when that is killed outright."""

    def follow_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=follow_parent, daemon=True).start()
    initializer()


def _submit(
    pool: concurrent.futures.ProcessPoolExecutor,
    function: Callable[[Sequence[Item]], Result],
    block: Sequence[Item],
) -> "concurrent.futures.Future[Result]":
    # A process that starts here inherits the mask, until it can ignore Ctrl-C.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(function, block)
    except BrokenProcessPool as error:  # it broke a moment ago: told with the others
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()
        future.set_exception(error)
        return future
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _again(
    pool: concurrent.futures.ProcessPoolExecutor,
    function: Callable[[Sequence[Item]], Result],
    block: Sequence[Item],
    future: "concurrent.futures.Future[Result]",
) -> "concurrent.futures.Future[Result]":
    """Keeps a finished block, submits a broken one anew."""
    if future.cancelled() or isinstance(future.exception(), BrokenProcessPool):
        return _submit(pool, function, block)
    return future


def _one_by_one(
    function: Callable[[Sequence[Item]], Result],
    block: Sequence[Item],
    on_crash: Callable[[Item], Result],
    initializer: Callable[[], None],
) -> list[Result]:
    results: list[Result] = []
    pool = _pool(1, initializer)
    try:
        for item in block:
            try:
                results.append(_submit(pool, function, [item]).result())
            except BrokenProcessPool:
                results.append(on_crash(item))
                pool.shutdown(wait=True)
                pool = _pool(1, initializer)
                _check_starts(pool)
    finally:
        pool.shutdown(wait=True)
    return results


def _check_starts(pool: concurrent.futures.ProcessPoolExecutor) -> None:
    """Tells an item that crashes its process from processes that cannot start."""
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise RuntimeError("worker processes do not start here") from error
