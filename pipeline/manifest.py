"""The index of the records: class names, counts, one row per source file.

`manifest.json` says what the data set is; `manifest.jsonl` has one row per source file,
taken or not, in the order of their paths. The format stands in tfrecords/README.md.

All files of a conversion appear together: they are staged in `OUT/.partial`, and once
the marker file `COMMIT` stands there they only need renaming. `finish_commit` does
that, also after a crash; readers refuse a folder where it has not happened yet.
"""

import collections
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pipeline import schema

FORMAT_VERSION = 1
GRAFT_VERSION = "0.1.0"
SPLITS = ("train", "validation", "test")
HEAD_NAME = "manifest.json"
ROWS_NAME = "manifest.jsonl"
PARTIAL_NAME = ".partial"
COMMIT_NAME = "COMMIT"
# Reason of a row whose photo was converted once and is no longer in the source.
GONE = "gone from the source"

Action = Literal["copied", "reencoded", "skipped"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One source file.

    Attributes:
        path: relative to the source folder, with "/".
        class_name: the class it was filed under; "" for a file outside any class.
        sha256: of the source file's bytes, 64 hex digits; "" if it could not be read.
        phash: perceptual hash; "" as long as near-duplicates are not searched.
        source_bytes: size of the source file.
        format: of the image as stored, "jpeg" or "png"; "" if skipped.
        height: of the image as stored in the record, in pixels; 0 if skipped.
        width: likewise.
        orientation: EXIF orientation of the source, 1..8; 1 is upright.
        action: what happened to the file.
        reason: why it was re-encoded or skipped; "" if copied.
        group: SHA-256 that names its duplicate group: such files share a split.
        split: "train", "validation", "test"; "" if skipped.
        fold: 0-based fold; None unless the split was made by folds.
        file: record file, relative to the manifest; "" if skipped.
        offset: byte offset of its record there.
        length: bytes of its record, framing included.
    """

    path: str
    class_name: str
    sha256: str
    phash: str = ""
    source_bytes: int
    format: str = ""
    height: int = 0
    width: int = 0
    orientation: int = 1
    action: Action
    reason: str = ""
    group: str = ""
    split: str = ""
    fold: int | None = None
    file: str = ""
    offset: int = 0
    length: int = 0

    @property
    def taken(self) -> bool:
        """Whether the records hold this photo."""
        return self.action != "skipped"


_ROW_FIELDS = tuple(field.name for field in dataclasses.fields(Row))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A converted data set.

    Attributes:
        class_names: in label order; label i is class_names[i].
        rows: one per source file, in the order of their paths.
        seed: that ranked the photos for the split.
        shares: {"validation": share, "test": share} that the split aimed at.
        settings: of the conversion that decide the bytes of a record.
        versions: of the tools that wrote it.
        ignored: files and folders passed over without a row (hidden, system), by kind.
        directory: the folder that holds manifest and records.
    """

    class_names: tuple[str, ...]
    rows: tuple[Row, ...]
    seed: int
    shares: dict[str, float]
    settings: dict[str, int]
    versions: dict[str, str]
    ignored: dict[str, int]
    directory: Path

    @functools.cached_property
    def labels(self) -> dict[str, int]:
        """{class name: 0-based label}."""
        return {name: label for label, name in enumerate(self.class_names)}

    def taken(self, *splits: str) -> tuple[Row, ...]:
        """Rows with a record, of the named splits (all when none is named)."""
        return tuple(
            row
            for row in self.rows
            if row.taken and (not splits or row.split in splits)
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """{class name: {split: number of photos}} of the photos taken."""
        found = collections.Counter((r.class_name, r.split) for r in self.taken())
        return {
            name: {split: found[name, split] for split in SPLITS}
            for name in self.class_names
        }

    @functools.cached_property
    def _rows_text(self) -> str:
        return "".join(_dump_row(row) + "\n" for row in self.rows)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over class names and all rows: changes with any photo or split."""
        text = json.dumps(self.class_names) + "\n" + self._rows_text
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    @functools.cached_property
    def records_digest(self) -> str:
        """SHA-256 over the records alone: a new split leaves it as it is."""
        digest = hashlib.sha256()
        for row in self.taken():
            digest.update(
                f"{row.sha256} {row.file} {row.offset} {row.length}\n".encode()
            )
        digest.update(json.dumps(self.settings, sort_keys=True).encode())
        return digest.hexdigest()

    def head(self) -> dict[str, Any]:
        """The content of manifest.json."""
        actions = collections.Counter(row.action for row in self.rows)
        return {
            "format_version": FORMAT_VERSION,
            "class_names": list(self.class_names),
            "counts": self.counts(),
            "files": {"total": len(self.rows), **dict(sorted(actions.items()))},
            "ignored": self.ignored,
            "seed": self.seed,
            "shares": self.shares,
            "settings": self.settings,
            "versions": self.versions,
            "digest": self.digest,
            "records_digest": self.records_digest,
        }

    def stage(self, partial_dir: Path) -> None:
        """Writes both manifest files into a staging folder."""
        head = json.dumps(self.head(), indent=2) + "\n"
        (partial_dir / ROWS_NAME).write_text(self._rows_text, encoding="ascii")
        (partial_dir / HEAD_NAME).write_text(head, encoding="ascii")

    def same_data(self, other: Self | None) -> bool:
        """Whether both describe the same records, splits and settings."""
        return (
            other is not None
            and self.digest == other.digest
            and self.settings == other.settings
            and self.ignored == other.ignored
            and (self.seed, self.shares) == (other.seed, other.shares)
        )


_encode = json.JSONEncoder(separators=(",", ":")).encode


def _dump_row(row: Row) -> str:
    return _encode({name: getattr(row, name) for name in _ROW_FIELDS})


@contextlib.contextmanager
def staging(directory: Path) -> Iterator[Path]:
    """Gives an empty staging folder, alone; what is not committed is removed again.

    Raises:
        schema.DataError: another process is writing into `directory`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise schema.DataError(
                f"{directory}: another conversion is writing here; wait for it to end"
            ) from error
        finish_commit(directory)
        partial = directory / PARTIAL_NAME
        shutil.rmtree(partial, ignore_errors=True)  # of a conversion that was killed
        partial.mkdir()
        try:
            yield partial
        finally:
            if not (partial / COMMIT_NAME).exists():
                shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(descriptor)


def commit(directory: Path, obsolete: Sequence[str] = ()) -> None:
    """Puts the staged files in place; a crash half-way is completed by the next reader.

    Args:
        directory: the output folder; its `.partial` holds the finished files.
        obsolete: names of files that the new state no longer has.
    """
    partial = directory / PARTIAL_NAME
    # Not the records: should the power fail before the system has written them, their
    # sizes and checksums tell, and the photos are still there.
    for name in (ROWS_NAME, HEAD_NAME):
        _sync(partial / name)
    staging = partial / (COMMIT_NAME + ".tmp")
    staging.write_text(json.dumps(list(obsolete)), encoding="ascii")
    _sync(staging)
    staging.rename(partial / COMMIT_NAME)
    _sync(partial)
    finish_commit(directory)


def finish_commit(directory: Path) -> bool:
    """Completes a commit that was interrupted, and says whether there was one."""
    partial = directory / PARTIAL_NAME
    marker = partial / COMMIT_NAME
    if not marker.exists():
        return False
    staged = {path.name: path for path in partial.iterdir()}
    obsolete = json.loads(staged.pop(COMMIT_NAME).read_text(encoding="ascii"))
    head = staged.pop(HEAD_NAME, None)
    for name, path in sorted(staged.items()):
        path.replace(directory / name)
    for name in obsolete:
        (directory / name).unlink(missing_ok=True)
    if head is not None:  # last: it is what makes the folder a data set
        head.replace(directory / HEAD_NAME)
    _sync(directory)
    marker.unlink()
    shutil.rmtree(partial)
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(directory: Path) -> Manifest:
    """Reads and checks a manifest.

    Raises:
        schema.DataError: no data set here, an interrupted conversion, another format,
            a damaged file, or one photo in two splits.
    """
    if (directory / PARTIAL_NAME / COMMIT_NAME).exists():
        raise schema.DataError(
            f"{directory}: a conversion was interrupted while it put its files in "
            "place; run the same `python -m pipeline.convert` command again"
        )
    if not (directory / HEAD_NAME).exists():
        raise schema.DataError(
            f"{directory}: no {HEAD_NAME} here; "
            "convert your photos first: python -m pipeline.convert PHOTOS_FOLDER "
            f"--out={directory}"
        )
    head = _read_head(directory / HEAD_NAME)
    found = Manifest(
        class_names=tuple(head["class_names"]),
        rows=tuple(_read_rows(directory / ROWS_NAME)),
        seed=head["seed"],
        shares=head["shares"],
        settings=head["settings"],
        versions=head["versions"],
        ignored=head["ignored"],
        directory=directory,
    )
    if found.digest != head["digest"]:
        raise schema.DataError(
            f"{directory / ROWS_NAME}: does not belong to {HEAD_NAME} (digest "
            f"{found.digest[:12]}, expected {head['digest'][:12]}); "
            "was it edited? Convert again"
        )
    check(found)
    return found


def _read_head(path: Path) -> dict[str, Any]:
    try:
        head = json.loads(path.read_text(encoding="ascii"))
        version = head["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise schema.DataError(f"{path}: not a manifest ({error})") from error
    if version != FORMAT_VERSION:
        raise schema.DataError(
            f"{path}: format version {version}, this Graft reads {FORMAT_VERSION}; "
            "convert again into a new folder"
        )
    needed = {
        "class_names",
        "seed",
        "shares",
        "settings",
        "versions",
        "ignored",
        "digest",
    }
    if missing := needed - head.keys():
        raise schema.DataError(f"{path}: {sorted(missing)} missing; convert again")
    return dict(head)


def _read_rows(path: Path) -> Iterator[Row]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise schema.DataError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        try:
            yield Row(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise schema.DataError(f"{path} line {number}: {error}") from error


def check(found: Manifest) -> None:
    """Refuses a manifest from which no honest accuracy can come.

    Raises:
        schema.DataError: one content hash in two splits, an unknown split or class.
    """
    first: dict[str, Row] = {}
    known = set(found.class_names)
    for row in found.taken():
        if row.split not in SPLITS or row.class_name not in known:
            raise schema.DataError(
                f"{found.directory / ROWS_NAME}: {row.path} has split {row.split!r}, "
                f"class {row.class_name!r}"
            )
        other = first.setdefault(row.sha256, row)
        if other.split != row.split:
            raise schema.DataError(
                f"{found.directory}: the same photo stands in two splits: {other.path} "
                f"({other.split}) and {row.path} ({row.split}); split again with "
                f"python -m pipeline.split {found.directory}"
            )
