"""Do what differs between Linux, macOS and Windows: locks, limits, timers, streams."""

import contextlib
import ctypes
import faulthandler
import hashlib
import importlib.util
import mmap
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_fcntl, _resource, _msvcrt = (
    importlib.import_module(name) if importlib.util.find_spec(name) else None
    for name in ("fcntl", "resource", "msvcrt")
)
OPENS_FOLDERS = hasattr(os, "O_DIRECTORY")
# Lengthens a file. Linux reserves the space, so that a full disk is an error at once.
allocate = getattr(os, "posix_fallocate", lambda file, _, size: os.truncate(file, size))
_has_timers = hasattr(signal, "setitimer")
# Exit codes of child processes: SIGKILL; SIGALRM or SIGXCPU, or what replaces them.
KILLED, OUT_OF_TIME = -9, (-14, -24) if _has_timers else (1,)

_STDERR = 2
_collection: os.stat_result | None = None  # the file of `collect_stderr`


@contextlib.contextmanager
def locked(
    place: Path, on_wait: Callable[[], None] | None, *, shared: bool = False
) -> Iterator[bool]:
    """Lock a file or a folder, and yield whether it was free; create a missing file.

    If it is not free, call `on_wait`, if that is given, and wait. Several processes may
    hold a `shared` lock. Windows has no shared locks, and locks a file in the temporary
    folder in place of the file or folder.
    """
    if _fcntl is None:
        name = hashlib.sha256(os.fsencode(place.absolute())).hexdigest()[:20]
        place = Path(tempfile.gettempdir(), f"graft-{name}.lock")
    flags = os.O_RDONLY if place.is_dir() else os.O_RDWR | os.O_CREAT
    while True:
        descriptor = os.open(place, flags, 0o666)
        if not (is_free := _try_lock(descriptor, shared)) and on_wait:
            on_wait()
            while not (is_free := _try_lock(descriptor, shared)):
                time.sleep(0.1)
        # Another process may have renamed or removed the file meanwhile.
        if place.exists() and os.path.samestat(os.fstat(descriptor), place.stat()):
            break
        os.close(descriptor)
    try:
        yield is_free
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, shared: bool) -> bool:
    try:
        if _fcntl:
            kind = _fcntl.LOCK_SH if shared else _fcntl.LOCK_EX
            _fcntl.flock(descriptor, kind | _fcntl.LOCK_NB)
        elif _msvcrt:
            _msvcrt.locking(descriptor, _msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_running(pid: int) -> bool:
    """Return whether there is a process with this number."""
    if windows := getattr(ctypes, "windll", None):
        return bool(windows.kernel32.OpenProcess(0x1000, 0, pid))
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # of another user
    return True


def mask_signals(how: str, signals: Any) -> Any:
    """Call signal.pthread_sigmask, except on Windows; `how` is such as "SIG_BLOCK"."""
    if hasattr(signal, "pthread_sigmask"):
        return signal.pthread_sigmask(getattr(signal, how), signals)
    return signals


def end_after(seconds: float) -> None:
    """End this process after `seconds`, even if it hangs; 0 cancels the timer."""
    if _has_timers:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    elif seconds:
        faulthandler.dump_traceback_later(seconds, exit=True)
    else:
        faulthandler.cancel_dump_traceback_later()


def limit_memory(more_bytes: int) -> None:
    """On Linux, limit the memory of this process to `more_bytes` above its present."""
    if (memory := Path("/proc/self/statm")).exists():
        pages = int(memory.read_text(encoding="ascii").split()[0])
        lower_limit("RLIMIT_AS", pages * mmap.PAGESIZE + more_bytes)


def lower_limit(name: str, value: int) -> None:
    """Lower a limit, such as "RLIMIT_CPU", of this process, except on Windows."""
    if _resource:
        kind = getattr(_resource, name)
        _, hard = _resource.getrlimit(kind)
        value = value if hard == _resource.RLIM_INFINITY else min(value, hard)
        _resource.setrlimit(kind, (value, hard))


def release_pages(array: Any) -> None:
    """Drop an array's mapped file from memory, if it has one; the file stays whole."""
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)  # not on Windows


def return_freed_memory() -> None:
    """Return freed memory to the system; glibc keeps much of it for this process."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory_bytes() -> int:
    """Return the largest memory use of this process so far; 0 if it is unknown."""
    peak = _resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss if _resource else 0
    return int(peak) * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def stderr_silenced() -> Iterator[None]:
    """Drop everything that this process prints to standard error inside the block."""
    original, nowhere = os.dup(_STDERR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDERR)
    try:
        yield
    finally:
        os.dup2(original, _STDERR)
        os.close(original)
        os.close(nowhere)


def collect_stderr() -> None:
    """Redirect standard error, for good, to a file that `take_stderr_line` reads.

    libjpeg and others report damage that they survive ("Corrupt JPEG data: premature
    end of data segment") nowhere else. This is for worker processes that only decode.
    """
    global _collection
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), _STDERR)
    _collection = os.fstat(_STDERR)


def take_stderr_line() -> str:
    """Return the first line collected since the last call; "" if there is no line."""
    facts = os.fstat(_STDERR)
    if not (facts.st_size and _collection and os.path.samestat(facts, _collection)):
        return ""
    os.lseek(_STDERR, 0, os.SEEK_SET)
    text = os.read(_STDERR, 4096)
    os.ftruncate(_STDERR, 0)
    os.lseek(_STDERR, 0, os.SEEK_SET)
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[0][:200] if lines else ""
