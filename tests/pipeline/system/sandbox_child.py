"""A child process that does what test_sandbox.py asks for."""

import collections
import itertools
import os
import resource
import signal
import sys
import time

from pipeline.system import sandbox


def main():
    if sys.argv[1:] == ["fail"]:
        raise SystemExit
    if sys.argv[1:]:
        time.sleep(float(sys.argv[1]))
    sandbox.serve(answers)


def answers(request, data):
    work = request.get("work")
    if work == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif work == "sleep":
        time.sleep(60)
    elif work == "spin":  # in C, where no handler of Python's can run
        collections.deque(itertools.repeat(0), maxlen=0)
    elif work == "spin with little CPU time":
        sandbox.lower_limit(resource.RLIMIT_CPU, 1)
        collections.deque(itertools.repeat(0), maxlen=0)
    elif work == "take memory":
        sandbox.limit_memory(64 << 20)
        try:
            bytearray(96 << 20)
        except MemoryError:
            yield {"error": "memory"}, b""
    elif work == "print":
        os.write(1, b"text of a library")
    yield request, data
    yield {"second": True}, memoryview(data[::-1])
