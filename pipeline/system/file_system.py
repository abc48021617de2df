"""Name, lock, replace and find files and folders, on this machine or in a bucket.

A text with a scheme ("gs://bucket/flowers") names a place in a bucket; any other is a
path of this machine.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from pipeline.system import platform_support
from pipeline.system.errors import DataError
from pipeline.system.remote.bucket import BucketPath

MAX_TEXT_BYTES = 256 << 20  # of a text file that is read whole
_MAX_NAME = 220  # file systems allow 255 bytes; `replacing` adds some 30
_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"
# Name of a temporary file: the name it will have, machine and process, and a suffix.
_LEFTOVER = re.compile(rf"\.(.+)\.{_MACHINE}-(\d{{1,9}})\.(partial.*|old)", re.DOTALL)
# Source: github.com/git-lfs/git-lfs, docs/spec.md.
LFS_POINTER = rb"version https://(git-lfs|hawser)\.github\.com/spec/"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
copies: dict[str, str] = {}  # {path of a copy: its place in a bucket}


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/graft or else ~/.cache/graft."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "graft"


def file_name(text: str) -> str:
    """Return a file name for any text, with unsafe characters percent-encoded.

    A name too long for a file system is cut and ends in a part of its SHA-256.
    """
    encoded = os.fsencode(text)
    quoted = urllib.parse.quote(encoded, safe=" !#$&'()+,;=@[]{}~")
    if len(quoted) <= _MAX_NAME:
        return quoted
    return f"{quoted[:190]}...{hashlib.sha256(encoded).hexdigest()[:20]}"


def is_remote(text: str) -> bool:
    """Return whether a text names a place in a bucket."""
    return _SCHEME.match(text) is not None


def path(text: str) -> Path:
    """Return the path that a text names: a Path, or a BucketPath with its methods."""
    if not is_remote(text):
        return Path(text)
    if ".." in text.split("/") or (":///" in text and not text.startswith("file:")):
        raise DataError(f"{text}: names no bucket. Expected SCHEME://BUCKET/FOLDER")
    return cast(Path, BucketPath(text))


def named(text: str) -> str:
    """Return a text in which places in buckets stand for the copies of them."""
    for copy, place in copies.items():
        text = text.replace(json.dumps(copy)[1:-1], place).replace(copy, place)
    return text


def walk(root: Path | BucketPath) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield folders like `os.walk` from the top; names may be removed to skip them."""
    return root.walk() if isinstance(root, BucketPath) else os.walk(root, onerror=_fail)


def _fail(error: OSError) -> None:
    raise error


def regular(path: Path, max_bytes: int = 0) -> Path:
    """Return the path of a regular file of at most `max_bytes`, or raise DataError.

    With 0, the file may have any size.
    """
    if not path.is_file() and path.exists():
        raise DataError(f"{path}: is a folder, a pipe or a device. Expected a file")
    if max_bytes and path.stat().st_size > max_bytes:
        raise DataError(f"{path}: is larger than {max_bytes:,} bytes")
    refuse_lfs_pointer(path)
    return path


def refuse_lfs_pointer(path: Path | BucketPath) -> None:
    """Raise DataError for what Git LFS leaves in place of a large file."""
    start = b""
    if not isinstance(path, BucketPath) and path.is_file():
        with path.open("rb") as file:
            start = file.read(64)
    if re.match(LFS_POINTER, start):
        raise DataError(
            f"{path}: is a pointer of Git LFS, not the file itself. Run git lfs pull "
            "in its folder"
        )


def refuse_link(path: Path | BucketPath) -> None:
    """Raise DataError if writing at a path would also change a file elsewhere."""
    if isinstance(path, BucketPath) or not os.path.lexists(path):
        return
    facts = path.lstat()
    if stat.S_ISDIR(facts.st_mode):
        return
    kind = "a link" if stat.S_ISLNK(facts.st_mode) else "a pipe or a device"
    if stat.S_ISREG(facts.st_mode):
        if facts.st_nlink == 1:
            return
        kind = "a file with several names (hard links)"
    raise DataError(
        f"{path}: is {kind}. Expected a file or folder of its own, because something "
        "is written there. Remove it, or put a copy in its place"
    )


def make_inside(root: Path, *names: str) -> Path:
    """Create folders, each in the one before and none a link; return the innermost."""
    folder = root
    for name in names:
        folder /= name
        refuse_link(folder)
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def made(folder: Path | BucketPath) -> Iterator[None]:
    """Create a folder and its parents; at the end remove those that are still empty."""
    created: list[Path] = []
    if not isinstance(folder, BucketPath):
        created += (path for path in (folder, *folder.parents) if not path.exists())
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in created:
            with contextlib.suppress(OSError):
                path.rmdir()


def remove_tree(folder: Path | BucketPath) -> None:
    """Remove a file or a whole folder, if it exists; of a link only the link."""
    if isinstance(folder, BucketPath):
        folder.remove_tree()
    elif folder.is_symlink() or folder.is_file():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{_MACHINE}-{os.getpid()}{suffix}")


def prepare_folder(folder: Path) -> None:
    """Create a folder to write into, and remove what killed processes left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*folder.iterdir()]:
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or platform_support.is_running(int(match[2])):
            continue
        with contextlib.suppress(OSError):  # another user's; or it is gone by now
            if match[3] == "old" and not os.path.lexists(folder / match[1]):
                path.rename(folder / match[1])  # killed before anything replaced it
            else:
                remove_tree(path)


@contextlib.contextmanager
def scratch_folder(parent: str | Path = "") -> Iterator[Path]:
    """Provide a temporary folder, by default in that of the system."""
    place = Path(parent or tempfile.gettempdir())
    prepare_folder(place)
    suffix = _temporary(Path("graft"), ".partial").name
    # Windows removes no file that is open; `prepare_folder` does it later.
    with tempfile.TemporaryDirectory(suffix, ".", place, True) as folder:
        yield Path(folder)


def locked(folder: Path | BucketPath) -> contextlib.AbstractContextManager[bool]:
    """Lock a folder for this process; yield whether it was free. Buckets always are."""
    if isinstance(folder, BucketPath):
        return contextlib.nullcontext(enter_result=True)
    return platform_support.locked(folder, on_wait=None)


@contextlib.contextmanager
def replacing(path: Path, suffix: str = ".partial") -> Iterator[Path]:
    """Yield a temporary name in the same folder, which is renamed to `path` at the end.

    The temporary name ends in `suffix`. If the block fails, the temporary file is
    removed and `path` stays as it was; an OSError names `path`.
    """
    partial = _temporary(path, suffix)
    partial.unlink(missing_ok=True)
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        # Users know `path`, but not the temporary name.
        if error.filename is None or str(error.filename) == str(partial):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing`, yield the temporary name of a folder that replaces `path`."""
    partial, before = _temporary(path, ".partial"), _temporary(path, ".old")
    remove_tree(partial)
    try:
        yield partial
        if path.exists():
            path.rename(before)
        partial.rename(path)
    finally:
        remove_tree(partial)
        remove_tree(before)


def sync(file: Path | BucketPath) -> None:
    """Wait until a file is on the disk, or a folder where it can be opened."""
    opens = platform_support.OPENS_FOLDERS  # not on Windows, which writes what it syncs
    if isinstance(file, BucketPath) or not (opens or file.is_file()):
        return
    descriptor = os.open(file, os.O_RDONLY if opens else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
