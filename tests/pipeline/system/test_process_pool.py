import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.system import process_pool
from pipeline.system.errors import DataError
from tests.support import processes

ROOT = Path(__file__).parents[3]  # not from conftest: workers import this file
SIGNALS_BLOCKED_AT_IMPORT = signal.pthread_sigmask(signal.SIG_BLOCK, ())


def nothing():
    pass


def double(block):
    return [2 * item for item in block]


def deadly(victims, block):
    """Crash at some items; double the others."""
    for item in block:
        if item in victims:
            os.kill(os.getpid(), signal.SIGSEGV)
    return double(block)


def killed(block):
    os.kill(os.getpid(), signal.SIGKILL)


def slow_first(block):
    if block[0] == 0:
        time.sleep(0.5)
    return double(block)


def fail(block):
    raise ValueError(f"cannot work on {block[0]}")


def exit_at_once():
    os._exit(3)


def run(function, items=range(29), num_workers=2, initializer=nothing):
    return list(
        process_pool.map_blocks(
            function,
            items,
            on_crash=lambda item: f"{item} crashed",
            initializer=initializer,
            num_workers=num_workers,
            block_size=3,
        )
    )


DOUBLED = [(item, 2 * item) for item in range(29)]


def test_results_come_in_the_order_of_the_items():
    assert run(slow_first, num_workers=3) == DOUBLED


def test_no_items_give_no_results():
    assert run(double, []) == []


@pytest.mark.parametrize("victims", [(0, 28), (3, 4, 5, 20)], ids=str)
def test_a_crash_costs_its_item_only(victims):
    assert run(functools.partial(deadly, victims)) == [
        (item, f"{item} crashed" if item in victims else twice)
        for item, twice in DOUBLED
    ]


def test_an_item_is_not_blamed_for_a_lack_of_memory():
    with pytest.raises(DataError, match="0: its process was killed, also when alone"):
        run(killed)


def test_an_exception_of_a_worker_is_raised():
    with pytest.raises(ValueError, match="cannot work on 0"):
        run(fail)


def test_no_item_is_blamed_for_workers_that_cannot_start():
    with pytest.raises(RuntimeError, match="do not start"):
        run(double, initializer=exit_at_once)


FUNCTIONS = """
import os, time
from pathlib import Path

def nothing():
    pass

def note(block):
    Path(f"worker-{os.getpid()}").touch()
    time.sleep(60)
    return block
"""
# Workers do not run it: it would start others.
PROGRAM = """
from functions import note, nothing
from pipeline.system import process_pool

list(process_pool.map_blocks(
    note, [1, 2], on_crash=str, initializer=nothing, num_workers=2, block_size=1))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment
    )
    deadline = time.monotonic() + 30
    while len(pids := [p.name[7:] for p in tmp_path.glob("worker-*")]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    for pid in pids:
        processes.wait_for_end(int(pid))


def interrupt_self():
    """Do what Ctrl-C does to a worker that has just started."""
    os.kill(os.getpid(), signal.SIGINT)


def test_workers_leave_an_interrupt_to_their_parent():
    assert run(double, initializer=interrupt_self) == DOUBLED


def is_interrupt_blocked_at_import(_):
    return [signal.SIGINT in SIGNALS_BLOCKED_AT_IMPORT]


def test_interrupts_are_blocked_while_workers_import():
    """Until they ignore Ctrl-C, it would end their imports with a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert run(is_interrupt_blocked_at_import, [1]) == [(1, True)]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
