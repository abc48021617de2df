"""An HDF5 file -> its texts and arrays by path, through a process with limits.

h5_child.py does the reading and says what it sends. What comes is checked here as if a
stranger had sent it: a file may have got hold of the child.
"""

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np

from model.checkpoints import errors

SIGNATURE = b"\x89HDF\r\n\x1a\n"

# Bytes that the arrays of a file may have: so many times its size, for what is
# compressed; at least so many; at most so many, or its size.
_EXPANSION = 20
_LEAST_BYTES = 64 << 20
_MOST_BYTES = 4 << 30
# A slow disk has 20 MB/s, a slow CPU decompresses 50 MB/s; starting takes 0.2 s.
_START_SECONDS = 10
_CPU_BYTES_PER_SECOND = 50e6
_DISK_BYTES_PER_SECOND = 20e6

_HEADER_LIMIT = 256 << 20
_ERROR_LIMIT = 10_000
_TYPES: dict[str, Any] = {
    "bfloat16": ml_dtypes.bfloat16,
    **{
        name: np.dtype(name)
        for name in (
            *("bool", "int8", "int16", "int32", "int64"),
            *("uint8", "uint16", "uint32", "uint64"),
            *("float16", "float32", "float64"),
        )
    },
}
_CHILD = "from model.checkpoints.hdf5 import h5_child; h5_child.main()"
_ROOT = Path(__file__).parents[3]

Texts = dict[str, dict[str, str | list[str]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Content:
    """What an HDF5 file holds.

    Attributes:
        texts: {path of a group, "" for the root: {name: attribute}}, as Keras writes.
        arrays: {path of a dataset: its numbers}.
        others: paths of what holds no numbers, or none that are weights.
    """

    texts: Texts
    arrays: dict[str, np.ndarray]
    others: tuple[str, ...]


def read(path: Path, *, where: str = "") -> Content:
    """Reads a file in a process of its own.

    Args:
        path: the file.
        where: what errors call it, if not by its path.

    Raises:
        errors.MissingCheckpoint: there is no such file.
        errors.UnknownFormat: it is no HDF5 file.
        errors.UnsafeCheckpoint: it takes data from other files.
        errors.CorruptCheckpoint: damaged, or more than its size allows.
    """
    where = where or str(path)
    if not path.is_file():
        raise errors.MissingCheckpoint(f"{where}: no such file")
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise errors.UnknownFormat(f"{where}: not an HDF5 file")
    size_bytes = path.stat().st_size
    limit_bytes = limit_for(size_bytes)
    cpu_seconds = round(_START_SECONDS + limit_bytes / _CPU_BYTES_PER_SECOND)
    wall_seconds = 3 * cpu_seconds + size_bytes / _DISK_BYTES_PER_SECOND
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _CHILD, path, str(limit_bytes), str(cpu_seconds)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    ) as child:
        alarm = threading.Timer(wall_seconds, child.kill)
        alarm.start()
        try:
            return receive(cast(io.BufferedReader, child.stdout), limit_bytes, where)
        finally:
            alarm.cancel()
            child.kill()


def _environment() -> dict[str, str]:
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HDF5_PLUGIN_PRELOAD": "::",  # HDF5's way to say: no plug-ins
        "OPENBLAS_NUM_THREADS": "1",  # each takes address space, and none is needed
    }


def limit_for(size_bytes: int) -> int:
    """Bytes that the arrays of a file of this size may have, all together."""
    return max(_LEAST_BYTES, size_bytes, min(_EXPANSION * size_bytes, _MOST_BYTES))


def receive(stream: io.BufferedIOBase, limit_bytes: int, where: str) -> Content:
    """Takes in what h5_child.serve sends.

    Args:
        stream: of frames.
        limit_bytes: that all arrays together may have.
        where: the file, for errors.

    Raises:
        errors.CheckpointError: as `read`; or what comes makes no sense.
    """
    return _Receiver(stream, where).content(limit_bytes)


class _Receiver:
    def __init__(self, stream: io.BufferedIOBase, where: str) -> None:
        self._stream = stream
        self._where = where

    def content(self, limit_bytes: int) -> Content:
        size = self._frame(b"H")
        if size > _HEADER_LIMIT:
            raise self._nonsense("a listing too long")
        header = self._json(size)
        texts, others = header.get("texts"), header.get("others")
        if not (isinstance(texts, dict) and _is_texts(texts)):
            raise self._nonsense("texts of another kind")
        if not (isinstance(others, list) and _is_names(others)):
            raise self._nonsense("other things than names")
        arrays = self._allocate(header.get("arrays"), limit_bytes)
        for name, array in arrays.items():
            if self._frame(b"D") != array.nbytes:
                raise self._nonsense(f"{name} with another size")
            self._fill(array.reshape(-1).view(np.uint8).data)
        return Content(texts=texts, arrays=arrays, others=tuple(others))

    def _frame(self, tag: bytes) -> int:
        """Begins the next frame; returns its length."""
        start = bytearray(9)
        self._fill(memoryview(start))
        size = int.from_bytes(start[1:], "little")
        if start[:1] == b"E":
            raise self._reported(size)
        if start[:1] != tag:
            raise self._nonsense(f"a part {bytes(start[:1])!r}")
        return size

    def _fill(self, view: memoryview) -> None:
        while len(view):
            count = self._stream.readinto(view)
            if not count:
                raise errors.CorruptCheckpoint(
                    f"{self._where}: damaged HDF5 file; the process that read it "
                    "crashed or ran out of time; copy or download it again"
                )
            view = view[count:]

    def _json(self, size: int) -> dict[str, Any]:
        text = bytearray(size)
        self._fill(memoryview(text))
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._nonsense("something else than JSON")
        return found

    def _allocate(self, listing: Any, limit_bytes: int) -> dict[str, np.ndarray]:
        if not isinstance(listing, list):
            raise self._nonsense("no listing")
        planned: dict[str, tuple[list[int], np.dtype[Any]]] = {}
        for entry in listing:
            if not isinstance(entry, list) or len(entry) != 3:
                raise self._nonsense("an array without name, shape and type")
            name, shape, dtype = entry
            if not _is_name(name) or name in planned or not _is_shape(shape):
                raise self._nonsense("an array with an impossible name or shape")
            if not isinstance(dtype, str) or dtype not in _TYPES:
                raise self._nonsense("an array of an unknown type")
            planned[name] = shape, np.dtype(_TYPES[dtype])
            limit_bytes -= math.prod(n or 1 for n in shape) * planned[name][1].itemsize
        if limit_bytes < 0:
            raise self._nonsense("arrays larger than the file allows")
        return {name: np.empty(*how) for name, how in planned.items()}

    def _reported(self, size: int) -> errors.CheckpointError:
        """The error that the child reports."""
        if size > _ERROR_LIMIT:
            return self._nonsense("an error too long")
        found = self._json(size)
        message = found.get("message")
        if not isinstance(message, str) or not message.isprintable():
            return self._nonsense("an error without words")
        kind = (
            errors.UnsafeCheckpoint if found.get("unsafe") else errors.CorruptCheckpoint
        )
        return kind(f"{self._where}: {message}")

    def _nonsense(self, what: str) -> errors.CorruptCheckpoint:
        return errors.CorruptCheckpoint(
            f"{self._where}: damaged HDF5 file; the process that read it sent {what}"
        )


def _is_name(found: Any) -> bool:
    return isinstance(found, str) and found.isprintable()


def _is_names(found: list[Any]) -> bool:
    return all(map(_is_name, found))


def _is_shape(found: Any) -> bool:
    return (
        isinstance(found, list)
        and len(found) <= 32
        and all(type(n) is int and 0 <= n < 1 << 48 for n in found)
    )


def _is_texts(found: dict[Any, Any]) -> bool:
    return all(
        _is_name(path)
        and isinstance(texts, dict)
        and all(
            isinstance(text, str) or (isinstance(text, list) and _is_names(text))
            for text in texts.values()
        )
        for path, texts in found.items()
    )
