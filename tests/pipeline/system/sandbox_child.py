"""A child process that does what test_sandbox.py asks for."""

import collections
import itertools
import os
import signal
import sys
import time
from pathlib import Path

from pipeline.system import platform_support, sandbox


def main():
    start = sys.argv[1] if sys.argv[1:] else "0"
    if start == "fail":
        raise SystemExit
    for folder in sys.argv[2:]:
        Path(folder, str(os.getpid())).touch()
        while len([*Path(folder).iterdir()]) < 2:
            time.sleep(0.01)
    time.sleep(float(start))
    sandbox.serve(answers)


def answers(request, data):
    work, error = request.get("work"), ""
    if work == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif work == "raise":
        raise ValueError
    elif work == "sleep":
        time.sleep(60)
    elif work and work.startswith("spin"):
        if work == "spin with little CPU time":
            platform_support.lower_limit("RLIMIT_CPU", 1)
        # In C, where no handler of Python's can run.
        collections.deque(itertools.repeat(0), maxlen=0)
    elif work == "take memory":
        platform_support.limit_memory(64 << 20)
        try:
            bytearray(96 << 20)
        except MemoryError:
            error = "memory"
    elif work == "print":
        os.write(1, b"text of a library")
    yield {**request, "pid": os.getpid(), "error": error}, data
    yield {"second": True}, memoryview(data[::-1])
