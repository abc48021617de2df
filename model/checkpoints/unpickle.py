"""Pickle bytes -> plain data; the only place where pickles are read.

A pickle is a program. This reader lets it build lists, dicts, numbers, strings and
arrays, and answers every name it asks for from one short list of stand-ins of our own;
any other name is an UnsafeCheckpoint, and nothing is ever imported for it.
"""

import collections
import io
import itertools
import math
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from model.checkpoints import errors, shapes

# Kinds of numbers an array may hold; no objects, no strings, no structures.
_NUMBER_KINDS = "biuf"
# Instructions of a pickle, and entries of what it builds. A state dict takes some 40 a
# tensor; each may cost 200 bytes.
_STEP_LIMIT = 1_000_000
# Tuples in one tuple, each counted as often as it is named. Python hashes a dict's key
# by recursion, without a check of depth, and what is shared again at every place.
_TUPLE_LIMIT = 5_000
_NESTING_LIMIT = 20
_NAME_LIMIT = 500


class _Dtype:
    """Stands in for numpy.dtype."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(code, str) or len(code) > 4:
            raise pickle.UnpicklingError(f"dtype {shapes.brief(code)}")
        self.dtype: np.dtype[Any] = np.dtype(code)
        if self.dtype.kind not in _NUMBER_KINDS + "O":
            raise pickle.UnpicklingError(f"an array of {self.dtype}, not of numbers")

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {shapes.brief(order)}")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands in for numpy.ndarray; its values are checked before they are used."""

    def __init__(self) -> None:
        self.parts: tuple[Any, ...] | None = None
        self.wrapped: list[Any] | None = None  # the one object in it, if it is of such

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> None:
        """Takes what the array is to be made of.

        Text stands for bytes, as Python 2 and protocol 2 write them. It is encoded only
        by `values`: a pickle may name the same long text any number of times.
        """
        if isinstance(dtype, _Dtype) and dtype.dtype.kind == "O":
            self._fill_with_objects(data, shape)
            return
        if not isinstance(dtype, _Dtype) or not isinstance(
            data, bytes | bytearray | str
        ):
            raise pickle.UnpicklingError("an array of something else than numbers")
        check_length(len(data), dtype.dtype, tuple(shape))
        self.parts = (data, dtype.dtype, tuple(shape), order)

    def _fill_with_objects(self, data: Any, shape: Any) -> None:
        """As numpy.save wraps a dict: an array without axes that holds one object."""
        if (
            not isinstance(data, list)
            or len(data) != 1
            or tuple(shape) not in ((), (1,))
        ):
            raise pickle.UnpicklingError("an array of several objects")
        self.wrapped = data

    def size_as_text(self) -> int:
        """Bytes that `values` has to make anew."""
        data = self.parts[0] if self.parts else b""
        return len(data) if isinstance(data, str) else 0

    def values(self) -> np.ndarray:
        """The array; over the pickle's own bytes where it can."""
        if self.parts is None:
            raise pickle.UnpicklingError("an array without values")
        data, dtype, shape, order = self.parts
        if isinstance(data, str):
            data = data.encode("latin1")
        return np.frombuffer(data, dtype).reshape(shape, order=order)


def check_length(size_bytes: int, dtype: np.dtype[Any], shape: tuple[Any, ...]) -> None:
    """Checks that an array has exactly as many bytes as it must have.

    Raises:
        pickle.UnpicklingError: shape and number of bytes do not fit.
    """
    if not shapes.is_possible(shape):
        raise pickle.UnpicklingError(f"shape {shapes.brief(shape)}")
    if math.prod(shape) * dtype.itemsize != size_bytes:
        raise pickle.UnpicklingError(f"{size_bytes} bytes for shape {shape} of {dtype}")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("an array of an unknown kind")
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """Stands in for numpy's helper in pickles of protocol 5."""
    found = _Array()
    found.fill(data, dtype, shape, order)
    return found


def _scalar(dtype: Any, data: Any) -> Any:
    found = _Array()
    found.fill(data, dtype, (), "C")
    return found.values()[()]


def _bytes() -> bytes:
    """Stands in for bytes, by which protocol 2 writes empty ones."""
    return b""


def _encode(text: Any, encoding: Any) -> str:
    """Stands in for _codecs.encode, by which protocol 2 writes bytes; leaves the text.

    What it is needed for is an array's data; see `_Array.fill`.
    """
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {shapes.brief(encoding)}")
    return text


PLAIN_NAMES: dict[str, Any] = {
    "_codecs.encode": _encode,
    "__builtin__.bytes": _bytes,
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
    start: int = 0,
    names: Mapping[str, Any] = PLAIN_NAMES,
    persistent_load: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """Reads one pickle.

    Args:
        data: holds the pickle; more may follow.
        where: the file, for errors.
        start: where it begins there.
        names: what the pickle may ask for, as "module.name", and what it gets.
        persistent_load: answers references to data outside the pickle.

    Returns:
        The object, and the number of bytes the pickle took.

    Raises:
        errors.UnsafeCheckpoint: it asks for another name; the error says which.
        errors.CorruptCheckpoint: it is no pickle, or breaks off.
    """
    try:
        file = io.BytesIO(data)  # which makes no copy
        file.seek(start)
        length = _check_opcodes(file) - start
        file.seek(start)
        reader = _Reader(file, where, names, persistent_load)
        found = _Resolver(budget_bytes=length).resolve(reader.load())
    except errors.CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its opcodes meet
        raise errors.CorruptCheckpoint(
            f"{where}: not a readable pickle ({type(error).__name__}: "
            f"{str(error)[:200]})"
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
        self._pairs_left = _STEP_LIMIT

    def _ordered_dict(self, *arguments: Any) -> Any:
        """Stands in for collections.OrderedDict, which copies what it is made of."""
        found = collections.OrderedDict(*arguments)
        self._pairs_left -= len(found)
        if self._pairs_left < 0:
            raise pickle.UnpicklingError(f"more than {_STEP_LIMIT:,} entries")
        return found

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name == "collections.OrderedDict":
            return self._ordered_dict
        if full_name not in self._names:
            raise errors.UnsafeCheckpoint(
                f"{self._where}: its pickle asks for {_plain(full_name)}, which is not "
                "plain data; nothing was run. Save the weights alone (a state dict, or "
                ".safetensors) and try that file"
            )
        return self._names[full_name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent_load is None:
            raise pickle.UnpicklingError("a reference to data outside the pickle")
        return self._persistent_load(pid)


def _plain(name: str) -> str:
    """A name for a message: a stranger's, of any length and with any characters."""
    return name.encode("unicode_escape").decode()[:200]


def _check_opcodes(file: io.BytesIO) -> int:
    """Returns where the pickle ends, after a walk through it that builds nothing.

    Refuses memo indices that would eat the memory (the C unpickler sizes its memo by
    the largest index, which is any 32-bit number), too many steps, and tuples whose
    hash would crash or take for ever.
    """
    opcode, end = None, 0
    stack = _TupleSizes()
    for count, (opcode, argument, position) in enumerate(pickletools.genops(file)):
        if count > _STEP_LIMIT:
            raise pickle.UnpicklingError(f"more than {_STEP_LIMIT:,} steps")
        if "PUT" in opcode.name and int(argument or 0) > count + 1:
            raise pickle.UnpicklingError(f"memo index {argument}")
        stack.step(opcode, argument)
        end = (position or 0) + 1
    if opcode is None or opcode.name != "STOP":
        raise pickle.UnpicklingError("no end")
    return end


class _TupleSizes:
    """Follows the unpickler's stack; of an object it knows how many tuples it holds."""

    def __init__(self) -> None:
        self._stack: list[int] = []
        self._marks: list[int] = []
        self._memo: dict[Any, int] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Does to the stack what the opcode does."""
        name = opcode.name
        if name == "MARK":
            self._marks.append(len(self._stack))
        elif "PUT" in name or name == "MEMOIZE":
            key = len(self._memo) if name == "MEMOIZE" else argument
            self._memo[key] = self._stack[-1]
        elif name == "POP" and self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        elif name.endswith("GET"):
            self._stack.append(self._memo[argument])
        else:
            taken = self._take(opcode)
            if name.startswith("TUPLE") or name == "FROZENSET":
                size = 1 + sum(taken)
            else:  # it is no key itself, but may hand on what it took
                size = max(taken, default=0)
            if size > _TUPLE_LIMIT:
                raise pickle.UnpicklingError(f"over {_TUPLE_LIMIT:,} tuples in one")
            self._stack += [size] * len(opcode.stack_after)

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[int]:
        """Pops what the opcode takes, after the last mark and below it."""
        before = list(opcode.stack_before)
        start = len(self._stack)
        if pickletools.markobject in before:
            start = self._marks.pop()
            before = before[: before.index(pickletools.markobject)]
        start -= len(before)
        if start < 0:
            raise pickle.UnpicklingError("it takes more than there is")
        taken = self._stack[start:]
        del self._stack[start:]
        return taken


class _Resolver:
    """Replaces stand-ins by the arrays they hold, in dicts, lists and tuples."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        # What stands in many places is resolved once; else ten lists that each name
        # the next one ten times would come to ten billion.
        self._done: dict[int, Any] = {}

    def resolve(self, found: Any, depth: int = 0) -> Any:
        """Returns plain data; what is shared stays shared.

        Raises:
            pickle.UnpicklingError: nested too deep, or more text than the pickle has.
        """
        if depth > _NESTING_LIMIT:
            raise pickle.UnpicklingError(
                f"nested more than {_NESTING_LIMIT} levels deep"
            )
        if not isinstance(found, _Array | dict | list | tuple):
            return found
        if id(found) not in self._done:
            self._done[id(found)] = self._resolve_new(found, depth)
        return self._done[id(found)]

    def _resolve_new(self, found: Any, depth: int) -> Any:
        if isinstance(found, _Array) and found.wrapped is not None:
            return self.resolve(found.wrapped[0], depth + 1)
        if isinstance(found, _Array):
            self._budget_bytes -= found.size_as_text()
            if self._budget_bytes < 0:
                raise pickle.UnpicklingError("arrays that share their text")
            return found.values()
        if isinstance(found, dict):
            items = dict.items(found)  # its own: an OrderedDict can bring another
            return {k: self.resolve(v, depth + 1) for k, v in items}
        return [self.resolve(value, depth + 1) for value in found]


def key_text(key: Any, where: str) -> str:
    """The name that a dict's key stands for.

    Raises:
        errors.CorruptCheckpoint: it is neither text nor a number; even to print it may
            take all memory.
    """
    if isinstance(key, str):
        return key
    if isinstance(key, int) and abs(key) < 1 << 64:
        return str(key)
    raise errors.CorruptCheckpoint(
        f"{where}: expected names in text, found a {type(key).__name__}"
    )


def flatten(found: Any, where: str) -> dict[str, np.ndarray]:
    """Nested dicts and lists of arrays -> {"outer/inner": array}.

    A list [kernel, bias] under a layer gets the names "layer/0" and "layer/1". What is
    not an array is left out.

    Raises:
        errors.CorruptCheckpoint: not a dict with names, or no array in it.
    """
    tensors: dict[str, np.ndarray] = {}
    steps = itertools.count()

    def visit(prefix: str, value: Any) -> None:
        if next(steps) > _STEP_LIMIT or len(prefix) > _NAME_LIMIT:
            raise errors.CorruptCheckpoint(
                f"{where}: more than {_STEP_LIMIT:,} entries, or names longer than "
                f"{_NAME_LIMIT} characters; this is no dict of arrays"
            )
        if isinstance(value, np.ndarray):
            tensors[prefix] = value
        elif isinstance(value, dict):
            for name, inner in value.items():
                text = key_text(name, where)
                visit(f"{prefix}/{text}" if prefix else text, inner)
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
