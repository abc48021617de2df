"""Shapes that files state, checked before anything is computed with them."""

import math
from collections.abc import Iterable
from typing import Any

_MAX_AXES = 32
LIMIT = 1 << 48  # numbers in an array; beyond any file


def is_possible(shape: Iterable[Any]) -> bool:
    """Whether an array can have such a shape.

    NumPy counts what an array would have without its axes of size 0, and so does this.
    """
    sizes = tuple(shape)
    return (
        len(sizes) <= _MAX_AXES
        and all(type(size) is int and 0 <= size < LIMIT for size in sizes)
        and math.prod(filter(None, sizes)) < LIMIT
    )


def brief(value: Any) -> str:
    """What a file states, for a message: of any length, of any kind."""
    if isinstance(value, str | bytes):
        return ascii(value[:40])
    if isinstance(value, int | float) and abs(value) < 1 << 64:
        return repr(value)
    if (
        isinstance(value, tuple)
        and len(value) <= 8
        and all(isinstance(one, int) and abs(one) < 1 << 64 for one in value)
    ):
        return repr(value)
    return f"a {type(value).__name__}"
