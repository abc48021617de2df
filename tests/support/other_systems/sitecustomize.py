"""Take from Python what Windows or macOS lack, in each process with this on its path.

Gone are modules, signals and functions of the operating system, /proc, and links. Files
behave as on Windows: folders cannot be opened, open files cannot be renamed or removed,
and text is written as cp1252 with \\r\\n unless the program says otherwise.
"""

import asyncio
import builtins
import io
import mmap
import multiprocessing.util  # noqa: F401 # these look for what is taken below
import os
import shutil
import signal
import subprocess
import sys
import tempfile

TEMPORARY = tempfile.gettempdir() + "/tmp"
LATER = os.path.join(os.path.dirname(__file__), "later")  # noqa: PTH118, PTH120


GONE = ("fcntl", "resource", "pwd", "grp", "termios")


class Without:
    """A finder of modules that finds all but those."""

    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name in GONE else self._finder.find_spec(name, path, target)


sys.meta_path[:] = map(Without, sys.meta_path)
for name in GONE:
    sys.modules.pop(name, None)

for name in [*vars(signal)]:
    if name in ("SIGUSR1", "SIGALRM", "SIGXCPU", "SIGPIPE", "SIGKILL", "SIGHUP"):
        delattr(signal, name)
for module, names in (
    (signal, "setitimer getitimer ITIMER_REAL alarm pthread_sigmask SIG_BLOCK"),
    (signal, "SIG_UNBLOCK SIG_SETMASK siginterrupt pthread_kill"),
    (os, "sched_getaffinity pread posix_fallocate O_DIRECTORY O_NONBLOCK getuid"),
    (mmap, "MADV_DONTNEED"),
):
    for name in names.split():
        delattr(module, name)
shutil._use_fd_functions = False
subprocess.Popen.kill = lambda process: process.send_signal(9)


def refuse(*_, **__):
    raise NotImplementedError


asyncio.SelectorEventLoop.add_signal_handler = refuse

real = {name: getattr(os, name) for name in ("open", "stat", "readlink", "listdir")}
real_open = io.open


def is_linux_only(path):
    return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(
        ("/proc", "/dev/fd")
    )


def opened_files():
    """Return the files that this process has open or mapped."""
    paths = set()
    for name in real["listdir"]("/proc/self/fd"):
        try:
            paths.add(real["readlink"](f"/proc/self/fd/{name}"))
        except OSError:  # of this listing
            continue
    with real_open("/proc/self/maps") as lines:
        paths.update(line.split(maxsplit=5)[5].strip() for line in lines if "/" in line)
    return paths


def hidden(function):
    def call(path, *args, **options):
        if is_linux_only(path):
            raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
        return function(path, *args, **options)

    return call


def like_windows(function):
    def call(*paths, **options):
        if not options.get("dir_fd"):
            names = opened_files()
            for path in paths[:2]:
                place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
                if place.startswith(TEMPORARY):  # of tempfile, which Windows deletes
                    continue
                if any(name == place or name.startswith(place + "/") for name in names):
                    raise PermissionError(13, "is in use", os.fsdecode(path))
        return function(*paths, **options)

    return call


@hidden
def open_file(path, flags, *args, **options):
    if os.path.isdir(path):  # noqa: PTH112
        raise PermissionError(13, "Permission denied", os.fspath(path))
    return real["open"](path, flags, *args, **options)


@hidden
def open_text(file, mode="r", buffering=-1, *args, **options):
    names = ("encoding", "errors", "newline", "closefd", "opener")
    options |= dict(zip(names, args, strict=False))
    if "b" not in mode:
        options["encoding"] = options.get("encoding") or "cp1252"
        if "r" not in mode and options.get("newline") is None:
            options["newline"] = "\r\n"
    return real_open(file, mode, buffering, **options)


os.open = open_file
os.stat = hidden(os.stat)
for name in ("rename", "replace", "unlink", "remove", "rmdir"):
    setattr(os, name, like_windows(getattr(os, name)))


def no_link(source, *_, **__):
    raise OSError(22, "A required privilege is not held by the client", source)


os.symlink = no_link
io.open = builtins.open = open_text
sys.path.append(LATER)  # msvcrt, for which subprocess has looked already
