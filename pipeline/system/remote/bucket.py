"""Give a place in a bucket the methods of `pathlib.Path` that Graft uses.

tf.io.gfile does the work, so the stores are those that TensorFlow and tensorflow-io
support, such as gs://. TensorFlow is imported only when a bucket is used.
"""

import contextlib
import errno
import io
import os
import pathlib
import re
import types
from collections.abc import Iterator
from typing import Any

_BUFFER_BYTES = 1 << 20


class BucketPath(pathlib.PurePosixPath):
    """A file or folder in a bucket.

    Errors are those of the operating system: FileNotFoundError, OSError and so on.
    """

    def __str__(self) -> str:
        text = super().__str__()  # which has one slash in place of several
        slashes = "///" if text.startswith("file:") else "//"
        return re.sub("(?<=:)/+", slashes, text, count=1)

    def resolve(self) -> "BucketPath":
        """Return the path itself: buckets have no links."""
        return self

    def is_symlink(self) -> bool:
        """Return False: buckets have no links."""
        return False

    def exists(self) -> bool:
        """Return whether the file or folder exists."""
        return bool(_call("exists", self))

    def is_dir(self) -> bool:
        """Return whether the path is a folder."""
        return bool(_call("isdir", self))

    def is_file(self) -> bool:
        """Return whether the path is a file."""
        return self.exists() and not self.is_dir()

    def iterdir(self) -> "Iterator[BucketPath]":
        """Yield the files and folders in the folder."""
        return (self / name for name in _call("listdir", self))

    def glob(self, pattern: str) -> "Iterator[BucketPath]":
        """Yield those whose names match a pattern such as "*.part"."""
        return map(BucketPath, _call("glob", self / pattern))

    def mkdir(self, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Create the folder and those above it; it may exist."""
        _call("makedirs", self)

    def stat(self) -> types.SimpleNamespace:
        """Return an object whose `st_size` is the size in bytes."""
        return types.SimpleNamespace(st_size=int(_call("stat", self).length))

    def open(self, mode: str = "r", **options: Any) -> Any:
        """Open the file like the built-in `open`, to read, write or append to it."""
        raw = _BucketFile(self, mode.strip("bt") + "b")
        buffer: Any = io.BufferedWriter if raw.writable() else io.BufferedReader
        binary = buffer(raw, _BUFFER_BYTES)
        return binary if "b" in mode else io.TextIOWrapper(binary, **options)

    def read_text(self, encoding: str) -> str:
        """Return the whole file, decoded."""
        with self.open(encoding=encoding) as file:
            return str(file.read())

    def write_text(self, text: str, encoding: str) -> None:
        """Write the whole file, encoded."""
        with self.open("w", encoding=encoding) as file:
            file.write(text)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            _call("remove", self)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def replace(self, target: "BucketPath") -> None:
        """Rename the file to `target`, which is overwritten if it exists."""
        _call("rename", self, str(target), overwrite=True)

    def walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield folder, folder names and file names like `os.walk`, from the top."""
        with _os_errors(self):
            for folder, folder_names, file_names in _call("walk", self):
                folder_names[:] = [name.rstrip("/") for name in folder_names]
                yield folder.rstrip("/"), folder_names, file_names

    def remove_tree(self) -> None:
        """Remove the folder and all files in it, if it exists."""
        # Some stores have no rmtree, and their folders are only parts of names.
        with contextlib.suppress(OSError), _os_errors(self):
            for name, _, file_names in _call("walk", self, topdown=False):
                folder = BucketPath(name)
                for file_name in file_names:
                    (folder / file_name).unlink()
                with contextlib.suppress(OSError):
                    _call("rmtree", folder)


class _BucketFile(io.RawIOBase):
    """Present a file of tf.io.gfile as a raw Python file, to read or to write."""

    def __init__(self, path: BucketPath, mode: str) -> None:
        self._path, self._writes = path, mode != "rb"
        self._file = _call("GFile", path, mode)
        with _os_errors(path):  # reports now what would only fail at the end
            self._file.write(b"") if self._writes else self._file.size()

    def readable(self) -> bool:
        return not self._writes

    def writable(self) -> bool:
        return self._writes

    def seekable(self) -> bool:
        return not self._writes

    def readinto(self, buffer: Any) -> int:
        with _os_errors(self._path):
            data: bytes = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        with _os_errors(self._path):
            self._file.write(bytes(data))
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _os_errors(self._path):
            self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        with _os_errors(self._path):
            return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            try:
                with _os_errors(self._path):
                    self._file.close()
            finally:
                super().close()


def _tensorflow() -> Any:
    import pipeline.system.tensorflow_import  # noqa: F401

    # isort: split
    import tensorflow as tf

    return tf


def _call(function: str, path: BucketPath, *args: Any, **options: Any) -> Any:
    """Call a function of tf.io.gfile by its name."""
    with _os_errors(path):
        return getattr(_tensorflow().io.gfile, function)(str(path), *args, **options)


@contextlib.contextmanager
def _os_errors(path: BucketPath) -> Iterator[None]:
    """Raise TensorFlow's errors as those of the operating system."""
    errors = _tensorflow().errors
    numbers = {
        errors.NotFoundError: errno.ENOENT,
        errors.PermissionDeniedError: errno.EACCES,
        errors.UnauthenticatedError: errno.EACCES,
        errors.AlreadyExistsError: errno.EEXIST,
        errors.ResourceExhaustedError: errno.ENOSPC,
    }
    try:
        yield
    except errors.OpError as error:
        number = numbers.get(type(error), errno.EIO)
        words = error.message.split() or [os.strerror(number)]
        # Python chooses FileNotFoundError and so on by the number.
        raise OSError(number, " ".join(words)[:300], str(path)) from error
