"""Read pickle bytes as plain data; the only place where pickles are read.

A pickle is a program. This reader lets it build lists, dicts, numbers, strings and
arrays. Every name that it asks for is looked up in a short list of our own stand-ins.
Any other name is an UnsafeCheckpoint, and nothing is ever imported for it. The stand-in
for NumPy's array holds bytes, type and shape, which are checked before NumPy makes an
array of them.
"""

import io
import math
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from model.checkpoints import bounds, errors

_MAX_LEVELS = 20  # of nested lists and dicts
# Parts of a pickle: its instructions, their lengths and texts. A state dict has about
# 80 parts per tensor; each part may cost 200 bytes of memory.
_MAX_PARTS = 2_000_000
MAX_ENTRIES = 1_000_000  # in the dicts and lists that a pickle builds or copies
_MAX_ARGUMENTS = 20  # of a call; Python may copy them each time
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


class _Array:
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
            raise pickle.UnpicklingError("an array that does not hold numbers")
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


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("an array of an unknown kind")
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """Stand in for NumPy's helper in pickles of protocol 5."""
    array = _Array()
    array.fill(data, dtype, shape, order)
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    return _frombuffer(data, dtype, (), "C").values()[()]


def _encode(text: Any, encoding: Any) -> str:
    """Return the text that protocol 2 writes for bytes; `_Array.fill` says why."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {bounds.brief(encoding)}")
    return text


# {full name that a pickle may ask for: what it gets}.
_NUMPY_NAMES: dict[str, Any] = {
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",  # which protocol 2 calls to write empty ones
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
}
for _core in ("numpy.core", "numpy._core"):  # before NumPy 2, and since
    _NUMPY_NAMES[f"{_core}.multiarray._reconstruct"] = _reconstruct
    _NUMPY_NAMES[f"{_core}.multiarray.scalar"] = _scalar
    _NUMPY_NAMES[f"{_core}.numeric._frombuffer"] = _frombuffer


def loads(
    data: bytes,
    where: str,
    *,
    start: int = 0,
    names: Mapping[str, Any] = _NUMPY_NAMES,
    persistent_load: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """Read one pickle; return its object, and its number of bytes.

    The pickle begins at byte `start`; more data may follow it. `names` maps each
    "module.name" that it may ask for to what it gets; any other name is an
    UnsafeCheckpoint. `persistent_load` resolves its references to data elsewhere.
    """
    try:
        file = _Parts(data)  # which makes no copy
        file.seek(start)
        value = _Reader(file, where, names, persistent_load).load()
        length = file.tell() - start
        value = _Resolver(max_copied_bytes=length).resolve(value)
    except errors.CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its opcodes meet
        raise errors.CorruptCheckpoint(
            f"{where}: not a readable pickle ({type(error).__name__}: "
            f"{bounds.printable(str(error))})"
        ) from error
    return value, length


class _Parts(io.BytesIO):
    """The bytes of a pickle, with a limited number of reads: one for each part."""

    _parts_left = _MAX_PARTS

    def read(self, size: int | None = -1, /) -> bytes:
        self._parts_left -= 1
        if self._parts_left < 0:
            raise pickle.UnpicklingError(f"more than {_MAX_PARTS:,} parts")
        data = super().read(size)
        if len(data) < (size or 0):
            raise EOFError("it ends too early")
        return data

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line


class _Names(dict[Any, Any]):
    """A dict or OrderedDict of a pickle, whose keys are texts or small integers.

    Other keys may take forever to hash, crash Python, or all have the same hash.
    """

    __slots__ = ()

    def __init__(self, items: Iterable[tuple[Any, Any]] = ()) -> None:
        for key, value in items.items() if isinstance(items, dict) else items:
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        is_small = isinstance(key, int) and abs(key) < 1 << 64
        if not is_small and not isinstance(key, str):
            raise pickle.UnpicklingError(f"expected text, found {type(key).__name__}")
        super().__setitem__(key, value)

    def __setstate__(self, state: Any) -> None:
        """Ignore attributes, such as those that PyTorch adds to an OrderedDict."""


def _load_dict(reader: Any) -> None:
    items = reader.pop_mark()
    reader.append(_Names(zip(items[::2], items[1::2], strict=True)))


def _load_bytes(reader: Any) -> None:
    (size,) = struct.unpack("<Q", reader.read(8))
    reader.append(reader.read(size))


def _load_state(reader: Any) -> None:
    """Call __setstate__ alone: no attribute of a stand-in can be replaced."""
    state = reader.stack.pop()
    reader.stack[-1].__setstate__(state)


def _call(reader: Any) -> None:
    if len(reader.stack[-1]) > _MAX_ARGUMENTS:
        raise pickle.UnpicklingError(f"more than {_MAX_ARGUMENTS} arguments")
    _INHERITED[pickle.REDUCE[0]](reader)


_INHERITED = pickle._Unpickler.dispatch
_DISPATCH: dict[int, Any] = {
    **_INHERITED,
    pickle.EMPTY_DICT[0]: lambda reader: reader.append(_Names()),
    pickle.DICT[0]: _load_dict,
    pickle.BYTEARRAY8[0]: _load_bytes,
    pickle.BUILD[0]: _load_state,
    pickle.REDUCE[0]: _call,
    pickle.NEWOBJ[0]: _call,  # all stand-ins are made by calls
    pickle.FRAME[0]: lambda reader: reader.read(8),  # skips the size
    # Sets become lists, so that nothing in them is hashed.
    pickle.EMPTY_SET[0]: _INHERITED[pickle.EMPTY_LIST[0]],
    pickle.ADDITEMS[0]: _INHERITED[pickle.APPENDS[0]],
    pickle.FROZENSET[0]: _INHERITED[pickle.LIST[0]],
}
del _DISPATCH[pickle.NEWOBJ_EX[0]]  # named arguments, which no weights need


class _Reader(pickle._Unpickler):
    """Python's own unpickler in Python; hostile data makes the one in C fill memory."""

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
        self._entries_left = MAX_ENTRIES

    def _copy_names(self, items: Any = ()) -> _Names:
        """Stand in for OrderedDict, which copies its argument."""
        self._entries_left -= len(items)
        if self._entries_left < 0:
            raise pickle.UnpicklingError(f"more than {MAX_ENTRIES:,} entries")
        return _Names(items)

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name == "collections.OrderedDict":
            return self._copy_names
        if full_name not in self._names:
            raise errors.UnsafeCheckpoint(
                f"{self._where}: its pickle asks for {bounds.printable(full_name)}, "
                "which is not plain data; nothing was run. Save the weights alone (a "
                "state dict, or .safetensors) and try that file"
            )
        return self._names[full_name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent_load is None:
            raise pickle.UnpicklingError("a reference to data outside the pickle")
        return self._persistent_load(pid)

    dispatch: ClassVar[dict[int, Any]] = _DISPATCH


class _Resolver:
    """Replaces stand-ins by the arrays they hold, in dicts, lists and tuples."""

    def __init__(self, max_copied_bytes: int) -> None:
        self._bytes_left = max_copied_bytes
        # An object that occurs in many places is resolved once. Otherwise ten lists
        # that each name the next one ten times would take ten billion steps.
        self._resolved: dict[int, Any] = {}

    def resolve(self, value: Any, level: int = 0) -> Any:
        """Return plain data; what is shared stays shared."""
        if level > _MAX_LEVELS:
            raise pickle.UnpicklingError(f"nested more than {_MAX_LEVELS} levels deep")
        if not isinstance(value, _Array | dict | list | tuple):
            return value
        if id(value) not in self._resolved:
            self._resolved[id(value)] = self._resolve_once(value, level)
        return self._resolved[id(value)]

    def _resolve_once(self, value: Any, level: int) -> Any:
        if isinstance(value, _Array) and value.wrapped is not None:
            return self.resolve(value.wrapped[0], level + 1)
        if isinstance(value, _Array):
            self._bytes_left -= value.copied_bytes()
            if self._bytes_left < 0:
                raise pickle.UnpicklingError("arrays that share their text")
            return value.values()
        if isinstance(value, dict):
            return {k: self.resolve(v, level + 1) for k, v in value.items()}
        return [self.resolve(item, level + 1) for item in value]
