"""Limit the memory that tested code may take."""

import contextlib
import tracemalloc


@contextlib.contextmanager
def at_most(limit_bytes):
    """Fail if the block allocates more than this at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit_bytes
    finally:
        tracemalloc.stop()
