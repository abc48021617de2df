"""Silence or collect what C libraries print to standard error."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

_DESCRIPTOR = 2


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


class Collector:
    """Collect what libjpeg and other decoders print to standard error.

    Damage that a decoder survives ("Corrupt JPEG data: premature end of data segment")
    is reported nowhere else. The file descriptor of the whole process is redirected for
    good, so this is for worker processes that only decode.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), _DESCRIPTOR)

    def take_line(self) -> str:
        """Return the first line printed since the last call; "" if nothing was."""
        size = os.fstat(_DESCRIPTOR).st_size
        if not size:
            return ""
        text = os.pread(_DESCRIPTOR, min(size, 4096), 0)
        os.ftruncate(_DESCRIPTOR, 0)
        os.lseek(_DESCRIPTOR, 0, os.SEEK_SET)
        lines = text.decode("utf-8", "replace").strip().splitlines()
        return lines[0][:200] if lines else ""
