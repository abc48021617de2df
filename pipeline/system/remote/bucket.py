"""Give a place in a bucket the methods of `pathlib.Path` that Graft uses.

fsspec does the work, so the stores are those that it has a package for: s3fs for s3://,
gcsfs for gs:// (the extra `cloud`), others for others.
"""

import contextlib
import errno
import fnmatch
import glob
import io
import logging
import pathlib
import re
import time
import types
from collections.abc import Iterator
from typing import Any

from pipeline.system.errors import DataError

_PAUSES_S = (0.5, 2.0)  # between tries
_S3 = {"connect_timeout": 10, "retries": {"total_max_attempts": 1}}
_OPTIONS: Any = {"s3": {"config_kwargs": _S3}, "file": {"auto_mkdir": True}}
_DENIED = re.compile("credentials|forbidden|access denied|, 40[13]$", re.IGNORECASE)


class BucketPath(pathlib.PurePosixPath):
    """A file or folder in a bucket, whose folders are only parts of names.

    Errors are FileNotFoundError, PermissionError and DataError.
    """

    def __str__(self) -> str:
        text = super().__str__()  # which has one slash in place of several
        slashes = "///" if text.startswith("file:") else "//"
        return re.sub("(?<=:)/+", slashes, text, count=1)

    def resolve(self) -> "BucketPath":
        """Return the path itself: buckets have no links."""
        return self

    absolute = resolve

    def is_symlink(self) -> bool:
        """Return False: buckets have no links."""
        return False

    def _kind(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return str(call(self, "info", str(self))["type"])
        return ""

    def exists(self) -> bool:
        """Return whether the file or folder exists."""
        return bool(self._kind())

    def is_dir(self) -> bool:
        """Return whether the path is a folder."""
        return self._kind() == "directory"

    def is_file(self) -> bool:
        """Return whether the path is a file."""
        return self._kind() == "file"

    def iterdir(self) -> "Iterator[BucketPath]":
        """Yield the files and folders in the folder."""
        _, folders, files = next(self.walk())
        return (self / name for name in (*folders, *files))

    def glob(self, pattern: str) -> "Iterator[BucketPath]":
        """Yield those whose names match a pattern such as "*.part"."""
        with contextlib.suppress(FileNotFoundError):
            for path in self.iterdir():
                if fnmatch.fnmatchcase(path.name, pattern):
                    yield path

    def mkdir(self, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Do nothing: folders of buckets are only parts of names."""

    def stat(self) -> types.SimpleNamespace:
        """Return an object whose `st_size` is the size in bytes."""
        return types.SimpleNamespace(st_size=call(self, "info", str(self))["size"])

    def read(self, start: int, size: int) -> bytes:
        """Return bytes from `start` on, fewer than `size` at the end of the file."""
        end = start + size
        return call(self, "cat_file", str(self), start=start, end=end) if size else b""

    def open(self, mode: str = "r", **options: Any) -> Any:
        """Open the file like the built-in `open`, to read or to write it."""
        if "w" in mode:
            return call(self, "open", str(self), mode, **options)
        binary = io.BytesIO(self.read(0, self.stat().st_size))
        return binary if "b" in mode else io.TextIOWrapper(binary, **options)

    def read_text(self, encoding: str) -> str:
        """Return the whole file, decoded."""
        return self.read(0, self.stat().st_size).decode(encoding)

    def write_text(self, text: str, encoding: str) -> None:
        """Write the whole file, encoded."""
        call(self, "pipe_file", str(self), text.encode(encoding))

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the file; some stores do not say that there was none."""
        with contextlib.suppress(*[FileNotFoundError] * missing_ok):
            call(self, "rm_file", str(self))

    def replace(self, target: "BucketPath") -> None:
        """Rename the file to `target`, which is overwritten if it exists."""
        call(self, "cp_file", str(self), str(target))
        self.unlink(missing_ok=True)

    def walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield folder, folder names and file names like `os.walk`, from the top."""
        folders, files = list[str](), list[str]()
        for child in call(self, "ls", str(self), detail=True):
            if child["type"] == "directory":
                folders.append(child["name"].rstrip("/").rpartition("/")[2])
            elif not child["name"].endswith("/"):  # as what marks an empty folder
                files.append(child["name"].rpartition("/")[2])
        yield str(self), folders, files
        for name in folders:
            yield from (self / name).walk()

    def remove_tree(self) -> None:
        """Remove the folder and all files in it, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            call(self, "rm", glob.escape(str(self)), recursive=True)


def call(path: BucketPath, function: str, *args: Any, **options: Any) -> Any:
    """Call a function of fsspec by its name; if it fails, up to three times.

    FileNotFoundError and PermissionError name `path`; all else becomes a DataError.
    """
    system = _file_system(str(path))
    for pause_s in (*_PAUSES_S, 0):
        try:
            return getattr(system, function)(*args, **options)
        except FileNotFoundError as error:
            text = "no such file or folder"
            raise FileNotFoundError(errno.ENOENT, text, str(path)) from error
        except Exception as error:  # of the store's package and those below it
            text = " ".join(str(error).split())[:300] or type(error).__name__
            if isinstance(error, PermissionError) or _DENIED.search(text):
                raise PermissionError(errno.EACCES, text, str(path)) from error
            if not pause_s:
                raise DataError(f"{path}: {text}") from error
        time.sleep(pause_s)
    return None


def _file_system(place: str) -> Any:
    """Return the file system of a place, which fsspec keeps for the process."""
    scheme = place.partition("://")[0]
    try:
        import fsspec

        options = _OPTIONS.get(scheme, {})
        system = fsspec.filesystem(scheme, use_listings_cache=False, **options)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{place}: {error}. Expected s3:// or gs://, and the packages for them: "
            "pip install 'graft-photos[cloud]'"
        ) from error
    if scheme == "gs" and hasattr(system._request, "__wrapped__"):
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # which logs tracebacks
        once = type(system)._request.__wrapped__  # which tries for a minute otherwise
        system._request = types.MethodType(once, system)
    return system
