"""A folder of class folders -> one TFRecord file per class, and a manifest.

    python -m pipeline.convert flowers/ --out=tfrecords

Every file of the source is accounted for by a row of the manifest; the source is never
changed. Running again over the same source changes nothing; over a source that grew, it
keeps every known photo in its split and decodes only what is new.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

import google_crc32c
import numpy as np
from absl import app, flags

from pipeline import (
    account,
    command,
    image,
    manifest,
    parts,
    schema,
    sources,
    split,
    summaries,
    workers,
)

BLOCK_FILES = 16
_MAX_NAME = 230  # characters; file systems take 255 with the ending and ".partial"
# What may stand in an output folder without being ours.
_TOLERATED = {"README.md", ".gitignore", ".gitkeep"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the command.

    Attributes:
        source: folder with one folder of photos per class.
        out: folder for records and manifest.
        seed: ranks the photos for the split.
        resize_min: longest short side of a record's image, in pixels; 0: no limit.
        workers: processes; 0: one for each processor.
    """

    source: str
    out: str = "tfrecords"
    seed: int = 0
    resize_min: int = 512
    workers: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a conversion did.

    Attributes:
        manifest: the data set as it is now.
        written: names of the record files written; none when nothing had changed.
        gone: photos that the data set had and the source has no more.
    """

    manifest: manifest.Manifest
    written: tuple[str, ...]
    gone: tuple[str, ...]


def convert(config: Config) -> Summary:
    """Converts a folder of photos.

    Raises:
        schema.DataError: source or output folder are not as they should be.
        OSError: as the system reports it, no space left on the device among them.
    """
    source = sources.list_class_folders(Path(config.source))
    directory = Path(config.out)
    _check_output(directory, source.root)
    with manifest.staging(directory) as partial:
        known = _read_known(directory)
        _check_same_source(known, source, directory)
        done = _run_workers(config, source, known, partial)
        rows = account.account([done[f.path].row for f in source.files], known)
        account.check_classes(rows, source)
        rows, splits = account.assign_splits(rows, known, config.seed)
        placed, changed, obsolete = _place(
            rows, splits, done, known=known, directory=directory, partial=partial
        )
        result = manifest.Manifest(
            class_names=source.class_names,
            rows=tuple(placed),
            seed=known.seed if known else config.seed,
            shares=known.shares if known else split.DEFAULT_SHARES,
            settings={"resize_min": config.resize_min},
            versions=_versions(),
            ignored=source.ignored,
            directory=directory,
        )
        manifest.check(result)
        gone = tuple(row.path for row in placed if row.reason == manifest.GONE)
        if not changed and result.same_data(known):
            return Summary(manifest=result, written=(), gone=gone)
        for path in partial.glob("*.part"):
            path.unlink()
        result.stage(partial)
        manifest.commit(directory, obsolete)
    return Summary(manifest=result, written=tuple(changed), gone=gone)


def _versions() -> dict[str, str]:
    return {
        "graft": manifest.GRAFT_VERSION,
        "opencv": image.OPENCV_VERSION,
        "numpy": np.__version__,
        "crc32c": google_crc32c.implementation,
    }


def _check_output(directory: Path, root: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise schema.DataError(
            f"{directory}: is a file; expected a folder to write into"
        )
    if directory.resolve().is_relative_to(root.resolve()):
        raise schema.DataError(
            f"{directory}: lies inside the source {root}, where the next conversion "
            "would take it for a class; choose another --out"
        )
    if not directory.exists():
        return
    found = {path.name for path in directory.iterdir()}
    if manifest.HEAD_NAME in found or manifest.PARTIAL_NAME in found:
        return
    if foreign := sorted(found - _TOLERATED):
        raise schema.DataError(
            f"{directory}: not empty and not made by a conversion (holds {foreign[0]}"
            f"{' and more' if len(foreign) > 1 else ''}); choose another --out"
        )


def _read_known(directory: Path) -> manifest.Manifest | None:
    if (directory / manifest.HEAD_NAME).exists():
        return manifest.read(directory)
    return None


def _check_same_source(
    known: manifest.Manifest | None, source: sources.Source, directory: Path
) -> None:
    """Refuses to replace another data set: none of its photos is in this source."""
    if known is None:
        return
    paths = {file.path for file in source.files}
    if not any(row.path in paths for row in known.taken()):
        raise schema.DataError(
            f"{directory}: holds another data set (classes "
            f"{', '.join(known.class_names[:5])}); choose another --out or remove it"
        )


def _run_workers(
    config: Config,
    source: sources.Source,
    known: manifest.Manifest | None,
    partial: Path,
) -> dict[str, parts.Answer]:
    """Decodes every file that is not known yet; {path: answer}."""
    labels = {name: label for label, name in enumerate(source.class_names)}
    reusable = _reusable(known, source, config)
    tasks = [
        parts.Task(
            file=file,
            label=labels.get(file.class_name, -1),
            known=reusable.get(file.path),
        )
        for file in source.files
    ]
    blocks = [tasks[i : i + BLOCK_FILES] for i in range(0, len(tasks), BLOCK_FILES)]
    work = functools.partial(
        parts.convert_block, source.root, partial, Path(config.out), config.resize_min
    )
    done: dict[str, parts.Answer] = {}
    with command.progress(len(tasks), "photo", "convert") as progress:
        for block, answers in workers.map_blocks(
            work,
            blocks,
            on_crash=parts.crashed,
            num_workers=min(config.workers or command.available_cpus(), len(blocks)),
            initializer=parts.start_worker,
        ):
            done.update({answer.row.path: answer for answer in answers})
            progress.update(len(block))
    return done


def _reusable(
    known: manifest.Manifest | None, source: sources.Source, config: Config
) -> dict[str, manifest.Row]:
    """Rows of photos whose record may be kept if the photo has not changed."""
    if known is None or known.settings != {"resize_min": config.resize_min}:
        return {}
    if known.class_names != source.class_names:
        return {}  # a record holds its label
    ends: dict[str, int] = collections.defaultdict(int)
    for row in known.taken():
        ends[row.file] = max(ends[row.file], row.offset + row.length)
    intact = {
        name
        for name, end in ends.items()
        if (path := known.directory / name).exists() and path.stat().st_size == end
    }
    return {row.path: row for row in known.taken() if row.file in intact}


def record_name(class_name: str) -> str:
    """File name of a class's records; unsafe characters are percent-encoded.

    A name too long for a file system is cut, and told apart by its SHA-256.
    """
    encoded = os.fsencode(class_name)
    quoted = urllib.parse.quote(encoded, safe=" !#$&'()+,;=@[]{}~")
    if len(quoted) > _MAX_NAME:
        quoted = f"{quoted[:200]}...{hashlib.sha256(encoded).hexdigest()[:20]}"
    return f"{quoted}.tfrecord"


def _place(
    rows: Sequence[manifest.Row],
    splits: Mapping[str, str],
    done: dict[str, parts.Answer],
    *,
    known: manifest.Manifest | None,
    directory: Path,
    partial: Path,
) -> tuple[list[manifest.Row], list[str], list[str]]:
    """Joins the parts to one file per class, in the order of the photos' paths.

    A file whose records would stay as they are is left alone.

    Returns:
        Rows with split, file and offset; names of the files written; names no longer
        wanted.
    """
    by_class: dict[str, list[manifest.Row]] = collections.defaultdict(list)
    for row in rows:
        if row.taken:
            by_class[row.class_name].append(row)
    placed = {row.path: row for row in rows}
    changed, joins = [], []
    for class_name, members in by_class.items():
        name = record_name(class_name)
        offset = 0
        for row in members:
            placed[row.path] = dataclasses.replace(
                row, split=splits[row.group], file=name, offset=offset
            )
            offset += row.length
        before = [r for r in (known.taken() if known else ()) if r.file == name]
        kept = all(done[row.path].file == directory / name for row in members)
        same = [(r.path, r.offset) for r in before] == [
            (row.path, placed[row.path].offset) for row in members
        ]
        if not (kept and same):
            changed.append(name)
            joins.append(functools.partial(parts.join, members, done, partial / name))
    with concurrent.futures.ThreadPoolExecutor(command.available_cpus()) as pool:
        for joined in [pool.submit(join) for join in joins]:
            joined.result()
    names = {record_name(class_name) for class_name in by_class}
    obsolete = {row.file for row in (known.taken() if known else ())} - names
    return [placed[row.path] for row in rows], changed, sorted(obsolete)


def define_flags() -> None:
    """Declares the command's flags; defaults are those of Config."""
    default = Config(source="")
    flags.DEFINE_string("out", default.out, "Folder for records and manifest.")
    flags.DEFINE_integer(
        "seed", default.seed, "Ranks the photos for the split.", lower_bound=0
    )
    flags.DEFINE_integer(
        "resize_min",
        default.resize_min,
        "Photos with a longer short side, in pixels, are shrunk to it: twice the 256 "
        "that networks resize to, so nothing they see is lost. 0: keep all pixels.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "workers", default.workers, "Processes; 0: one per processor.", lower_bound=0
    )


def main(argv: Sequence[str]) -> None:
    """Converts the folder named on the command line."""
    if len(argv) != 2:
        raise app.UsageError(
            "expected one folder of photos: python -m pipeline.convert flowers/"
        )
    config = command.config_from_flags(Config, source=argv[1])
    summary = convert(config)
    command.say(summaries.conversion(summary.manifest))
    for kind, count in summary.manifest.ignored.items():
        command.say(f"ignored: {count} {kind}")
    for line in summaries.skipped(summary.manifest):
        command.say(line)
    for line in split.warnings(summary.manifest):
        command.say(f"warning: {line}")
    kept = summary.manifest.seed
    if flags.FLAGS["seed"].present and kept != config.seed:
        command.say(
            f"--seed={config.seed} is not used: known photos keep the split of seed "
            f"{kept}; python -m pipeline.split {config.out} --seed={config.seed} "
            "splits anew"
        )
    if summary.written:
        command.say(f"wrote {len(summary.written)} record files to {config.out}")
    else:
        command.say(f"nothing changed: {config.out} is up to date with {config.source}")


if __name__ == "__main__":
    define_flags()
    command.run(main, schema.DataError)
