"""Folders on this machine, or in a bucket: one way to reach both.

A text with a scheme ("gs://bucket/flowers") is reached through tf.io.gfile, which knows
the stores that TensorFlow or tensorflow-io bring; any other is a path of this machine,
and TensorFlow is not imported for it.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
import types
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

# Characters; file systems take 255, with an ending and ".partial".
_MAX_NAME = 220
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def file_name(text: str) -> str:
    """A name for any text, in which unsafe characters are percent-encoded.

    One too long for a file system is cut, and told apart by its SHA-256.
    """
    encoded = os.fsencode(text)
    quoted = urllib.parse.quote(encoded, safe=" !#$&'()+,;=@[]{}~")
    if len(quoted) > _MAX_NAME:
        quoted = f"{quoted[:190]}...{hashlib.sha256(encoded).hexdigest()[:20]}"
    return quoted


def is_remote(text: str) -> bool:
    """Whether a text names a place outside this machine's own folders."""
    return _SCHEME.match(text) is not None


def path(text: str) -> Path:
    """The path that a text names; of a remote place a Remote, which does the same."""
    return cast(Path, Remote(text)) if is_remote(text) else Path(text)


class Remote:
    """A place in a bucket, with what Graft uses of pathlib.Path.

    Errors are those of the operating system: FileNotFoundError, OSError and so on.
    """

    def __init__(self, url: str) -> None:
        """Names a place; nothing is asked of the store."""
        self._url = url.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def __fspath__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"Remote({self._url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._url == other._url

    def __lt__(self, other: "Remote") -> bool:
        return self._url < other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self._url}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self._url.rsplit("/", 1)[-1]

    @property
    def parent(self) -> "Remote":
        """The folder it lies in."""
        return Remote(self._url.rsplit("/", 1)[0])

    def with_name(self, name: str) -> "Remote":
        """Another one in the same folder."""
        return self.parent / name

    def resolve(self) -> "Remote":
        """Itself: there are no links."""
        return self

    def is_symlink(self) -> bool:
        """False: there are no links."""
        return False

    def is_relative_to(self, other: Any) -> bool:
        """Whether it is `other` or lies in it."""
        return f"{self._url}/".startswith(f"{str(other).rstrip('/')}/")

    def exists(self) -> bool:
        """Whether there is a file or folder."""
        with _told(self._url):
            return bool(_gfile().exists(self._url))

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        with _told(self._url):
            return bool(_gfile().isdir(self._url))

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.exists() and not self.is_dir()

    def iterdir(self) -> "Iterator[Remote]":
        """What lies in the folder."""
        with _told(self._url):
            names = _gfile().listdir(self._url)
        yield from (self / name.rstrip("/") for name in names)

    def glob(self, pattern: str) -> "Iterator[Remote]":
        """What lies in the folder and fits a pattern such as "*.part"."""
        with _told(self._url):
            found = _gfile().glob(f"{self._url}/{pattern}")
        yield from map(Remote, found)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Makes the folder, and those it lies in."""
        if not exist_ok and self.exists():
            raise FileExistsError(17, "exists", self._url)
        with _told(self._url):
            (_gfile().makedirs if parents else _gfile().mkdir)(self._url)

    def stat(self) -> types.SimpleNamespace:
        """With its size in bytes as st_size."""
        with _told(self._url):
            return types.SimpleNamespace(st_size=int(_gfile().stat(self._url).length))

    def open(
        self,
        mode: str = "r",
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """As the built-in open, for reading or writing from the beginning."""
        raw = _Raw(self._url, mode.replace("t", "").replace("b", "") + "b")
        binary: Any = (
            io.BufferedWriter(raw, 1 << 20)
            if "w" in mode or "a" in mode
            else io.BufferedReader(raw, 1 << 20)
        )
        if "b" in mode:
            return cast(IO[Any], binary)
        return io.TextIOWrapper(
            binary, encoding=encoding or "utf-8", errors=errors, newline=newline
        )

    def read_bytes(self) -> bytes:
        """The whole file."""
        with self.open("rb") as file:
            return cast(bytes, file.read())

    def read_text(self, encoding: str = "utf-8", errors: str | None = None) -> str:
        """The whole file, decoded."""
        return self.read_bytes().decode(encoding, errors or "strict")

    def write_bytes(self, data: bytes) -> None:
        """Writes the whole file."""
        with self.open("wb") as file:
            file.write(data)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Writes the whole file, encoded."""
        self.write_bytes(text.encode(encoding))

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Removes the file."""
        with contextlib.suppress(*[FileNotFoundError] * missing_ok), _told(self._url):
            _gfile().remove(self._url)

    def replace(self, target: "Remote") -> None:
        """Gives the file another name, in place of what has it."""
        with _told(self._url):
            _gfile().rename(self._url, str(target), overwrite=True)

    rename = replace


class _Raw(io.RawIOBase):
    """A file of tf.io.gfile as Python's own; for reading, or for writing."""

    def __init__(self, url: str, mode: str) -> None:
        self._where = url
        self._file = _gfile().GFile(url, mode)
        self._writes = mode != "rb"
        with _told(url):
            if self._writes:
                self._file.write(b"")  # tells now what would be told at the end
            else:
                self._file.size()
        self.name = url

    def readable(self) -> bool:
        return not self._writes

    def writable(self) -> bool:
        return self._writes

    def seekable(self) -> bool:
        return not self._writes

    def readinto(self, buffer: Any) -> int:
        with _told(self._where):
            data: bytes = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        with _told(self._where):
            self._file.write(bytes(data))
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _told(self._where):
            if whence == os.SEEK_END:
                offset += self._file.size()
            elif whence == os.SEEK_CUR:
                offset += self._file.tell()
            self._file.seek(offset)
        return offset

    def tell(self) -> int:
        with _told(self._where):
            return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            try:
                with _told(self._where):
                    self._file.close()
            finally:
                super().close()


def walk(
    root: Path | Remote, onerror: Callable[[OSError], None]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk from the top down, of which names may be removed to pass over them."""
    if not isinstance(root, Remote):
        yield from os.walk(root, onerror=onerror)
        return
    with _told(str(root)):
        for folder, folder_names, file_names in _gfile().walk(str(root)):
            folder_names[:] = [name.rstrip("/") for name in folder_names]
            yield folder.rstrip("/"), folder_names, file_names


def remove_tree(folder: Path | Remote) -> None:
    """Removes a folder and all in it, if it is there."""
    if not isinstance(folder, Remote):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(OSError), _told(str(folder)):
        # Not rmtree, which some stores do not have; and folders are only names there.
        for inside, _, names in _gfile().walk(str(folder), topdown=False):
            for name in names:
                _gfile().remove(f"{inside.rstrip('/')}/{name}")
            with contextlib.suppress(OSError), _told(inside):
                _gfile().rmtree(inside)


@contextlib.contextmanager
def locked(folder: Path | Remote) -> Iterator[bool]:
    """Holds a folder for this process; says whether it is free.

    Stores have no locks: there it is taken to be free.
    """
    if isinstance(folder, Remote):
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def named(place: Path | Remote) -> Iterator[None]:
    """Within it, errors say where, also those of files that were open already."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(place)
        raise


def sync(file: Path | Remote) -> None:
    """Waits until a file or folder is on the disk; stores answer when it is."""
    if isinstance(file, Remote):
        return
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gfile() -> Any:
    import pipeline.system.tensorflow_import  # noqa: F401

    # isort: split
    import tensorflow as tf

    return tf.io.gfile


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """Turns TensorFlow's errors into those of the operating system."""
    import tensorflow as tf

    numbers = {
        tf.errors.NotFoundError: errno.ENOENT,
        tf.errors.PermissionDeniedError: errno.EACCES,
        tf.errors.UnauthenticatedError: errno.EACCES,
        tf.errors.AlreadyExistsError: errno.EEXIST,
        tf.errors.ResourceExhaustedError: errno.ENOSPC,
    }
    try:
        yield
    except tf.errors.OpError as error:
        number = numbers.get(type(error), errno.EIO)
        words = error.message.split() or [os.strerror(number)]
        # Python makes FileNotFoundError and so on of the number.
        raise OSError(number, " ".join(words)[:300], url) from error
