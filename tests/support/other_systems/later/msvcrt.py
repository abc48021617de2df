"""The locks of Windows, made of those of Linux."""

import ctypes

LK_NBLCK = 2
_flock = ctypes.CDLL(None).flock


def locking(descriptor, mode, count):
    """Lock a file or raise PermissionError."""
    assert (mode, count) == (LK_NBLCK, 1)
    exclusive, without_waiting = 2, 4
    if _flock(descriptor, exclusive | without_waiting):
        raise PermissionError(13, "Permission denied")
