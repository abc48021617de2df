"""Stand in for NumPy's functions and classes while a pickle is read.

What a pickle builds from these is data only: an Array holds bytes, type and shape,
which are checked before NumPy makes an array of them.
"""

import math
import pickle
from typing import Any

import numpy as np

from model.checkpoints import bounds

# Kinds of numbers an array may hold; no objects, no strings, no structures.
_NUMBER_KINDS = "biuf"


class _Dtype:
    """Stands in for numpy.dtype."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(code, str) or len(code) > 4:
            raise pickle.UnpicklingError(f"dtype {bounds.brief(code)}")
        self.dtype: np.dtype[Any] = np.dtype(code)
        if self.dtype.kind not in _NUMBER_KINDS + "O":
            raise pickle.UnpicklingError(f"an array of {self.dtype}, not of numbers")

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {bounds.brief(order)}")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class Array:
    """Stands in for numpy.ndarray."""

    def __init__(self) -> None:
        # A list of one object, as numpy.save wraps a dict; None for numbers.
        self.wrapped: list[Any] | None = None
        self._parts: tuple[Any, ...] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> None:
        """Set the content, once it is certain that it makes an array.

        Text stands for bytes, as Python 2 and protocol 2 write them. Only `values`
        encodes it, since a pickle may refer to the same long text any number of times.
        """
        shape = tuple(shape)
        if isinstance(dtype, _Dtype) and dtype.dtype.kind == "O":
            is_one = isinstance(data, list) and len(data) == 1 and shape in ((), (1,))
            if not is_one:
                raise pickle.UnpicklingError("an array of several objects")
            self.wrapped = data
            return
        is_data = isinstance(data, bytes | bytearray | str)
        if not isinstance(dtype, _Dtype) or not is_data:
            raise pickle.UnpicklingError("an array of something else than numbers")
        if not bounds.is_possible_shape(shape):
            raise pickle.UnpicklingError(f"shape {bounds.brief(shape)}")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise pickle.UnpicklingError(
                f"{len(data)} bytes for shape {shape} of {dtype.dtype}"
            )
        self._parts = (data, dtype.dtype, shape, order)

    def copied_bytes(self) -> int:
        """Return how much memory `values` takes in addition to the pickle."""
        data = self._parts[0] if self._parts else b""
        return len(data) if isinstance(data, str) else 0

    def values(self) -> np.ndarray:
        """Return the array of numbers, a view of the pickle's bytes where possible."""
        if self._parts is None:
            raise pickle.UnpicklingError("an array without values")
        data, dtype, shape, order = self._parts
        if isinstance(data, str):
            data = data.encode("latin1")
        return np.frombuffer(data, dtype).reshape(shape, order=order)


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    if kind is not Array:
        raise pickle.UnpicklingError("an array of an unknown kind")
    return Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """Stand in for NumPy's helper in pickles of protocol 5."""
    array = Array()
    array.fill(data, dtype, shape, order)
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    return _frombuffer(data, dtype, (), "C").values()[()]


def _encode(text: Any, encoding: Any) -> str:
    """Return the text that protocol 2 writes for bytes; `Array.fill` says why."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {bounds.brief(encoding)}")
    return text


# {full name that a pickle may ask for: what it gets}.
NAMES: dict[str, Any] = {
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",  # which protocol 2 calls to write empty ones
    "numpy.ndarray": Array,
    "numpy.dtype": _Dtype,
}
for _core in ("numpy.core", "numpy._core"):  # before NumPy 2, and since
    NAMES[f"{_core}.multiarray._reconstruct"] = _reconstruct
    NAMES[f"{_core}.multiarray.scalar"] = _scalar
    NAMES[f"{_core}.numeric._frombuffer"] = _frombuffer
