"""Check what untrusted files state, before anything is computed with it."""

import math
from collections.abc import Iterable
from typing import Any

_MAX_AXES = 32
MAX_NUMBERS = 1 << 48  # numbers in an array; more than any file holds


def is_possible_shape(shape: Iterable[Any]) -> bool:
    """Return whether an array can have this shape."""
    sizes = tuple(shape)
    return (
        len(sizes) <= _MAX_AXES
        and all(type(size) is int and 0 <= size < MAX_NUMBERS for size in sizes)
        # NumPy counts the numbers as if there were no axes of size 0.
        and math.prod(filter(None, sizes)) < MAX_NUMBERS
    )


def printable(text: str, max_length: int = 200) -> str:
    """Return the beginning of a text, with escapes for what cannot be printed."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text[:max_length]
    )


def brief(value: Any) -> str:
    """Return a short text for a message, of a value of any type and length."""
    if isinstance(value, str | bytes):
        return ascii(value[:40])
    items = value[:9] if isinstance(value, tuple) else (value,)
    is_short = len(items) <= 8 and all(
        isinstance(item, int | float) and abs(item) < 1 << 64 for item in items
    )
    return repr(value) if is_short else f"a {type(value).__name__}"
