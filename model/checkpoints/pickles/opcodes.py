"""Walk through the opcodes of a pickle and refuse what would exhaust memory or time.

Nothing is built. Four things are refused: memo indices beyond the number of steps (the
C unpickler sizes its memo by the largest index, any 32-bit number), too many steps,
tuples whose hash would crash Python or never end, and too many keys whose hashes may be
chosen to be equal.
"""

import io
import pickle
import pickletools
from typing import Any

# Instructions of a pickle, and entries of what it builds. A state dict takes some 40 a
# tensor; each may cost 200 bytes.
MAX_STEPS = 1_000_000
# Tuples in one tuple, each counted as often as it is referred to. Python hashes a
# dict's key by recursion, without a check of depth, and hashes shared tuples again each
# time.
_MAX_TUPLES = 5_000
# Keys that are tuples or long integers. Texts and bytes have random hashes, and few
# integers of 64 bits have equal ones; with 20,000 equal ones a dict takes seconds.
MAX_ODD_KEYS = 2_000
_KEYS = {
    "DICT": slice(0, None, 2),
    **dict.fromkeys(("SETITEM", "SETITEMS"), slice(1, None, 2)),
    "ADDITEMS": slice(1, None),
    "FROZENSET": slice(None),
}


def check(file: io.BytesIO) -> int:
    """Check the pickle at the current position of a file; return where it ends."""
    opcode, end = None, 0
    stack = _TupleCounts()
    for count, (opcode, argument, position) in enumerate(pickletools.genops(file)):
        if count > MAX_STEPS:
            raise pickle.UnpicklingError(f"more than {MAX_STEPS:,} steps")
        if "PUT" in opcode.name and int(argument or 0) > count + 1:
            raise pickle.UnpicklingError(f"memo index {argument}")
        stack.step(opcode, argument)
        end = (position or 0) + 1
    if opcode is None or opcode.name != "STOP":
        raise pickle.UnpicklingError("no end")
    return end


class _TupleCounts:
    """The unpickler's stack, with the number of tuples in each object instead of it.

    A long integer counts as a tuple.
    """

    def __init__(self) -> None:
        self._num_odd_keys = 0
        self._stack: list[int] = []
        self._marks: list[int] = []
        self._memo: dict[Any, int] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Change the stack as the opcode does."""
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
            counts = self._pop_arguments(opcode)
            if name in _KEYS:
                self._num_odd_keys += sum(map(bool, counts[_KEYS[name]]))
                if self._num_odd_keys > MAX_ODD_KEYS:
                    raise pickle.UnpicklingError(
                        f"over {MAX_ODD_KEYS:,} keys that are tuples or long integers"
                    )
            if name.startswith("TUPLE") or name == "FROZENSET":
                count = 1 + sum(counts)
            else:  # it is no key itself, but what it took may come out again
                is_long = isinstance(argument, int) and argument.bit_length() > 64
                count = max(counts, default=int(is_long))
            if count > _MAX_TUPLES:
                raise pickle.UnpicklingError(f"over {_MAX_TUPLES:,} tuples in one")
            self._stack += [count] * len(opcode.stack_after)

    def _pop_arguments(self, opcode: pickletools.OpcodeInfo) -> list[int]:
        """Pop what the opcode takes, after the last mark and below it."""
        before = list(opcode.stack_before)
        start = len(self._stack)
        if pickletools.markobject in before:
            start = self._marks.pop()
            before = before[: before.index(pickletools.markobject)]
        start -= len(before)
        if start < 0:
            raise pickle.UnpicklingError("it takes more than there is")
        counts = self._stack[start:]
        del self._stack[start:]
        return counts
