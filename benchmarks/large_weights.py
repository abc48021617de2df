"""How long a weight file of CaffeNet's size takes to read, and how much memory.

    python benchmarks/large_weights.py [--rounds=3]

Writes CaffeNet's 61 million numbers in several formats, and reads each in a process of
its own. The limit is NumPy reading the same bytes from the same disk.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np
import safetensors.numpy

# conv1 to fc8 in Caffe's layout. Source: bvlc_reference_caffenet/train_val.prototxt.
SHAPES = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 48, 5, 5),
    "conv3": (384, 256, 3, 3),
    "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3),
    "fc6": (4096, 9216),
    "fc7": (4096, 4096),
    "fc8": (1000, 4096),
}
# {memory before, after and at its highest} and seconds, of a process that only reads.
PROGRAM = """
import json, sys, time
from pathlib import Path
def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(l.split()[1] for l in lines if l.startswith(name))) * 1024
from model.checkpoints import reading
before, start = memory("VmRSS"), time.perf_counter()
found = reading.read(Path(sys.argv[1]))
seconds = time.perf_counter() - start
assert sum(t.size for t in found.tensors.values()) > 60e6
print(json.dumps([seconds, memory("VmHWM") - before]))
"""
LIMIT = PROGRAM.replace(
    "found = reading.read(Path(sys.argv[1]))",
    "found = type('', (), {'tensors': {'': np.fromfile(sys.argv[1], np.float32)}})",
).replace("from model", "import numpy as np\nfrom model")


def varint(number: int) -> bytes:
    """A number in protobuf's form."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def message(field: int, content: bytes) -> bytes:
    """A field of bytes, in protobuf's form."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def caffemodel(path: Path, arrays: dict[str, np.ndarray], *, packed: bool) -> None:
    """Writes a network of new layers; unpacked as some old tools did."""
    with path.open("wb") as file:
        for name, array in arrays.items():
            if packed:
                numbers = message(5, array.tobytes())
            else:
                pairs = np.empty(array.size, [("tag", "u1"), ("value", "<f4")])
                pairs["tag"], pairs["value"] = 5 << 3 | 5, array.ravel()
                numbers = pairs.tobytes()
            shape = message(7, message(1, b"".join(map(varint, array.shape))))
            layer = message(1, name.encode()) + message(2, b"Convolution")
            file.write(message(100, layer + message(7, shape + numbers)))


def pickled(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a dict as numpy.save pickles it."""
    np.save(path, np.array({name: [a] for name, a in arrays.items()}, dtype=object))


WRITERS: dict[str, Callable[[Path, dict[str, np.ndarray]], None]] = {
    "caffemodel": lambda path, arrays: caffemodel(path, arrays, packed=True),
    "caffemodel, unpacked": lambda path, arrays: caffemodel(path, arrays, packed=False),
    "safetensors": lambda path, arrays: safetensors.numpy.save_file(arrays, path),
    "npz": lambda path, arrays: np.savez(path, **arrays),
    "npy, pickled dict": pickled,
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    arrays = {name: random.random(s, np.float32) for name, s in SHAPES.items()}
    rows = [["format", "MB", "seconds", "limit: np.fromfile, s", "memory / size"]]
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, write) in enumerate(WRITERS.items()):
            path = Path(scratch) / f"{number}{'.npy' if 'npy' in name else '.npz'}"
            write(path, arrays)
            found = [run(PROGRAM, path) for _ in range(options.rounds)]
            limit = [run(LIMIT, path) for _ in range(options.rounds)]
            size = path.stat().st_size
            rows.append(
                [
                    name,
                    f"{size / 1e6:.0f}",
                    f"{statistics.median(one[0] for one in found):.2f}",
                    f"{statistics.median(one[0] for one in limit):.2f}",
                    f"{statistics.median(one[1] for one in found) / size:.2f}",
                ]
            )
            path.unlink()
    measure.table("Reading CaffeNet's weights", rows)


def run(program: str, path: Path) -> tuple[float, float]:
    """Seconds, and bytes of memory beyond those of the process before."""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        cwd=measure.ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, memory = json.loads(done.stdout)
    return seconds, memory


if __name__ == "__main__":
    main()
