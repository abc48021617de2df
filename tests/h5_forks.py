"""Reads many HDF5 files, each in a fork of one process, since a start costs 0.2 s.

What every fork does is what the reader's own process does, limits and all.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from model.checkpoints import h5_child, h5_process

ROOT = Path(__file__).parents[1]
CPU_SECONDS = 3


def serve_all(folder):
    """Serves FOLDER/*.h5 to files beside them, named .out.

    Returns:
        [(peak memory in bytes, seconds)] by name.
    """
    done = subprocess.run(
        [sys.executable, "-c", "from tests import h5_forks; h5_forks.main()", folder],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def main():
    usage = [serve(path) for path in sorted(Path(sys.argv[1]).glob("*.h5"))]
    print(json.dumps(usage))


def serve(path):
    start = time.perf_counter()
    child = os.fork()
    if not child:
        limit_bytes = h5_process.limit_for(path.stat().st_size)
        try:
            with path.with_suffix(".out").open("wb") as out:
                h5_child.serve(path, out, limit_bytes, CPU_SECONDS)
        finally:
            os._exit(0)
    _, _, usage = os.wait4(child, 0)
    return usage.ru_maxrss * 1024, time.perf_counter() - start
