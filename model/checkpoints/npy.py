"""NumPy's .npy and .npz -> {name: array}; pickles in them go through the allow-list.

Source: numpy/lib/format.py.
"""

import ast
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoints import archive, errors, shapes, unpickle

SIGNATURE = b"\x93NUMPY"
# Between a pickle and what a file of ours says of itself, in JSON.
OWN_MARK = b"\0graft\0"
_HEADER_LIMIT = 10_000  # numpy's own, against headers that take ast for ever
_KINDS = "fiub"
# What members of an .npz may come to, inflated: deflate gains little on weights.
_MAX_GROWTH, _SMALL_BYTES = 20, 64 << 20


def read(path: Path) -> tuple[dict[str, np.ndarray], str, bytes]:
    """Reads an .npy or .npz file.

    Returns:
        {name: array}, the format in words, and what a file of ours says of itself. A
        pickled {layer: {"weights": array}} gives "layer/weights", {layer: [array,
        array]} "layer/0" and "layer/1"; a plain array is called "array", those of an
        .npz have their own names.

    Raises:
        errors.UnsafeCheckpoint: a pickle in it asks for more than plain data.
        errors.CorruptCheckpoint: damaged.
    """
    with path.open("rb") as file:
        is_npy = file.read(len(SIGNATURE)) == SIGNATURE
    if is_npy:
        found, rest = _array(path.read_bytes(), str(path))
        if isinstance(found, np.ndarray):
            return {"array": found}, "NumPy array", b""
        about = rest.removeprefix(OWN_MARK) if rest.startswith(OWN_MARK) else b""
        tensors = unpickle.flatten(found, str(path))
        return tensors, "NumPy, pickled dict of arrays", about
    try:
        with zipfile.ZipFile(path) as opened:
            return _members(opened, path), "NumPy archive (.npz)", b""
    except errors.CheckpointError:
        raise
    except archive.FAULTS as error:
        raise errors.CorruptCheckpoint(f"{path}: damaged zip file ({error})") from error


def _members(opened: zipfile.ZipFile, path: Path) -> dict[str, np.ndarray]:
    size = path.stat().st_size
    infos = [info for info in opened.infolist() if info.filename.endswith(".npy")]
    total = sum(info.file_size for info in infos)
    if total > max(_SMALL_BYTES, _MAX_GROWTH * size):
        raise errors.CorruptCheckpoint(
            f"{path}: {total:,} bytes in a file of {size:,}; weights do not shrink so"
        )
    archive.check_methods(infos, path)
    if (
        sum(info.compress_size for info in infos) > size
        or min((info.header_offset for info in infos), default=0) < 0
    ):
        raise errors.CorruptCheckpoint(
            f"{path}: its members overlap or reach beyond the file"
        )
    tensors: dict[str, np.ndarray] = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        where = f"{path}:{info.filename}"
        found, _ = _array(_member(opened, info), where)
        inner = (
            {name: found}
            if isinstance(found, np.ndarray)
            else {
                key if len(infos) == 1 else f"{name}/{key}": array
                for key, array in unpickle.flatten(found, where).items()
            }
        )
        if inner.keys() & tensors.keys():
            raise errors.CorruptCheckpoint(f"{where}: a name that is there twice")
        tensors |= inner
    return tensors


def _member(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes, no more of them than it states."""
    with opened.open(info) as file:
        data = file.read(info.file_size)
        if len(data) < info.file_size or file.read(1):
            raise zipfile.BadZipFile(f"{info.filename} is not of the size it states")
    return data


def parse_header(
    data: bytes, where: str
) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """What an .npy says of its array; nothing is allocated, whatever it says.

    Args:
        data: the whole .npy.
        where: it is from, for messages.

    Returns:
        The type and shape of the array, whether columns come first, and where its bytes
        begin.

    Raises:
        errors.CorruptCheckpoint: it is no header, or of an array that cannot be.
    """
    if data[: len(SIGNATURE)] != SIGNATURE or len(data) < 12:
        raise _corrupt(where, "expected NumPy's mark, found none")
    long = data[6] >= 2
    begin = 12 if long else 10
    length = int.from_bytes(data[8:begin], "little")
    if data[6] not in (1, 2, 3) or length > min(_HEADER_LIMIT, len(data) - begin):
        raise _corrupt(where, f"a header of version {data[6]} and {length:,} bytes")
    try:
        header = ast.literal_eval(data[begin : begin + length].decode("utf-8").strip())
        descr, shape = header["descr"], header["shape"]
        fortran = header["fortran_order"]
        dtype = np.dtype(descr) if isinstance(descr, str) and len(descr) < 8 else None
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        raise _corrupt(where, "a header that is none") from None
    if dtype is None or not isinstance(shape, tuple) or not shapes.is_possible(shape):
        raise _corrupt(
            where, f"an array of {shapes.brief(descr)} and shape {shapes.brief(shape)}"
        )
    return dtype, shape, bool(fortran), begin + length


def parse_values(data: bytes, where: str) -> np.ndarray:
    """The array of an .npy of plain values, a view of its bytes.

    Raises:
        errors.CorruptCheckpoint: it holds objects, or other bytes than it states.
    """
    dtype, shape, fortran, start = parse_header(data, where)
    if dtype.kind not in _KINDS + "U" or not dtype.itemsize:
        raise _corrupt(where, f"an array of {dtype}, which is no plain value,")
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise _corrupt(
            where,
            f"{len(data) - start:,} bytes of values, expected "
            f"{math.prod(shape) * dtype.itemsize:,}",
        )
    values = np.frombuffer(data, dtype, offset=start)
    return values.reshape(shape, order="F" if fortran else "C")


def _array(data: bytes, where: str) -> tuple[Any, bytes]:
    """What an .npy holds, an array or the object that it wraps; and what follows."""
    dtype, shape, _, start = parse_header(data, where)
    if dtype.kind == "O":
        if math.prod(shape) != 1:
            raise _corrupt(
                where, f"an array of {math.prod(shape):,} objects, expected one dict"
            )
        found, size = unpickle.loads(data, where, start=start)
        return found, data[start + size :]
    if dtype.kind not in _KINDS:
        raise _corrupt(where, f"an array of {dtype}, which are no numbers,")
    return parse_values(data, where), b""


def _corrupt(where: str, what: str) -> errors.CorruptCheckpoint:
    return errors.CorruptCheckpoint(
        f"{where}: {what}; the file is damaged or cut off, get it again"
    )
