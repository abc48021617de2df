"""Read and write the manifest of a data set: class names, counts and one row a file.

`manifest.json` describes the data set. `manifest.jsonl` has one row per source file,
included or skipped, in the order of their paths. tfrecords/README.md has the format.
"""

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self, get_args

from pipeline.records import manifest_head, manifest_row, staging
from pipeline.records.manifest_head import CONVERT_AGAIN
from pipeline.records.manifest_row import FORMAT_VERSION, Action, Row, Split
from pipeline.system import file_system
from pipeline.system.errors import DataError

SPLITS = get_args(Split)
HEAD_NAME = "manifest.json"
ROWS_NAME = "manifest.jsonl"
_MAX_LINE = 1 << 20  # characters; a path of 4,096 bytes takes 25,000
# Settings that do not change a record.
_NOT_OF_RECORDS = {
    *("animated", "conflicts", "duplicates", "given_splits", "group_by"),
    *("layout", "max_pixels", "source"),
}


class Tally:
    """Numbers of photos, and bytes of records, for each class.

    `classes` is {class name: Counter}, whose keys are "photos", "usable", "bytes", and
    the names of actions and splits; `others` counts the files in no class.
    """

    def __init__(self, class_names: Iterable[str], rows: Iterable[Row]) -> None:
        """Count the rows of a manifest, without photos that are gone."""
        self.classes = {name: collections.Counter[str]() for name in class_names}
        self.others = collections.Counter[str]()
        for row in rows:
            if row.is_gone:
                continue
            counter = self.classes.get(row.class_name, self.others)
            counter["photos"] += 1
            counter[row.action] += 1
            if row.is_included:
                counter["usable"] += 1
                counter[row.split] += 1
                counter["bytes"] += row.length

    def counts(self, *columns: str) -> dict[str, dict[str, int]]:
        """Return {class name: {column: number}}."""
        return {
            name: {column: counter[column] for column in columns}
            for name, counter in self.classes.items()
        }

    def rows(self, *columns: str) -> list[tuple[Any, ...]]:
        """Return rows of a table: the classes, other files if any, and the total."""
        has_others = any(self.others[column] for column in columns)
        others = [("(no class)", self.others)] if has_others else []
        counters = (*self.classes.items(), *others, ("total", self.total()))
        return [(name, *map(count.__getitem__, columns)) for name, count in counters]

    def total(self) -> collections.Counter[str]:
        """Return the counts of all classes and other files together."""
        return sum((*self.classes.values(), self.others), collections.Counter())

    def files(self) -> dict[str, int]:
        """Return the number of files, in all and by action, as manifest.json has it."""
        total = self.total()
        actions = [name for name in get_args(Action) if total[name]]
        return {"total": total["photos"], **{name: total[name] for name in actions}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Description of a data set apart from its rows."""

    class_names: tuple[str, ...]  # label i is class_names[i]
    ignored: dict[str, int]  # {kind: number} of hidden and system files without a row
    seed: int  # of the random order from which the split was made
    shares: dict[str, float]  # {"validation": share, "test": share} aimed at, 0..1
    settings: dict[str, Any]  # of the conversion, which decide the rows
    versions: dict[str, str]  # {name of a tool: its version when it wrote the data set}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A converted data set."""

    info: DatasetInfo
    rows: tuple[Row, ...]  # one per source file, in the order of their paths
    directory: Path  # of manifest and records
    format_version: int = FORMAT_VERSION  # of the files it was read from

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order; label i is class_names[i]."""
        return self.info.class_names

    @functools.cached_property
    def labels(self) -> dict[str, int]:
        """{class name: 0-based label}."""
        return {name: label for label, name in enumerate(self.class_names)}

    def included(self, *splits: str) -> tuple[Row, ...]:
        """Return the rows with a record, of the named splits or, by default, of all."""
        rows = (row for row in self.rows if row.is_included)
        return tuple(row for row in rows if not splits or row.split in splits)

    @functools.cached_property
    def tally(self) -> Tally:
        """Numbers of photos by class, action and split."""
        return Tally(self.class_names, self.rows)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return {class name: {split: number of photos in the records}}."""
        return self.tally.counts(*SPLITS)

    def divided_groups(self) -> list[list[Row]]:
        """Return the rows of each group whose photos are in several splits."""
        groups: dict[str, list[Row]] = collections.defaultdict(list)
        for row in self.included():
            groups[row.group].append(row)
        return [rows for rows in groups.values() if len({r.split for r in rows}) > 1]

    def file_sizes(self) -> dict[str, int]:
        """Return {record file: its size in bytes by the rows}."""
        sizes: collections.Counter[str] = collections.Counter()
        for row in self.included():
            sizes[row.file] = max(sizes[row.file], row.offset + row.length)
        return dict(sizes)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over class names and rows: changes with any photo or split.

        Codes and reasons do not change it.
        """
        return self._digest(self.format_version)

    def _digest(self, format_version: int) -> str:
        digest = hashlib.sha256(f"{json.dumps(self.class_names)}\n".encode("ascii"))
        leave_out = manifest_row.NOT_IN_DIGEST[format_version]
        for row in self.rows:
            digest.update(manifest_row.to_line(row, leave_out).encode("ascii"))
        return digest.hexdigest()

    @functools.cached_property
    def records_digest(self) -> str:
        """SHA-256 over records and their settings; a new split does not change it."""
        digest = hashlib.sha256()
        for row in self.included():
            record = f"{row.sha256} {row.file} {row.offset} {row.length}\n"
            digest.update(record.encode(errors="surrogateescape"))
        names = self.info.settings.keys() - _NOT_OF_RECORDS
        settings = {name: self.info.settings[name] for name in names}
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()

    def stage(self, folder: Path) -> None:
        """Write both manifest files into a staging folder, in FORMAT_VERSION."""
        with (folder / ROWS_NAME).open("w", encoding="ascii", newline="\n") as file:
            file.writelines(map(manifest_row.to_line, self.rows))
        head = {
            "format_version": FORMAT_VERSION,
            "class_names": self.class_names,
            "counts": self.counts(),
            "files": self.tally.files(),
            **vars(self.info),
            "digest": self._digest(FORMAT_VERSION),
            "records_digest": self.records_digest,
        }
        with (folder / HEAD_NAME).open("w", encoding="ascii", newline="\n") as file:
            file.write(json.dumps(head, indent=2) + "\n")

    def same_data(self, other: Self) -> bool:
        """Return whether both describe the same records, splits and settings.

        Versions of tools, and the words that explain a row, make no difference.
        """
        info = dataclasses.replace(self.info, versions=other.info.versions)
        return info == other.info and (
            self.rows == other.rows
            or self._digest(FORMAT_VERSION) == other._digest(FORMAT_VERSION)
        )


def read(directory: Path) -> Manifest:
    """Read and check a manifest, or raise DataError."""
    head = _read_head(directory)
    values = {field.name: head[field.name] for field in dataclasses.fields(DatasetInfo)}
    values["class_names"] = tuple(values["class_names"])
    manifest = Manifest(
        info=DatasetInfo(**values),
        rows=_read_rows(directory / ROWS_NAME),
        directory=directory,
        format_version=head["format_version"],
    )
    if manifest.digest != head["digest"]:
        raise DataError(
            f"{directory / ROWS_NAME}: does not belong to {HEAD_NAME}, for instance "
            "because one of them was edited or lacks lines. Expected digest "
            f"{head['digest'][:12]}, found {manifest.digest[:12]}. {CONVERT_AGAIN}"
        )
    check(manifest)
    return manifest


def _read_head(directory: Path) -> dict[str, Any]:
    """Read and check manifest.json."""
    if (directory / staging.PARTIAL_NAME / staging.COMMIT_NAME).exists():
        raise DataError(
            f"{directory}: a conversion was interrupted while it put its files in "
            "place. Run the same `python -m pipeline.convert` command again"
        )
    path = directory / HEAD_NAME
    if not path.exists():
        if any(directory.glob("*.tfrecord")):
            text = f"{path}: is missing, although there are records. {CONVERT_AGAIN}"
            raise DataError(text)
        raise DataError(
            f"{directory}: has no {HEAD_NAME}. Convert your photos first: "
            f"python -m pipeline.convert PHOTOS_FOLDER --out={directory}"
        )
    try:
        file_system.regular(path, file_system.MAX_TEXT_BYTES)
        head: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
        version = head["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: is not a manifest, or is cut off ({error}). {CONVERT_AGAIN}"
        ) from error
    if version not in tuple(manifest_row.NOT_IN_DIGEST):
        raise DataError(
            f"{path}: has format version {version!r:.80}. Expected 1 to "
            f"{FORMAT_VERSION}, so another version of Graft wrote it. {CONVERT_AGAIN}"
        )
    manifest_head.check(head, str(path))
    return head


def _read_rows(path: Path) -> tuple[Row, ...]:
    """Read manifest.jsonl; an error names the damaged line."""
    rows: list[Row] = []
    names = {""}  # of record files, each checked once
    try:
        with file_system.regular(path).open(encoding="ascii", newline="\n") as file:
            lines = iter(functools.partial(file.readline, _MAX_LINE), "")
            for row in map(manifest_row.from_line, lines):
                if row.file not in names:
                    names.add(staging.check_name(row.file))
                rows.append(row)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). {CONVERT_AGAIN}") from error
    except (ValueError, TypeError, RecursionError) as error:
        is_key = isinstance(error, TypeError)
        what = "a key is missing or unknown" if is_key else f"damaged ({error})"
        place = f"{path} line {len(rows) + 1}"
        raise DataError(f"{place}: {what}. {CONVERT_AGAIN}") from error
    return tuple(rows)


def check_files(manifest: Manifest) -> None:
    """Raise DataError if a record file is missing or of another size.

    Damage inside a file shows when its checksums are read.
    """
    for name, expected in manifest.file_sizes().items():
        path = manifest.directory / name
        size = path.stat().st_size if path.is_file() else 0
        if size != expected:
            file_system.refuse_lfs_pointer(path)
            advice = "Run the same pipeline.convert again"
            if path.is_symlink():  # of the records of a fold
                source = path.readlink()
                advice = f"{source} has changed or moved since. Train the folds again"
            raise DataError(
                f"{path}: {f'has {size:,} bytes' if size else 'is missing'}. Expected "
                f"{expected:,} bytes. {advice}"
            )


def check(manifest: Manifest) -> None:
    """Raise DataError if one SHA-256 is in two splits, or a split or class unknown."""
    first: dict[str, Row] = {}
    for row in manifest.included():
        if row.split not in SPLITS or row.class_name not in manifest.labels:
            raise DataError(
                f"{manifest.directory / ROWS_NAME}: {row.path} has the unknown split "
                f"{row.split!r} or the unknown class {row.class_name!r}. "
                f"{CONVERT_AGAIN}"
            )
        other = first.setdefault(row.sha256, row)
        if other.split != row.split:
            raise DataError(
                f"{manifest.directory}: the same photo is in two splits: {other.path} "
                f"({other.split}) and {row.path} ({row.split}). {CONVERT_AGAIN}"
            )
