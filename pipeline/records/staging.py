"""Put all files of a conversion into the output folder at once, or none.

They are staged in `OUT/.partial`. Once the marker file `COMMIT` is there, they only
need renaming. `finish` does that, also after a crash; readers refuse a folder where it
has not happened yet.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.system import file_system
from pipeline.system.errors import DataError
from pipeline.system.remote import mirror

PARTIAL_NAME = ".partial"
COMMIT_NAME = "COMMIT"
_MANIFEST = "manifest.json*"
# Of the surrogates, only those that stand for a byte can be in a name.
_NAMES = re.compile("manifest[.]jsonl?|[^/\0\ud800-\udc7f\udd00-\udfff]+[.]tfrecord")


def check_name(name: str) -> str:
    """Return the name of a file that records consist of; others are a ValueError."""
    if not _NAMES.fullmatch(name):
        raise ValueError(f"{name!r:.80} is neither a record file nor a manifest")
    return name


@contextlib.contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """Lock a folder, yield its empty staging folder, and remove what is not committed.

    While another process has the lock, DataError is raised.
    """
    with file_system.made(directory), file_system.locked(directory) as free:
        if not free:
            raise DataError(
                f"{directory}: another conversion is writing here. Wait until it ends"
            )
        finish(directory)
        partial = directory / PARTIAL_NAME
        file_system.remove_tree(partial)  # of a conversion that was killed
        partial.mkdir(exist_ok=True)
        try:
            yield partial
        except OSError as error:
            if error.filename is None:  # of a file that was open already
                error.filename = str(directory)
            raise
        finally:
            if not (partial / COMMIT_NAME).exists():
                file_system.remove_tree(partial)


def upload(folder: Path, place: str, changed: list[str], gone: list[str]) -> None:
    """Make records in a bucket equal to their copy, by `commit`; see mirror.local."""
    directory = file_system.path(place)
    with staged(directory) as partial:
        mirror.put(folder, str(partial), changed)
        commit(directory, [name[1:] for name in gone if "/." not in name])


def commit(directory: Path, obsolete: Sequence[str] = ()) -> None:
    """Put the staged records in place, and then the staged manifest.

    `obsolete` has the names of files to remove from `directory`. After a crash,
    `finish` completes this.
    """
    partial = directory / PARTIAL_NAME
    # Not the records: if the power fails before the system has written them, their
    # sizes and checksums reveal it, and the photos are still there.
    for path in partial.glob(_MANIFEST):
        file_system.sync(path)
    marker = partial / (COMMIT_NAME + ".tmp")
    marker.write_text(json.dumps({"obsolete": [*obsolete]}), encoding="ascii")
    file_system.sync(marker)
    marker.replace(partial / COMMIT_NAME)
    file_system.sync(partial)
    finish(directory)


def finish(directory: Path) -> None:
    """Complete a commit that was interrupted, if there was one.

    The staging folder may come from somebody else. Nothing outside `directory` changes,
    and files that `commit` does not write are a DataError.
    """
    partial = directory / PARTIAL_NAME
    marker = partial / COMMIT_NAME
    file_system.refuse_link(partial)
    if not marker.exists():
        return
    waiting = [path for path in partial.iterdir() if path.name != COMMIT_NAME]
    for path in (marker, *waiting):
        file_system.refuse_link(path)
        if not path.is_file() or (path != marker and not _NAMES.fullmatch(path.name)):
            raise DataError(
                f"{path}: is not a file that conversion puts there. Expected records "
                f"and manifests only. Remove {partial} and convert the photos again"
            )
    for name in _read_marker(marker):
        (directory / name).unlink(missing_ok=True)
    for path in sorted(waiting, key=lambda path: (path.match(_MANIFEST), path.name)):
        path.replace(directory / path.name)
    file_system.sync(directory)
    marker.unlink()
    file_system.remove_tree(partial)


def _read_marker(marker: Path) -> list[str]:
    """Return the names of the files that COMMIT lists as obsolete."""
    try:
        content = json.loads(marker.read_text(encoding="ascii"))
        return list(map(check_name, content["obsolete"]))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise DataError(
            f"{marker}: was not written by `pipeline.convert` ({error!s:.200}). Remove "
            f"{marker.parent} and convert the photos again"
        ) from error
