"""Read many damaged HDF5 files, each in a fork: a start of the reader costs 0.2 s.

What every fork does is what the reader's own process does, limits and all. Also makes
the damaged files.
"""

import functools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import h5py

from model.checkpoints import errors
from model.checkpoints.hdf5 import h5_process, isolated_h5
from pipeline.system import sandbox

ROOT = Path(__file__).parents[1]
CPU_S = 1
PROCESSES = 2
MAX_MEMORY_BYTES = 1000 << 20


def read_damaged(path, count, folder, seed):
    """The contents of those damaged copies of a file that can be read.

    Checks that no copy takes too much memory and that messages can be printed.
    """
    copies = []
    for number, data in enumerate(mutations(path, count, seed)):
        copies.append(folder / f"{number}.copy")
        copies[-1].write_bytes(data)
    program = "from tests import h5_forks; h5_forks.main()"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, *copies[number::PROCESSES]],
            cwd=ROOT,
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
    """Write the answers of the reader; print each file's peak memory in bytes."""
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
    """Offsets of all bytes that are not the numbers of a dataset."""
    numbers = set()

    def visit(_, found):
        start = found.id.get_offset() if isinstance(found, h5py.Dataset) else None
        if start is not None:
            numbers.update(range(start, start + found.id.get_storage_size()))

    with h5py.File(path) as file:
        file.visititems(visit)
    return sorted(set(range(path.stat().st_size)) - numbers)


def mutations(path, count, seed):
    """Yields damaged copies: bits, bytes, fields of 2 to 8 bytes, cuts."""
    data, aims = path.read_bytes(), structure(path)
    rng = random.Random(seed)
    for _ in range(count):
        yield mutate(data, aims, rng)


def mutate(data, aims, rng):
    copy = bytearray(data)
    at = rng.choice(aims) if rng.random() < 0.7 else rng.randrange(len(data))
    kind = rng.choice(("bit", "byte", "bytes", "field", "field", "pointer", "cut"))
    if kind == "bit":
        copy[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        copy[at] = rng.choice((0, 255, rng.randrange(256)))
    elif kind == "bytes":
        for _ in range(5):
            copy[rng.choice(aims)] = rng.randrange(256)
    elif kind == "field":
        size = rng.choice((2, 4, 8))
        top = 1 << (8 * size)
        value = rng.choice((0, 1, top - 1, top // 2, top // 2 - 1))
        copy[at : at + size] = value.to_bytes(size, "little")
    elif kind == "pointer":  # HDF5 aligns them
        at -= at % 8
        copy[at : at + 8] = rng.randrange(len(data)).to_bytes(8, "little")
    else:
        del copy[at:]
    return bytes(copy)
