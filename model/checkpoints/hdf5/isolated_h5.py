"""Read the texts and arrays of an HDF5 file in a child process.

The HDF5 library crashes or hangs on some damaged files. h5_process.py is the child.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from model.checkpoints import errors
from pipeline.system import sandbox

SIGNATURE = b"\x89HDF\r\n\x1a\n"

# The arrays of a file may have this many times its size, since they may be compressed;
# at least this many bytes; at most this many, or the file's size.
_EXPANSION = 20
_MIN_LIMIT_BYTES = 64 << 20
_MAX_LIMIT_BYTES = 4 << 30
# A slow disk reads 20 MB/s, a slow CPU decompresses 50 MB/s, and imports take 0.2 s.
_START_S = 10
_CPU_BYTES_PER_SECOND = 50e6
_DISK_BYTES_PER_SECOND = 20e6

Texts = dict[str, dict[str, str | list[str]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Content:
    """What an HDF5 file holds."""

    texts: Texts  # {path of a group, "" for the root: {name: attribute of Keras}}
    arrays: dict[str, np.ndarray]  # {path of a dataset: its numbers}
    others: tuple[str, ...]  # paths of datasets that hold no weights
    where: str = ""  # name of the file, for messages


def read(path: Path, *, where: str = "") -> Content:
    """Read an HDF5 file; `where` is its name in errors, by default its path."""
    where = where or str(path)
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise errors.UnknownFormat(f"{where}: not an HDF5 file")
    size_bytes = path.stat().st_size
    limit_bytes = limit_for(size_bytes)
    cpu_s = round(_START_S + limit_bytes / _CPU_BYTES_PER_SECOND)
    child = sandbox.Child(
        f"{__package__}.h5_process",
        task="read HDF5 files",
        environment={"HDF5_PLUGIN_PRELOAD": "::"},  # HDF5 loads no plug-ins
    )
    with contextlib.closing(child):
        try:
            child.send(
                {"path": str(path), "limit_bytes": limit_bytes, "cpu_s": cpu_s},
                timeout_s=3 * cpu_s + size_bytes / _DISK_BYTES_PER_SECOND,
            )
            return receive(child.receive, where)
        except sandbox.NotStarted as error:
            raise errors.CheckpointError(f"{where}: {error}") from error
        except sandbox.ChildEnded as error:
            raise errors.CorruptCheckpoint(
                f"{where}: damaged HDF5 file; the process that read it crashed or ran "
                "out of time; copy or download it again"
            ) from error


def limit_for(size_bytes: int) -> int:
    """Return the most bytes that all arrays of a file of this size may have."""
    expanded = min(_EXPANSION * size_bytes, _MAX_LIMIT_BYTES)
    return max(_MIN_LIMIT_BYTES, size_bytes, expanded)


def receive(
    next_answer: Callable[[], tuple[sandbox.Header, memoryview]], where: str
) -> Content:
    """Receive the answers of h5_process from a function that returns the next one."""

    def answer() -> tuple[sandbox.Header, memoryview]:
        header, numbers = next_answer()
        if "error" in header:
            raise errors.CorruptCheckpoint(f"{where}: {header['error']}")
        return header, numbers

    listing, _ = answer()
    arrays = {}
    for name, shape, type_name in listing["arrays"]:
        is_bfloat16 = type_name == "bfloat16"
        dtype = np.dtype(ml_dtypes.bfloat16 if is_bfloat16 else type_name)
        arrays[name] = np.frombuffer(answer()[1], dtype).reshape(shape)
    others = tuple(listing["others"])
    return Content(texts=listing["texts"], arrays=arrays, others=others, where=where)
