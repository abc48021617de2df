"""Copy what a command needs from a bucket into the cache, and its results back.

A command works on the copy as on any folder, and what it has changed is copied back at
its end. A file of the copy is up to date if it has the size of that in the bucket, and
if the fraction of its time in seconds is the hash of the other's version, for instance
of an ETag. Names of files are what follows the path of the copy or of its place.
"""

import contextlib
import functools
import glob
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, cast

from pipeline.system import command_line, file_system, platform_support
from pipeline.system.errors import DataError
from pipeline.system.remote.bucket import BucketPath, call

# Copies changed files from a folder to a place, and removes others that are gone.
_Upload = Callable[[Path, str, list[str], list[str]], None]
# {name: size of the file, and its version as a number of seven digits}
_Versions = dict[str, tuple[int, int]]

_ADDRESS = re.compile(r"(?:^|(?<=[,=]))(?!https?:)[A-Za-z][\w+.-]+://[^,]*")
_OF_FOLDER = ("latest", "best")  # names of runs that mean another of their folder
# Keys of fsspec's listings that tell the version of a file, the best ones first.
_VERSIONS = ("generation", "ETag", "etag", "mtime", "LastModified", "created")
_OF_CHECKPOINT = re.compile(r"\.(index|data-\d+-of-\d+)")  # endings of TensorFlow's
# Files without which others count for nothing are copied last.
_LAST = re.compile(r"(.*/)?(config\.json|repeats\.json|saved_model\.pb)")
_WAITING = ".waiting"  # file in the copy of a run, with the process that copies it back

_copies: dict[BucketPath, Path] = {}  # that are open
_stacks = [contextlib.ExitStack()]  # of `copied_back`


@contextlib.contextmanager
def copied_back() -> Iterator[None]:
    """Copy what changes in copies to their buckets at the end, also after an error."""
    with contextlib.ExitStack() as stack:
        _stacks.append(stack)
        stack.callback(_stacks.remove, stack)
        yield


def localized(value: Any, without: Collection[str] = ()) -> Any:
    """Return a text in which paths of copies stand for places in buckets.

    So it is with texts in a tuple or mapping, but for the values of keys in `without`.
    """
    if isinstance(value, Mapping):
        return {k: v if k in without else localized(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(map(localized, value))
    if isinstance(value, str):
        named = file_system.named(value)
        return _ADDRESS.sub(lambda match: str(local(match[0])), named)
    return value


def put(folder: Path, place: str, names: Iterable[str]) -> None:
    """Copy files of a folder to a place in a bucket."""

    def send(name: str) -> None:
        target = BucketPath(f"{place}{name}")
        call(target, "put_file", f"{folder}{name}", str(target))

    _each(send, names)


def _each(function: Callable[[str], None], names: Iterable[str]) -> None:
    with futures.ThreadPoolExecutor() as pool:
        list(pool.map(function, names))  # after an error, what waits is cancelled


def _upload(folder: Path, place: str, changed: list[str], gone: list[str]) -> None:
    put(folder, place, (name for name in changed if not _LAST.fullmatch(name)))
    put(folder, place, filter(_LAST.fullmatch, changed))
    for name in gone:
        BucketPath(f"{place}{name}").unlink(missing_ok=True)


def local(text: str, *, upload: _Upload = _upload) -> Path:
    """Return the path of a text, or for a place in a bucket that of its copy."""
    text = file_system.named(text)
    if not file_system.is_remote(text):
        return Path(text)
    place = cast(BucketPath, file_system.path(text))
    if place.name in _OF_FOLDER:
        return local(str(place.parent)) / place.name
    for parent in (place, *place.parents):
        if parent in _copies:
            return _copies[parent].joinpath(*place.relative_to(parent).parts)
    cache = file_system.cache_folder().resolve() / "remote"
    path = cache / file_system.file_name(str(place.parent)) / place.name
    path.parent.mkdir(parents=True, exist_ok=True)
    _stacks[-1].enter_context(_copied(place, path, upload))
    return path


@contextlib.contextmanager
def _copied(place: BucketPath, path: Path, upload: _Upload) -> Iterator[None]:
    """Make a copy equal to a place in a bucket, and at the end the reverse."""
    lock, waiting = path.with_name(f".{path.name}.lock"), path / _WAITING
    process = str(os.getpid())
    with platform_support.locked(lock, on_wait=None) as is_alone:
        versions = _listed(place)
        if is_alone and waiting.exists() and not any(map(_LAST.fullmatch, versions)):
            command_line.note(f"{place}: continues what a training has left in {path}")
            waiting.write_text(process)
        elif is_alone:  # no other process uses the copy
            file_system.remove_tree(waiting)
            _fetch(place, path, versions)
    on_wait = functools.partial(command_line.log, f"another command copies {place}")
    with platform_support.locked(lock, on_wait, shared=True):
        before = _listed(place)
        if _differing(path, before) and not waiting.exists():
            raise DataError(
                f"{place}: has changed while it was copied, or while another command "
                f"works in {path}. Run this again when that has ended"
            )
        _copies[place] = path
        file_system.copies[str(path)] = str(place)
        try:
            yield
        finally:
            del _copies[place]
            if not waiting.exists() or waiting.read_text() == process:
                _send(place, path, upload, before)
                file_system.remove_tree(waiting)


def keep(path: Path) -> None:
    """Let the run around a path wait in its copy until this process copies it back."""
    for copy in _copies.values():
        if path.absolute().is_relative_to(copy):
            (copy / _WAITING).write_text(str(os.getpid()))


def _listed(place: BucketPath) -> _Versions:
    """Return the versions of the files of a place, as they are now."""
    versions, root = {}, str(place).partition("://")[2]
    found = call(place, "find", str(place), detail=True)
    if not found:  # perhaps the part that the names of a checkpoint's files share
        found = call(place, "glob", f"{glob.escape(str(place))}.*", detail=True)
    for file, info in found.items():
        name = file.removeprefix(root)
        is_inside = name[:1] in ("", "/") or _OF_CHECKPOINT.fullmatch(name)
        if info["type"] == "file" and is_inside and not name.endswith("/"):
            if not {"", ".", ".."}.isdisjoint(name.split("/")[1:]):
                raise DataError(f"{place}{name}: is no name of a file")
            version = next((info[key] for key in _VERSIONS if info.get(key)), info)
            hashed = hashlib.sha256(str(version).encode()).digest()
            versions[name] = int(info["size"]), int.from_bytes(hashed[:8]) % 10**7
    return versions


def _differing(path: Path, versions: _Versions) -> list[str]:
    """Return names of files that a copy lacks, has alone or in other versions."""
    files = [file for file in (path, *path.rglob("*")) if file.is_file()]
    names = {file.as_posix()[len(str(path)) :] for file in files}
    # Other hidden files of the copy are not complete yet.
    names = {name for name in names if "/." not in name} | versions.keys()
    return [n for n in sorted(names) if _version(Path(f"{path}{n}")) != versions.get(n)]


def _version(file: Path) -> tuple[int, int] | None:
    """Return the version of a file of a copy; None without any."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        facts = file.stat()
        return facts.st_size, facts.st_mtime_ns % 10**9 // 100
    return None


def _mark(file: Path, version: tuple[int, int]) -> None:
    """Write the version of a file into its time."""
    start_ns = int(file.stat().st_mtime) * 10**9
    os.utime(file, ns=(start_ns, start_ns + version[1] * 100))


def _fetch(place: BucketPath, path: Path, versions: _Versions) -> None:
    names = _differing(path, versions)
    for name in (name for name in names if name not in versions):
        file = Path(f"{path}{name}")
        file.unlink()
        with contextlib.suppress(OSError):  # one of them is not empty
            for folder in file.parents:
                folder.rmdir()
    missing = [name for name in names if name in versions]
    if missing:
        size = f"{sum(versions[name][0] for name in missing) / 1e6:,.1f} MB"
        command_line.log(f"copying {place}: {len(missing):,} files, {size}")

    def fetch(name: str) -> None:
        source, file = BucketPath(f"{place}{name}"), Path(f"{path}{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        call(source, "get_file", str(source), str(file))
        _mark(file, versions[name])

    _each(fetch, missing)


def _send(place: BucketPath, path: Path, upload: _Upload, before: _Versions) -> None:
    """Copy to a bucket what has changed in a copy."""
    if not (names := _differing(path, before)):
        return
    try:
        if _listed(place) != before:
            raise DataError("it has changed while this command worked")
        changed = [name for name in names if Path(f"{path}{name}").is_file()]
        upload(path, str(place), changed, sorted({*names} - {*changed}))
        now = _listed(place)
        for name in now.keys() & changed:
            _mark(Path(f"{path}{name}"), now[name])
    except (OSError, DataError) as error:
        del file_system.copies[str(path)]  # so that the message names both
        text = getattr(error, "strerror", None) or error
        raise DataError(
            f"{place}: results were not copied there: {text}. They are in {path} until "
            "the next command that works there"
        ) from error
    command_line.log(f"copied to {place}: {len(changed):,} files")
