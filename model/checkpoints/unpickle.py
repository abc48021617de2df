"""Pickle bytes -> plain data; the only place where pickles are read.

A pickle is a program. This reader lets it build lists, dicts, numbers, strings and
arrays, and answers every name it asks for from one short list of stand-ins of our own;
any other name is an UnsafeCheckpoint, and nothing is ever imported for it.
"""

import collections
import io
import math
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from model.checkpoints import errors

# Kinds of numbers an array may hold; no objects, no strings, no structures.
_NUMBER_KINDS = "biuf"


class _Dtype:
    """Stands in for numpy.dtype."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(code, str) or len(code) > 4:
            raise pickle.UnpicklingError(f"dtype {code!r}")
        self.dtype: np.dtype[Any] = np.dtype(code)
        if self.dtype.kind not in _NUMBER_KINDS:
            raise pickle.UnpicklingError(f"an array of {self.dtype}, not of numbers")

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {order!r}")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands in for numpy.ndarray; its values are checked before they are used."""

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, str):  # written by Python 2
            data = data.encode("latin1")
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array of something else than numbers")
        self.values = from_bytes(
            data, dtype.dtype, tuple(shape), order="F" if fortran else "C"
        )


def from_bytes(
    data: bytes, dtype: np.dtype[Any], shape: tuple[Any, ...], order: Any = "C"
) -> np.ndarray:
    """Makes an array over `data`, whose length must be exactly right.

    Raises:
        pickle.UnpicklingError: shape and number of bytes do not fit.
    """
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise pickle.UnpicklingError(f"shape {shape!r}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"{len(data)} bytes for shape {shape} of {dtype}")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("an array of an unknown kind")
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Stands in for numpy's helper in pickles of protocol 5."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("an array of something else than numbers")
    return from_bytes(bytes(data), dtype.dtype, tuple(shape), order)


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a scalar of something else than a number")
    return from_bytes(data, dtype.dtype, ())[()]


def _encode(text: Any, encoding: Any) -> bytes:
    """Stands in for _codecs.encode, by which protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


PLAIN_NAMES: dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "_codecs.encode": _encode,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
}


def loads(
    data: bytes,
    where: str,
    *,
    names: Mapping[str, Any] = PLAIN_NAMES,
    persistent_load: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """Reads one pickle.

    Args:
        data: starts with the pickle; more may follow.
        where: the file, for errors.
        names: what the pickle may ask for, as "module.name", and what it gets.
        persistent_load: answers references to data outside the pickle.

    Returns:
        The object, and the number of bytes the pickle took.

    Raises:
        errors.UnsafeCheckpoint: it asks for another name; the error says which.
        errors.CorruptCheckpoint: it is no pickle, or breaks off.
    """
    try:
        length = _check_opcodes(data)
        reader = _Reader(io.BytesIO(data), where, names, persistent_load)
        found = _resolve(reader.load(), where)
    except errors.CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its opcodes meet
        raise errors.CorruptCheckpoint(
            f"{where}: not a readable pickle ({type(error).__name__}: {error})"
        ) from error
    return found, length


class _Reader(pickle.Unpickler):
    def __init__(
        self,
        file: io.BytesIO,
        where: str,
        names: Mapping[str, Any],
        persistent_load: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(file, encoding="latin1")  # strings of Python 2
        self._where = where
        self._names = names
        self._persistent_load = persistent_load

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in self._names:
            raise errors.UnsafeCheckpoint(
                f"{self._where}: its pickle asks for {full_name}, which is not plain "
                "data; nothing was run. Save the weights alone (a state dict, .npz or "
                ".safetensors) and try that file"
            )
        return self._names[full_name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent_load is None:
            raise pickle.UnpicklingError("a reference to data outside the pickle")
        return self._persistent_load(pid)


def _check_opcodes(data: bytes) -> int:
    """Returns the pickle's length; refuses memo indices that would eat the memory.

    The C unpickler sizes its memo by the largest index, which is any 32-bit number.
    """
    opcode, end = None, 0
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        if "PUT" in opcode.name and int(argument or 0) > count + 1:
            raise pickle.UnpicklingError(f"memo index {argument}")
        end = (position or 0) + 1
    if opcode is None or opcode.name != "STOP":
        raise pickle.UnpicklingError("no end")
    return end


def _resolve(found: Any, where: str, depth: int = 0) -> Any:
    """Replaces stand-ins by the arrays they hold, in dicts, lists and tuples."""
    if depth > 20:
        raise errors.CorruptCheckpoint(f"{where}: nested more than 20 levels deep")
    if isinstance(found, _Array):
        if found.values is None:
            raise errors.CorruptCheckpoint(f"{where}: an array without values")
        return found.values
    if isinstance(found, dict):
        return {k: _resolve(v, where, depth + 1) for k, v in found.items()}
    if isinstance(found, list | tuple):
        return [_resolve(value, where, depth + 1) for value in found]
    return found


def flatten(found: Any, where: str) -> dict[str, np.ndarray]:
    """Nested dicts and lists of arrays -> {"outer/inner": array}.

    A list [kernel, bias] under a layer gets the names "layer/0" and "layer/1". What is
    not an array is left out.

    Raises:
        errors.CorruptCheckpoint: not a dict with names, or no array in it.
    """
    tensors: dict[str, np.ndarray] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, np.ndarray):
            tensors[prefix] = value
        elif isinstance(value, dict):
            for name, inner in value.items():
                visit(f"{prefix}/{name}" if prefix else str(name), inner)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                visit(f"{prefix}/{number}", inner)

    if isinstance(found, dict):
        visit("", found)
    if not tensors:
        raise errors.CorruptCheckpoint(
            f"{where}: expected a dict of arrays, found {type(found).__name__}"
        )
    return tensors
