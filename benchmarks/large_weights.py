"""Measure time and memory of reading a weight file of CaffeNet's size.

    python benchmarks/large_weights.py [--rounds=3]

Writes the 61 million weights of CaffeNet in several formats and reads each file in a
process of its own. The limit is NumPy reading the same bytes from the same disk.
"""

import json
import statistics
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
# Prints the seconds of reading, and the peak memory beyond that before reading.
PROGRAM = """
import json, sys, time
from pathlib import Path
def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(l.split()[1] for l in lines if l.startswith(name))) * 1024
import numpy as np
from model.checkpoints import reading
before, start = memory("VmRSS"), time.perf_counter()
arrays = READ
seconds = time.perf_counter() - start
assert sum(array.size for array in arrays) > 60e6
print(json.dumps([seconds, memory("VmHWM") - before]))
"""
GRAFT = PROGRAM.replace("READ", "reading.read(Path(sys.argv[1])).tensors.values()")
LIMIT = PROGRAM.replace("READ", "[np.fromfile(sys.argv[1], np.float32)]")

Arrays = dict[str, np.ndarray]


def varint(number: int) -> bytes:
    """Return a number as a protobuf varint."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def message(field: int, content: bytes) -> bytes:
    """Return a protobuf field of bytes."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def write_caffemodel(path: Path, arrays: Arrays, *, packed: bool) -> None:
    """Write a file of LayerParameter messages; some old tools wrote unpacked values."""
    with path.open("wb") as file:
        for name, array in arrays.items():
            if packed:
                values = message(5, array.tobytes())
            else:
                pairs = np.empty(array.size, [("tag", "u1"), ("value", "<f4")])
                pairs["tag"], pairs["value"] = 5 << 3 | 5, array.ravel()
                values = pairs.tobytes()
            shape = message(7, message(1, b"".join(map(varint, array.shape))))
            layer = message(1, name.encode()) + message(2, b"Convolution")
            file.write(message(100, layer + message(7, shape + values)))


def write_pickled(path: Path, arrays: Arrays) -> None:
    """Write a dictionary as numpy.save pickles it."""
    np.save(path, np.array({name: [a] for name, a in arrays.items()}, dtype=object))


WRITERS: dict[str, Callable[[Path, Arrays], None]] = {
    "caffemodel": lambda path, arrays: write_caffemodel(path, arrays, packed=True),
    "caffemodel, unpacked": lambda path, arrays: write_caffemodel(
        path, arrays, packed=False
    ),
    "safetensors": lambda path, arrays: safetensors.numpy.save_file(arrays, path),
    "npz": lambda path, arrays: np.savez(path, **arrays),
    "npy, pickled dict": write_pickled,
}


def main() -> None:
    """Print the table."""
    options = measure.argument_parser(__doc__, photos=False, rounds=3).parse_args()
    random = np.random.default_rng(0)
    arrays = {name: random.random(s, np.float32) for name, s in SHAPES.items()}
    rows = [["format", "MB", "seconds", "limit: np.fromfile, s", "peak memory / size"]]
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, write) in enumerate(WRITERS.items()):
            path = Path(scratch) / f"{number}{'.npy' if 'npy' in name else '.npz'}"
            write(path, arrays)
            size = path.stat().st_size
            seconds, memory = run_median(GRAFT, path, options.rounds)
            limit_s, _ = run_median(LIMIT, path, options.rounds)
            figures = (seconds, limit_s, memory / size)
            row = [name, f"{size / 1e6:.0f}", *(f"{figure:.2f}" for figure in figures)]
            rows.append(row)
            path.unlink()
    measure.print_table("Reading CaffeNet's weights", rows)


def run_median(program: str, path: Path, rounds: int) -> list[float]:
    """Return the medians of seconds and bytes of memory over some runs of a program."""
    runs = [
        json.loads(measure.run_python("-c", program, str(path))) for _ in range(rounds)
    ]
    return [statistics.median(figures) for figures in zip(*runs, strict=True)]


if __name__ == "__main__":
    main()
