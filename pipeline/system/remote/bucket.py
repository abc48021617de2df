"""Give a place in a bucket the methods of `pathlib.Path` that Graft uses.

tf.io.gfile does the work, so the stores are those that TensorFlow and tensorflow-io
support, such as gs://. TensorFlow is imported only when a bucket is used.
"""

import contextlib
import errno
import io
import os
import types
from collections.abc import Iterator
from typing import IO, Any, cast


class BucketPath:
    """A file or folder in a bucket.

    Errors are those of the operating system: FileNotFoundError, OSError and so on.
    """

    def __init__(self, url: str) -> None:
        """Store the address without contacting the store."""
        self._url = url.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def __fspath__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"BucketPath({self._url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and self._url == other._url

    def __lt__(self, other: "BucketPath") -> bool:
        return self._url < other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __truediv__(self, name: str) -> "BucketPath":
        return BucketPath(f"{self._url}/{name}")

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self._url.rsplit("/", 1)[-1]

    @property
    def parent(self) -> "BucketPath":
        """Folder that holds the file or folder."""
        return BucketPath(self._url.rsplit("/", 1)[0])

    def with_name(self, name: str) -> "BucketPath":
        """Return a path with another name in the same folder."""
        return self.parent / name

    def resolve(self) -> "BucketPath":
        """Return the path itself: buckets have no links."""
        return self

    def is_symlink(self) -> bool:
        """Return False: buckets have no links."""
        return False

    def is_relative_to(self, other: Any) -> bool:
        """Return whether the path is `other` or lies in it."""
        return f"{self._url}/".startswith(f"{str(other).rstrip('/')}/")

    def exists(self) -> bool:
        """Return whether the file or folder exists."""
        with _os_errors(self._url):
            return bool(_gfile().exists(self._url))

    def is_dir(self) -> bool:
        """Return whether the path is a folder."""
        with _os_errors(self._url):
            return bool(_gfile().isdir(self._url))

    def is_file(self) -> bool:
        """Return whether the path is a file."""
        return self.exists() and not self.is_dir()

    def iterdir(self) -> "Iterator[BucketPath]":
        """Yield the files and folders in the folder."""
        with _os_errors(self._url):
            names = _gfile().listdir(self._url)
        yield from (self / name.rstrip("/") for name in names)

    def glob(self, pattern: str) -> "Iterator[BucketPath]":
        """Yield those whose names match a pattern such as "*.part"."""
        with _os_errors(self._url):
            urls = _gfile().glob(f"{self._url}/{pattern}")
        yield from map(BucketPath, urls)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Create the folder, and with `parents` those above it."""
        if not exist_ok and self.exists():
            raise FileExistsError(17, "exists", self._url)
        with _os_errors(self._url):
            (_gfile().makedirs if parents else _gfile().mkdir)(self._url)

    def stat(self) -> types.SimpleNamespace:
        """Return an object whose `st_size` is the size in bytes."""
        with _os_errors(self._url):
            return types.SimpleNamespace(st_size=int(_gfile().stat(self._url).length))

    def open(
        self,
        mode: str = "r",
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open the file like the built-in `open`, to read it or to write a new one."""
        raw = _BucketFile(self._url, mode.replace("t", "").replace("b", "") + "b")
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
        """Return the whole file."""
        with self.open("rb") as file:
            return cast(bytes, file.read())

    def read_text(self, encoding: str = "utf-8", errors: str | None = None) -> str:
        """Return the whole file, decoded."""
        return self.read_bytes().decode(encoding, errors or "strict")

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file."""
        with self.open("wb") as file:
            file.write(data)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Write the whole file, encoded."""
        self.write_bytes(text.encode(encoding))

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the file."""
        ignored = (FileNotFoundError,) if missing_ok else ()
        with contextlib.suppress(*ignored), _os_errors(self._url):
            _gfile().remove(self._url)

    def replace(self, target: "BucketPath") -> None:
        """Rename the file to `target`, which is overwritten if it exists."""
        with _os_errors(self._url):
            _gfile().rename(self._url, str(target), overwrite=True)

    rename = replace

    def walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield folder, folder names and file names like `os.walk`, from the top."""
        with _os_errors(self._url):
            for folder, folder_names, file_names in _gfile().walk(self._url):
                folder_names[:] = [name.rstrip("/") for name in folder_names]
                yield folder.rstrip("/"), folder_names, file_names

    def remove_tree(self) -> None:
        """Remove the folder and all files in it, if it exists."""
        with contextlib.suppress(OSError), _os_errors(self._url):
            # Some stores have no rmtree, and their folders are only parts of names.
            for folder, _, file_names in _gfile().walk(self._url, topdown=False):
                for name in file_names:
                    _gfile().remove(f"{folder.rstrip('/')}/{name}")
                with contextlib.suppress(OSError), _os_errors(folder):
                    _gfile().rmtree(folder)


class _BucketFile(io.RawIOBase):
    """Present a file of tf.io.gfile as a raw Python file, to read or to write."""

    def __init__(self, url: str, mode: str) -> None:
        self._url = url
        self._file = _gfile().GFile(url, mode)
        self._writes = mode != "rb"
        with _os_errors(url):
            if self._writes:
                self._file.write(b"")  # reports now what would only fail at the end
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
        with _os_errors(self._url):
            data: bytes = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        with _os_errors(self._url):
            self._file.write(bytes(data))
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _os_errors(self._url):
            if whence == os.SEEK_END:
                offset += self._file.size()
            elif whence == os.SEEK_CUR:
                offset += self._file.tell()
            self._file.seek(offset)
        return offset

    def tell(self) -> int:
        with _os_errors(self._url):
            return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            try:
                with _os_errors(self._url):
                    self._file.close()
            finally:
                super().close()


def _tensorflow() -> Any:
    import pipeline.system.tensorflow_import  # noqa: F401

    # isort: split
    import tensorflow as tf

    return tf


def _gfile() -> Any:
    return _tensorflow().io.gfile


@contextlib.contextmanager
def _os_errors(url: str) -> Iterator[None]:
    """Raise TensorFlow's errors as those of the operating system."""
    tf = _tensorflow()
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
        # Python chooses FileNotFoundError and so on by the number.
        raise OSError(number, " ".join(words)[:300], url) from error
