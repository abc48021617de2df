"""Look at processes that the tested code starts."""

import time

import psutil


def is_running(pid):
    return psutil.pid_exists(pid) and (
        psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    )


def decoders(pid=None):
    """Return the ids of a process's decoders, by default of this process."""
    return {
        child.pid
        for child in psutil.Process(pid).children()
        if is_running(child.pid)
        and any("decoder_process.main" in word for word in child.cmdline())
    }


def wait_for_end(pid):
    deadline = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
