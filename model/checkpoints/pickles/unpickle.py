"""Read pickle bytes as plain data; the only place where pickles are read.

A pickle is a program. This reader lets it build lists, dicts, numbers, strings and
arrays. Every name that it asks for is looked up in a short list of our own stand-ins.
Any other name is an UnsafeCheckpoint, and nothing is ever imported for it.
"""

import collections
import io
import itertools
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from model.checkpoints import bounds, errors
from model.checkpoints.pickles import numpy_stand_ins, opcodes

_MAX_LEVELS = 20  # of lists and dicts in one another
_MAX_NAME = 500  # characters


def loads(
    data: bytes,
    where: str,
    *,
    start: int = 0,
    names: Mapping[str, Any] = numpy_stand_ins.NAMES,
    persistent_load: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """Read one pickle; return its object, and its number of bytes.

    The pickle begins at byte `start`; more data may follow it. `names` has the
    "module.name"s that it may ask for, and what it gets. `persistent_load` resolves its
    references to data elsewhere.

    Raises:
        errors.UnsafeCheckpoint: the pickle asks for another name; the error says which.
        errors.CorruptCheckpoint: the bytes are not a pickle, or end too early.
    """
    try:
        file = io.BytesIO(data)  # which makes no copy
        file.seek(start)
        length = opcodes.check(file) - start
        file.seek(start)
        reader = _Reader(file, where, names, persistent_load)
        value = _Resolver(max_copied_bytes=length).resolve(reader.load())
    except errors.CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its opcodes meet
        raise errors.CorruptCheckpoint(
            f"{where}: not a readable pickle ({type(error).__name__}: "
            f"{bounds.printable(str(error))})"
        ) from error
    return value, length


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
        self._entries_left = opcodes.MAX_STEPS

    def _ordered_dict(self, *arguments: Any) -> Any:
        """Stand in for collections.OrderedDict, which copies its argument."""
        if arguments and not isinstance(arguments[0], dict):
            num_odd_keys = sum(not isinstance(key, str) for key, _ in arguments[0])
            if num_odd_keys > opcodes.MAX_ODD_KEYS:
                raise pickle.UnpicklingError(f"{num_odd_keys:,} keys that are no text")
        ordered = collections.OrderedDict(*arguments)
        self._entries_left -= len(ordered)
        if self._entries_left < 0:
            raise pickle.UnpicklingError(f"more than {opcodes.MAX_STEPS:,} entries")
        return ordered

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name == "collections.OrderedDict":
            return self._ordered_dict
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
        if not isinstance(value, numpy_stand_ins.Array | dict | list | tuple):
            return value
        if id(value) not in self._resolved:
            self._resolved[id(value)] = self._resolve_once(value, level)
        return self._resolved[id(value)]

    def _resolve_once(self, value: Any, level: int) -> Any:
        if isinstance(value, numpy_stand_ins.Array) and value.wrapped is not None:
            return self.resolve(value.wrapped[0], level + 1)
        if isinstance(value, numpy_stand_ins.Array):
            self._bytes_left -= value.copied_bytes()
            if self._bytes_left < 0:
                raise pickle.UnpicklingError("arrays that share their text")
            return value.values()
        if isinstance(value, dict):
            # dict's own method: the pickle may have given an OrderedDict another.
            return {k: self.resolve(v, level + 1) for k, v in dict.items(value)}
        return [self.resolve(item, level + 1) for item in value]


def key_text(key: Any, where: str) -> str:
    """Return the name that a dict's key, text or a number, stands for."""
    if isinstance(key, str):
        return key
    if isinstance(key, int) and abs(key) < 1 << 64:
        return str(key)
    raise errors.CorruptCheckpoint(
        f"{where}: expected names in text, found a {type(key).__name__}"
    )


def flatten(value: Any, where: str) -> dict[str, np.ndarray]:
    """Turn nested dicts and lists of arrays into {"outer/inner": array}.

    A list [kernel, bias] under a layer gets the names "layer/0" and "layer/1". Values
    that are not arrays are left out.
    """
    tensors: dict[str, np.ndarray] = {}
    steps = itertools.count()

    def visit(prefix: str, value: Any) -> None:
        if next(steps) > opcodes.MAX_STEPS or len(prefix) > _MAX_NAME:
            raise errors.CorruptCheckpoint(
                f"{where}: more than {opcodes.MAX_STEPS:,} entries, or names longer "
                f"than {_MAX_NAME} characters; this is no dict of arrays"
            )
        if isinstance(value, np.ndarray):
            tensors[prefix] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                text = key_text(key, where)
                visit(f"{prefix}/{text}" if prefix else text, inner)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                visit(f"{prefix}/{number}", inner)

    if isinstance(value, dict):
        visit("", value)
    if not tensors:
        raise errors.CorruptCheckpoint(
            f"{where}: expected a dict of arrays, found {type(value).__name__}"
        )
    return tensors
