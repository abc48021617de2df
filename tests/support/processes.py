"""Run commands, and look at the processes that tested code starts."""

import os
import subprocess
import sys
import time

import psutil

from tests.support import files


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
        and any("isolated_decoder.main" in word for word in child.cmdline())
    }


def wait_for_end(pid):
    deadline = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def environment_of(cache=None, **more):
    """Return the environment of this process with another cache folder, and more."""
    folders = {} if cache is None else {"XDG_CACHE_HOME": str(cache)}
    return {**os.environ, **more, **folders}


def start_command(*words, cwd=files.ROOT, cache=None, **environment):
    """Start `python WORDS` as a user would; return the process."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment_of(cache, **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_command(*words, **options):
    """Run `python WORDS` as a user would; return the finished process."""
    with start_command(*words, **options) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)


def wait_until(process, condition):
    """Wait until a condition holds, at most two minutes, while a process runs."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
