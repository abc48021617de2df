"""Reads many HDF5 files, each in a fork of one process, since a start costs 0.2 s.

What every fork does is what the reader's own process does, limits and all. Also makes
the damaged files to read.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import h5py

from model.checkpoints.hdf5 import h5_child, h5_process

ROOT = Path(__file__).parents[1]
CPU_SECONDS = 1
PROCESSES = 2


def serve_all(folder):
    """Serves FOLDER/*.h5 to files beside them, named .out.

    Returns:
        {file name: peak memory in bytes}.
    """
    paths = sorted(folder.glob("*.h5"))
    program = "from tests import h5_forks; h5_forks.main()"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, *paths[number::PROCESSES]],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]
    peaks = {}
    for process in started:
        output, _ = process.communicate()
        assert process.returncode == 0
        peaks |= json.loads(output)
    assert len(peaks) == len(paths)
    return peaks


def main():
    paths = map(Path, sys.argv[1:])
    json.dump({path.name: serve(path) for path in paths}, sys.stdout)


def serve(path):
    child = os.fork()
    if not child:
        limit_bytes = h5_process.limit_for(path.stat().st_size)
        try:
            with path.with_suffix(".out").open("wb") as out:
                h5_child.serve(path, out, limit_bytes, CPU_SECONDS)
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
