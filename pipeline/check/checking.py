"""Check photos or records; the result is a report, check.json and a page."""

import collections
import dataclasses
import json
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.check import file_kinds, html_page, verify_records
from pipeline.check.check_findings import Finding, Report
from pipeline.check.check_settings import Config
from pipeline.grouping import duplicate_search, selection, split_assignment
from pipeline.images import decode_files, decode_source, local_runner, record_image
from pipeline.images.errors import ImageError
from pipeline.records import file_table, manifest, stored_photo
from pipeline.records.reasons import Code
from pipeline.sources import caffe_lists, find_source, photo_source, source_settings
from pipeline.system import command_line, file_system, standard_error

_IMBALANCE = 10  # times as many photos in one class as in another
_SHOWN = 3  # examples in a line of text


def check(config: Config) -> Report:
    """Checks photos or records, and writes both files.

    Raises:
        DataError: not even a source, or `out` would become a part of it.
    """
    root = Path(config.source)
    if not ((root / manifest.HEAD_NAME).exists() or config.lists or config.csv):
        photo_source.check_outside(Path(config.out), root)
    if (root / manifest.HEAD_NAME).exists():
        report, encoded = _check_records(root, config.workers)
    else:
        report, encoded = _check_photos(config, root)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(report), indent=2) + "\n"
    _write_text(out / "check.json", text)
    with standard_error.silenced():
        html = html_page.render(report, encoded)
    _write_text(out / "check.html", html)
    return report


def _write_text(path: Path, text: str) -> None:
    with file_system.replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def _check_photos(config: Config, root: Path) -> tuple[Report, html_page.Encoded]:
    source = find_source.list_source(
        root,
        list_files=caffe_lists.parse(config.lists),
        csv_file=config.csv,
        labels_file=config.labels,
    )
    keys = selection.user_keys(source, config.group_by)
    number_of = {path: number for number, path in enumerate(source.paths)}

    def encoded(number: int) -> bytes:
        data = decode_files.read(source.root, source.span(number))
        return record_image.encode_for_record(
            data, resize_min=source_settings.RESIZE_MIN
        ).encoded

    with tempfile.TemporaryDirectory() as scratch:
        partial = Path(scratch)
        how = decode_files.How(
            root=source.root,
            partial=partial,
            directory=partial,
            resize_min=source_settings.RESIZE_MIN,
            max_pixels=config.max_pixels,
            keeps_records=False,
        )
        found = decode_source.decode(
            how, source, None, local_runner.Local(config.workers), settings={}
        )
        with standard_error.silenced():  # the workers have heard it
            similar = duplicate_search.similar(
                found, source, encoded=encoded, num_workers=config.workers
            )
        odd: dict[str, list[str]] = collections.defaultdict(list)
        for own in found.texts(partial):
            row = manifest.row_of(own)
            for kind in file_kinds.kinds_of(row):
                odd[kind].append(row.path)
    bonds = selection.Bonds(similar=similar, keys=keys)
    findings = _alike(found, source, bonds)
    counts = _counts(found, source)
    findings += _balance({name: row["usable"] for name, row in counts.items()})
    findings += _lacking(counts, source.given) + _twins(source.class_names)
    findings += [
        Finding(
            kind=kind,
            severity=severity,
            meaning=meaning,
            groups=tuple((path,) for path in odd[kind]),
        )
        for kind, (severity, meaning) in file_kinds.KINDS.items()
        if kind in odd
    ]
    ignored = tuple(f"ignored: {n} {kind}" for kind, n in source.ignored.items())
    report = Report(
        source=config.source,
        counts=counts,
        findings=_sorted(findings),
        notes=(*source.notes, *ignored),
    )

    def shown(path: str) -> bytes:
        if path in odd["crashed"]:  # it would take this process down as well
            raise ImageError(Code.DECODER_CRASHED, "takes the decoder down")
        return encoded(number_of[path])

    return report, shown


def _sorted(
    findings: Sequence[Finding],
) -> tuple[Finding, ...]:
    order = ("error", "warning", "note")
    return tuple(sorted(findings, key=lambda one: order.index(one.severity)))


def _alike(
    found: file_table.Table, source: find_source.Source, bonds: selection.Bonds
) -> list[Finding]:
    """What is found out about photos together; leaves out what conversion does."""

    def paths(groups: Sequence[np.ndarray]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(source.paths[n] for n in members) for members in groups)

    taken = np.flatnonzero(found.taken)
    same, alike = selection.same_files(found), bonds.alike(found)
    together = bonds.together(found)
    splits = np.maximum(source.splits, 0)
    conflicts = bonds.identical(found)
    across = selection.divided(together, taken, splits) if source.given else []
    copies = [
        members
        for members in selection.shared(same, taken)
        if len(np.unique(found.labels[members])) == 1
    ]
    mixed = selection.divided(alike, taken, found.labels)
    mixed = [one for one in mixed if len(np.unique(conflicts[one])) > 1]
    sets = (
        (
            "conflicting labels",
            "error",
            "the same photo in several classes: both cannot be right; convert leaves "
            "all of them out",
            selection.divided(conflicts, taken, found.labels),
        ),
        (
            "across splits",
            "error",
            "the same picture in several of the given splits: figures would be too "
            "good; convert keeps that of the last split alone",
            across,
        ),
        (
            "one picture in several classes",
            "warning",
            "nearly the same picture in several classes: is one of them wrong?",
            mixed,
        ),
        (
            "exact copies",
            "note",
            "the same file again; convert keeps copies in one split",
            copies,
        ),
        (
            "near-duplicates",
            "note",
            "the same picture again, changed; convert keeps them in one split",
            selection.divided(alike, taken, found.found["sha256"]),
        ),
    )
    return [
        Finding(
            kind=kind,
            severity=severity,  # type: ignore[arg-type]
            meaning=meaning,
            groups=paths(groups),
        )
        for kind, severity, meaning, groups in sets
        if groups
    ]


def _counts(
    found: file_table.Table, source: find_source.Source
) -> dict[str, dict[str, int]]:
    """Photos of each class: all, usable, and by given split."""
    counts = {}
    for label, name in enumerate(source.class_names):
        own = found.labels == label
        counts[name] = {
            "photos": int(own.sum()),
            "usable": int((own & found.taken).sum()),
        }
        for number, split_name in enumerate(manifest.SPLITS):
            if split_name in source.given:
                some = own & found.taken & (source.splits == number)
                counts[name][split_name] = int(some.sum())
    return counts


def _balance(usable: dict[str, int]) -> list[Finding]:
    """Classes that are too small for a split, or much smaller than others."""
    none = {name for name, count in usable.items() if not count}
    tiny = {name for name, count in usable.items() if 0 < count < len(manifest.SPLITS)}
    few = {
        name for name, count in usable.items() if count < split_assignment.SMALL_CLASS
    }
    most = max(usable.values(), default=0)
    small = {n for n, count in usable.items() if 0 < _IMBALANCE * count <= most}
    sets: tuple[tuple[str, file_kinds.Severity, str, set[str]], ...] = (
        ("empty class", "error", "no photo of it can be used", none),
        (
            "class too small to split",
            "error",
            "below three photos not every split gets one",
            tiny,
        ),
        (
            "small class",
            "warning",
            f"below {split_assignment.SMALL_CLASS} photos: its accuracy means little; "
            "consider python -m pipeline.split --folds=5",
            few - tiny - none,
        ),
        (
            "imbalance",
            "warning",
            f"at most a {_IMBALANCE}th of the largest class; consider "
            "train.py --class_weights=balanced",
            small,
        ),
    )
    return [
        Finding(
            kind=kind,
            severity=severity,
            meaning=f"{meaning}: "
            + ", ".join(f"{name} ({usable[name]})" for name in sorted(names)),
        )
        for kind, severity, meaning, names in sets
        if names
    ]


def _lacking(
    counts: dict[str, dict[str, int]],
    splits: Sequence[str],
    severity: file_kinds.Severity = "error",
) -> list[Finding]:
    """Classes without photos in one of some splits."""
    lacking = [
        f"{name} ({split_name})"
        for name, row in counts.items()
        for split_name in splits
        if row["usable"] and not row[split_name]
    ]
    if not lacking:
        return []
    return [
        Finding(
            kind="class missing from a split",
            severity=severity,
            meaning="no photo of it is there: " + ", ".join(lacking),
        )
    ]


def _twins(names: Sequence[str]) -> list[Finding]:
    """Classes whose names look the same, or nearly."""
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        key = unicodedata.normalize("NFKC", name).casefold()
        alike["".join(key.replace("_", " ").split())].append(name)
    twins = [" and ".join(some) for some in alike.values() if len(some) > 1]
    if not twins:
        return []
    return [
        Finding(
            kind="class names alike",
            severity="warning",
            meaning="the same but for case, spaces or encoding; are they one "
            "class? " + "; ".join(twins),
        )
    ]


def _check_records(root: Path, num_workers: int) -> tuple[Report, html_page.Encoded]:
    found = manifest.read(root)
    faults = verify_records.verify(found, num_workers=num_workers)
    findings = [
        Finding(kind="fault", severity="error", meaning=str(fault)) for fault in faults
    ]
    by_group: dict[str, list[manifest.Row]] = collections.defaultdict(list)
    for row in found.included():
        by_group[row.group].append(row)
    torn = [rows for rows in by_group.values() if len({r.split for r in rows}) > 1]
    if torn:
        findings.append(
            Finding(
                kind="across splits",
                severity="error",
                meaning="photos of one group on several sides of the split; "
                f"python -m pipeline.split {root} splits anew",
                groups=tuple(tuple(row.path for row in rows) for rows in torn),
            )
        )
    counts = {}
    for name, counter in found.tally.classes.items():
        usable = counter["photos"] - counter["skipped"]
        splits = {split_name: counter[split_name] for split_name in manifest.SPLITS}
        counts[name] = {"photos": counter["photos"], "usable": usable, **splits}
    findings += _balance({name: row["usable"] for name, row in counts.items()})
    filled = [name for name in manifest.SPLITS if found.included(name)]
    findings += _lacking(counts, filled, "warning")
    rows = {row.path: row for row in found.included()}
    report = Report(
        source=str(root),
        counts=counts,
        findings=_sorted(findings),
        notes=(f"records: {len(rows):,}, manifest digest {found.digest[:12]}",),
    )
    photos = stored_photo.StoredPhotos(root)
    return report, lambda path: photos.image(rows[path])


def summary(report: Report) -> str:
    """The report as text."""
    columns = list(next(iter(report.counts.values())))
    width = max(len("class"), *map(len, report.counts))
    lines = [f"{'class':{width}}" + "".join(f"{name:>11}" for name in columns)]
    for name, row in report.counts.items():
        lines.append(f"{name:{width}}" + "".join(f"{row[c]:11}" for c in columns))
    lines += report.notes
    for finding in report.findings:
        paths = [" and ".join(group[:2]) for group in finding.groups]
        shown = "; ".join(paths[:_SHOWN]) + " ..." * (len(paths) > _SHOWN)
        count = f" ({len(paths)}: {shown})" if paths else ""
        line = f"{finding.severity}: {finding.kind}: {finding.meaning}{count}"
        lines.append(command_line.one_line(line))
    return "\n".join(lines)
