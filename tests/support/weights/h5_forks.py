"""Read many damaged HDF5 files, each in a fork: a start of the reader costs 0.2 s.

A fork does what the reader's child process does, with its limits.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py

from model.checkpoints import errors
from model.checkpoints.hdf5 import h5_process, isolated_h5
from pipeline.system import sandbox
from tests.support import files
from tests.support.weights import damage

CPU_S = 1
PROCESSES = 2
MAX_MEMORY_BYTES = 1000 << 20


def read_damaged(path, count, folder, seed):
    """Return the contents of those damaged copies of a file that can be read.

    Also check that no copy takes too much memory, and that messages can be printed.
    """
    copies = [folder / f"{number}.copy" for number in range(count)]
    damaged = damage.copies(path.read_bytes(), count, aims=structure(path), seed=seed)
    for copy, data in zip(copies, damaged, strict=True):
        copy.write_bytes(data)
    program = "from tests.support.weights import h5_forks; h5_forks.main()"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, *copies[number::PROCESSES]],
            cwd=files.ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]
    for process in started:
        output, _ = process.communicate()
        assert process.returncode == 0
        assert max(json.loads(output)) < MAX_MEMORY_BYTES
    contents = []
    for copy in copies:
        with copy.with_suffix(".answers").open("rb") as stream:
            next_answer = functools.partial(sandbox.read_message, stream)
            try:
                contents.append(isolated_h5.receive(next_answer, "w"))
            except errors.CheckpointError as error:
                assert str(error).isprintable()
            except EOFError:
                pass  # the process crashed or ran out of time
    return contents


def main():
    """Write the reader's answers; print the peak memory of each fork, in bytes."""
    json.dump([serve(Path(name)) for name in sys.argv[1:]], sys.stdout)


def serve(path):
    child = os.fork()
    if not child:
        limit_bytes = isolated_h5.limit_for(path.stat().st_size)
        request = {"path": str(path), "limit_bytes": limit_bytes, "cpu_s": CPU_S}
        try:
            with path.with_suffix(".answers").open("wb") as stream:
                for header, numbers in h5_process.answers(request, b""):
                    sandbox.write_message(stream, header, numbers)
        finally:
            os._exit(0)
    _, _, usage = os.wait4(child, 0)
    return usage.ru_maxrss * 1024


def structure(path):
    """Return the offsets of all bytes that are not the numbers of a dataset."""
    numbers = set()

    def visit(_, item):
        start = item.id.get_offset() if isinstance(item, h5py.Dataset) else None
        if start is not None:
            numbers.update(range(start, start + item.id.get_storage_size()))

    with h5py.File(path) as file:
        file.visititems(visit)
    return sorted(set(range(path.stat().st_size)) - numbers)
