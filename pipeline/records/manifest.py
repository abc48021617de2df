"""The index of the records: class names, counts, one row per source file.

`manifest.json` says what the data set is; `manifest.jsonl` has one row per source file,
taken or not, in the order of their paths. The format stands in tfrecords/README.md.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pipeline.records import staging
from pipeline.records.reasons import Code
from pipeline.system.errors import DataError

FORMAT_VERSION = 2
GRAFT_VERSION = "0.1.0"
SPLITS = ("train", "validation", "test")
HEAD_NAME = "manifest.json"
ROWS_NAME = "manifest.jsonl"
# Keys of a row that its data set's digest leaves out, by format version: rows of
# version 1 have no codes; in version 2 the digest does not change with the words.
_NOT_IN_DIGEST = {1: ("codes",), FORMAT_VERSION: ("codes", "reason")}
# Settings that do not change a record.
_NOT_OF_RECORDS = (
    *("animated", "conflicts", "duplicates", "given_splits", "group_by"),
    *("max_pixels", "source"),
)

Action = Literal["copied", "reencoded", "skipped"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One source file.

    Attributes:
        path: relative to the source folder, with "/".
        class_name: the class it was filed under; "" for a file outside any class.
        sha256: of the source file's bytes, 64 hex digits; "" if it could not be read.
        phash: perceptual hash, 16 hex digits; "" if there is none.
        source_bytes: size of the source file.
        format: of the image as stored, "jpeg" or "png"; "" if skipped.
        height: of the image as stored in the record, in pixels; 0 if skipped.
        width: likewise.
        orientation: EXIF orientation of the source, 1..8; 1 is upright.
        action: what happened to the file.
        codes: why it was re-encoded or skipped, as members of reasons.Code; () also
            where a version of Graft without codes has written the row.
        reason: the same as a sentence; "" if copied.
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
    codes: tuple[str, ...] = ()
    reason: str = ""
    group: str = ""
    split: str = ""
    fold: int | None = None
    file: str = ""
    offset: int = 0
    length: int = 0

    @property
    def is_included(self) -> bool:
        """Whether the records hold this photo."""
        return self.action != "skipped"

    def skipped(self, code: Code, reason: str) -> "Row":
        """The same file, not taken.

        Keeps hash, group and split, so that a photo that comes back is known.
        """
        return dataclasses.replace(
            self,
            action="skipped",
            codes=(code,),
            reason=reason,
            format="",
            height=0,
            width=0,
            file="",
            offset=0,
            length=0,
        )


_FIELDS = tuple(field.name for field in dataclasses.fields(Row))
_INT_FIELDS = ("source_bytes", "height", "width", "orientation", "offset", "length")
# Types of a row's values, without and with a fold.
_ROW_KINDS = {
    tuple(
        {"fold": fold, "codes": tuple, **dict.fromkeys(_INT_FIELDS, int)}.get(name, str)
        for name in _FIELDS
    )
    for fold in (type(None), int)
}
_values = operator.attrgetter(*_FIELDS)
# What is known of a file by itself, and what is decided when all are known.
_OWN_FIELDS = _FIELDS[: _FIELDS.index("group")]


class Tally:
    """Counts photos by class: by action, by split, and bytes of records."""

    def __init__(self, class_names: Iterable[str]) -> None:
        """Starts with nothing."""
        self.classes: dict[str, collections.Counter[str]] = {
            name: collections.Counter() for name in class_names
        }
        # Files of no class; photos that are gone may be of a class that is gone.
        self.others: collections.Counter[str] = collections.Counter()

    def add(self, class_name: str, action: str, split: str, length: int) -> None:
        """Counts one row."""
        counter = self.classes.get(class_name, self.others)
        counter["photos"] += 1
        counter[action] += 1
        if action != "skipped":
            counter[split] += 1
            counter["bytes"] += length

    def total(self) -> collections.Counter[str]:
        """All classes together, and what is in none."""
        return sum((*self.classes.values(), self.others), collections.Counter())

    def files(self) -> dict[str, int]:
        """Number of source files, and by what became of them, as the head has it."""
        total = self.total()
        actions = ("copied", "reencoded", "skipped")
        return {
            "total": total["photos"],
            **{name: total[name] for name in actions if total[name]},
        }

    def splits(self) -> dict[str, dict[str, int]]:
        """{class name: {split: number of photos taken}}."""
        return {
            name: {split: counter[split] for split in SPLITS}
            for name, counter in self.classes.items()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is said of a data set beside its rows.

    Attributes:
        class_names: in label order; label i is class_names[i].
        seed: that ranked the photos for the split.
        shares: {"validation": share, "test": share} that the split aimed at.
        settings: of the conversion that decide the rows.
        versions: of the tools that wrote it.
        ignored: files and folders passed over without a row (hidden, system), by kind.
    """

    class_names: tuple[str, ...]
    seed: int
    shares: dict[str, float]
    settings: dict[str, Any]
    versions: dict[str, str]
    ignored: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A converted data set.

    Attributes:
        info: class names, seed, settings.
        rows: one per source file, in the order of their paths.
        directory: the folder that holds manifest and records.
        format_version: version of the format that the data set was read from.
    """

    info: DatasetInfo
    rows: tuple[Row, ...]
    directory: Path
    format_version: int = FORMAT_VERSION

    @property
    def class_names(self) -> tuple[str, ...]:
        """In label order; label i is class_names[i]."""
        return self.info.class_names

    @functools.cached_property
    def labels(self) -> dict[str, int]:
        """{class name: 0-based label}."""
        return {name: label for label, name in enumerate(self.class_names)}

    def included(self, *splits: str) -> tuple[Row, ...]:
        """Rows with a record, of the named splits (all when none is named)."""
        return tuple(
            row
            for row in self.rows
            if row.is_included and (not splits or row.split in splits)
        )

    @functools.cached_property
    def _writer(self) -> "Writer":
        writer = Writer(self.info, None, self.format_version)
        for row in self.rows:
            writer.add(Line.of(row))
        return writer

    @property
    def tally(self) -> Tally:
        """Counts by class."""
        return self._writer.tally

    def counts(self) -> dict[str, dict[str, int]]:
        """{class name: {split: number of photos}} of the photos taken."""
        return self.tally.splits()

    @property
    def digest(self) -> str:
        """SHA-256 over class names and rows: changes with any photo or split.

        Codes and reasons do not change it.
        """
        return self._writer.digest

    @property
    def records_digest(self) -> str:
        """SHA-256 over the records alone: a new split leaves it as it is."""
        return self._writer.records_digest

    def stage(self, partial_dir: Path) -> None:
        """Writes both manifest files into a staging folder."""
        with Writer(self.info, partial_dir) as writer:
            for row in self.rows:
                writer.add(Line.of(row))
            writer.finish()

    def same_data(self, other: Self) -> bool:
        """Whether both describe the same records, splits and settings."""
        mine, others = (
            dataclasses.replace(one.info, versions={}) for one in (self, other)
        )
        return mine == others and self.rows == other.rows


_HEAD_KINDS = {
    "class_names": list,
    "seed": int,
    "digest": str,
    **dict.fromkeys(("shares", "settings", "versions", "ignored"), dict),
}
_encode = json.JSONEncoder(separators=(",", ":")).encode


def own_text(row: Row) -> str:
    """The beginning of a row's line: what is known of the file by itself."""
    return _encode({name: getattr(row, name) for name in _OWN_FIELDS})[:-1]


def row_of(own: str) -> Row:
    """The row that `own_text` was made of, without group, split and record."""
    values = json.loads(own + "}")
    return Row(**values | {"codes": tuple(values["codes"])})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What is decided about a file when all are known: see Row."""

    group: str = ""
    split: str = ""
    fold: int | None = None
    file: str = ""
    offset: int = 0
    length: int = 0

    def text(self) -> str:
        """The end of a row's line."""
        fold = "null" if self.fold is None else self.fold
        return (
            f',"group":"{self.group}","split":"{self.split}","fold":{fold},'
            f'"file":{_encode(self.file)},"offset":{self.offset},'
            f'"length":{self.length}}}\n'
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A row about to be written.

    Attributes:
        path: of the file.
        own: of `own_text`.
        place: the rest.
        class_name: as in `own`; so are `sha256`, `action` and `reason`.
        sha256: likewise.
        action: likewise.
        reason: likewise, of a file that is skipped.
    """

    path: str
    own: str
    place: Place
    class_name: str
    sha256: str
    action: str
    reason: str = ""

    @classmethod
    def of(cls, row: Row) -> Self:
        """A row as it is."""
        return cls(
            path=row.path,
            own=own_text(row),
            place=Place(
                group=row.group,
                split=row.split,
                fold=row.fold,
                file=row.file,
                offset=row.offset,
                length=row.length,
            ),
            class_name=row.class_name,
            sha256=row.sha256,
            action=row.action,
            reason=row.reason,
        )


class Writer:
    """Writes rows one by one, in the order of their paths, and then the head.

    Attributes:
        tally: counts of the rows so far.
    """

    def __init__(
        self,
        info: DatasetInfo,
        partial_dir: Path | None,
        format_version: int = FORMAT_VERSION,
    ) -> None:
        """Begins.

        Args:
            info: the data set.
            partial_dir: folder for both files; None only counts and digests.
            format_version: version of the format whose digest is computed; what is
                written is always in FORMAT_VERSION.
        """
        self._not_in_digest = _NOT_IN_DIGEST[format_version]
        self.tally = Tally(info.class_names)
        self._info = info
        self._partial_dir = partial_dir
        self._file = (
            (partial_dir / ROWS_NAME).open("w", encoding="ascii")
            if partial_dir
            else None
        )
        names = json.dumps(info.class_names) + "\n"
        self._digest = hashlib.sha256(names.encode("ascii"))
        self._records = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add(self, line: Line) -> None:
        """Adds a row."""
        text = line.own + line.place.text()
        values = json.loads(text)
        for name in self._not_in_digest:
            del values[name]
        self._digest.update(f"{_encode(values)}\n".encode("ascii"))
        if self._file:
            self._file.write(text)
        place = line.place
        if line.action != "skipped":
            record = f"{line.sha256} {place.file} {place.offset} {place.length}\n"
            self._records.update(record.encode(errors="surrogateescape"))
        self.tally.add(line.class_name, line.action, place.split, place.length)

    @property
    def digest(self) -> str:
        """SHA-256 over class names and the rows so far."""
        return self._digest.hexdigest()

    @property
    def records_digest(self) -> str:
        """SHA-256 over the records of the rows so far, and the settings."""
        digest = self._records.copy()
        settings = {
            name: value
            for name, value in self._info.settings.items()
            if name not in _NOT_OF_RECORDS
        }
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()

    def finish(self) -> None:
        """Writes the head."""
        if self._partial_dir is None or self._file is None:
            raise RuntimeError("nowhere to write to")
        self._file.close()
        head = {
            "format_version": FORMAT_VERSION,
            "class_names": list(self._info.class_names),
            "counts": self.tally.splits(),
            "files": self.tally.files(),
            "ignored": self._info.ignored,
            "seed": self._info.seed,
            "shares": self._info.shares,
            "settings": self._info.settings,
            "versions": self._info.versions,
            "digest": self.digest,
            "records_digest": self.records_digest,
        }
        text = json.dumps(head, indent=2) + "\n"
        (self._partial_dir / HEAD_NAME).write_text(text, encoding="ascii")


def commit(directory: Path, obsolete: Sequence[str] = ()) -> None:
    """Puts staged records and a staged manifest in place, the manifest last."""
    staging.commit(directory, last=(ROWS_NAME, HEAD_NAME), obsolete=obsolete)


def read(directory: Path) -> Manifest:
    """Reads and checks a manifest.

    Raises:
        DataError: no data set here, an interrupted conversion, another format,
            a damaged file, or one photo in two splits.
    """
    info, digest, version = read_head(directory)
    rows = tuple(read_rows(directory))
    found = Manifest(info=info, rows=rows, directory=directory, format_version=version)
    check_digest(directory, found.digest, digest)
    check(found)
    return found


def read_head(directory: Path) -> tuple[DatasetInfo, str, int]:
    """Reads manifest.json.

    Returns:
        What it says, the digest that class names and rows should have, and the format
        version, which says how that digest is computed.

    Raises:
        DataError: as `read`, but for rows.
    """
    if staging.is_unfinished(directory):
        raise DataError(
            f"{directory}: a conversion was interrupted while it put its files in "
            "place; run the same `python -m pipeline.convert` command again"
        )
    path = directory / HEAD_NAME
    if not path.exists() and any(directory.glob("*.tfrecord")):
        raise DataError(
            f"{path}: missing, although there are records; remove {directory} and "
            "convert the photos again"
        )
    if not path.exists():
        raise DataError(
            f"{directory}: no {HEAD_NAME} here; "
            "convert your photos first: python -m pipeline.convert PHOTOS_FOLDER "
            f"--out={directory}"
        )
    try:
        head = json.loads(path.read_text(encoding="ascii"))
        version = head["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: not a manifest ({error}); remove {directory} and convert the "
            "photos again"
        ) from error
    if version not in _NOT_IN_DIGEST:
        raise DataError(
            f"{path}: format version {version}, this Graft reads 1 to "
            f"{FORMAT_VERSION}; convert again into a new folder"
        )
    needed = {field.name for field in dataclasses.fields(DatasetInfo)} | {"digest"}
    if missing := needed - head.keys():
        raise DataError(f"{path}: {sorted(missing)} missing; convert again")
    for name, kind in _HEAD_KINDS.items():
        if not isinstance(head[name], kind):
            raise DataError(
                f"{path}: {name} is {head[name]!r:.80}; was it edited? Convert again "
                "into a new folder"
            )
    values = {name: head[name] for name in needed - {"digest"}}
    values["class_names"] = tuple(map(str, values["class_names"]))
    return DatasetInfo(**values), head["digest"], version


def read_rows(directory: Path) -> Iterator[Row]:
    """Yields the rows of manifest.jsonl, in the order of their paths.

    Raises:
        DataError: a line is damaged; names it.
    """
    path = directory / ROWS_NAME
    try:
        with path.open(encoding="ascii", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield _checked(Row(**_with_codes(json.loads(line))))
                except (ValueError, TypeError, RecursionError) as error:
                    raise DataError(f"{path} line {number}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _with_codes(values: dict[str, Any]) -> dict[str, Any]:
    """Returns a row's values with codes, which version 1 of the format does not have.

    There, a reason that begins with "bridges" is a part of the format: it marks a photo
    whose split is not its own. No other reason of that version decides anything.
    """
    if "codes" in values:
        if not isinstance(values["codes"], list):
            raise ValueError("codes is not a list")
        return values | {"codes": tuple(values["codes"])}
    bridges = str(values.get("reason", "")).startswith("bridges")
    return values | {"codes": (Code.BRIDGES_SPLITS,) if bridges else ()}


def _checked(row: Row) -> Row:
    """The row, if its values are of the right kinds.

    Raises:
        ValueError: one is not.
    """
    if tuple(map(type, _values(row))) not in _ROW_KINDS or not all(
        isinstance(code, str) for code in row.codes
    ):
        raise ValueError("a value is not of the kind it should be")
    # Refuses lone surrogates.
    os.fsencode("".join((row.path, row.class_name, row.file, row.reason, *row.codes)))
    if not (row.sha256 + row.group + row.split).isascii():
        raise ValueError("sha256, group or split is not ASCII")
    return row


def check_digest(directory: Path, found: str, expected: str) -> None:
    """Refuses rows that are not those of the head.

    Raises:
        DataError: the digests differ.
    """
    if found != expected:
        raise DataError(
            f"{directory / ROWS_NAME}: does not belong to {HEAD_NAME} (digest "
            f"{found[:12]}, expected {expected[:12]}); was it edited? Remove "
            f"{directory} and convert the photos again, or choose another --out"
        )


def check_files(found: Manifest) -> None:
    """Refuses records that are not all there; their checksums tell the rest.

    Raises:
        DataError: a record file is missing, or of another size.
    """
    ends: dict[str, int] = collections.defaultdict(int)
    for row in found.included():
        ends[row.file] = max(ends[row.file], row.offset + row.length)
    for name, end in ends.items():
        path = found.directory / name
        size = path.stat().st_size if path.is_file() else 0
        if size != end:
            raise DataError(
                f"{path}: {f'has {size:,} bytes' if size else 'missing'}, expected "
                f"{end:,}; run the same pipeline.convert again"
            )


def check(found: Manifest) -> None:
    """Refuses a manifest from which no honest accuracy can come.

    Raises:
        DataError: one content hash in two splits, an unknown split or class.
    """
    first: dict[str, Row] = {}
    known = set(found.class_names)
    for row in found.included():
        if row.split not in SPLITS or row.class_name not in known:
            raise DataError(
                f"{found.directory / ROWS_NAME}: {row.path} has split {row.split!r}, "
                f"class {row.class_name!r}"
            )
        other = first.setdefault(row.sha256, row)
        if other.split != row.split:
            raise DataError(
                f"{found.directory}: the same photo stands in two splits: {other.path} "
                f"({other.split}) and {row.path} ({row.split}); split again with "
                f"python -m pipeline.split {found.directory}"
            )
