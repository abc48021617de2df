"""Silence or collect what C libraries print to standard error."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

_DESCRIPTOR = 2
_collection: os.stat_result | None = None  # the file of `collect`


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drop everything that this process prints to standard error inside the block."""
    original, nowhere = os.dup(_DESCRIPTOR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _DESCRIPTOR)
    try:
        yield
    finally:
        os.dup2(original, _DESCRIPTOR)
        os.close(original)
        os.close(nowhere)


def collect() -> None:
    """Keep what libjpeg and other decoders print to standard error for `take_line`.

    Damage that a decoder survives ("Corrupt JPEG data: premature end of data segment")
    is reported nowhere else. The file descriptor of the whole process is redirected for
    good, so this is for worker processes that only decode.
    """
    global _collection
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), _DESCRIPTOR)
    _collection = os.fstat(_DESCRIPTOR)


def take_line() -> str:
    """Return the first line collected since the last call; "" if there is no line."""
    facts = os.fstat(_DESCRIPTOR)
    if not (facts.st_size and _collection and os.path.samestat(facts, _collection)):
        return ""
    text = os.pread(_DESCRIPTOR, 4096, 0)
    os.ftruncate(_DESCRIPTOR, 0)
    os.lseek(_DESCRIPTOR, 0, os.SEEK_SET)
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[0][:200] if lines else ""
