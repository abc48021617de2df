"""Check photos or records; the result is a report, check.json and a page."""

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.check import photo_findings
from pipeline.check.check_settings import Config
from pipeline.check.photo_findings import Finding, Report
from pipeline.grouping import near_duplicates, photo_groups
from pipeline.images import decode_files, file_headers, opencv, record_image
from pipeline.records import manifest, previous_dataset, stored_photo
from pipeline.records.manifest_row import Code, ImageError, Row
from pipeline.review import photo_review
from pipeline.sources import find_source, photo_source
from pipeline.system import (
    command_line,
    file_system,
    html_templates,
    platform_support,
    process_pool,
)
from pipeline.system.errors import DataError

# Function of a photo's path that returns a JPEG or PNG of it, upright.
Encoded = Callable[[str], bytes]
# Report, the rows of its photos, and a function that reads these photos.
_Checked = tuple[Report, Sequence[Row], Encoded]
_TEMPLATE = Path(__file__).parent / "templates" / "check.html"
# Groups on the page: of other findings, of those about labels. check.json has all.
_SHOWN = (24, 200)
_SHOWN_PHOTOS = 4  # for each group
_SIDE_PX = 256
_EXAMPLES = 3  # in a line of text


def check(config: Config) -> Report:
    """Check photos or records, and write check.json and check.html."""
    root, out = Path(config.source), Path(config.out)
    if (root / manifest.HEAD_NAME).exists():
        report, rows, encoded = _check_records(root, config.workers)
    else:
        if not (config.labelling.lists or config.labelling.csv):
            photo_source.check_outside(out, root)
        report, rows, encoded = _check_photos(config, root)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(report), indent=2) + "\n"
    with platform_support.stderr_silenced():
        html = render(report, rows, encoded)
    for name, content in (("check.json", text), ("check.html", html)):
        with file_system.replacing(out / name) as partial:
            partial.write_text(command_line.as_utf8(content), encoding="utf-8")
    return report


def _check_photos(config: Config, root: Path) -> _Checked:
    source = find_source.list_source(root, config.labelling)
    user_keys = photo_groups.find_user_keys(source, config.labelling.group_by)
    photo_at = {photo.path: photo for photo in source.photos}
    crashed: set[str] = set()  # paths of photos that would crash this process, too

    def encoded(path: str) -> bytes:
        if path in crashed:
            raise ImageError(Code.DECODER_CRASHED, "crashes the decoder")
        data = decode_files.read(source.root, photo_at[path])
        white_level = config.white_level
        return record_image.encode_for_record(data, white_level=white_level).encoded

    options = decode_files.DecodeOptions(
        root=source.root,
        resize_min=file_headers.RESIZE_MIN,
        max_pixels=config.max_pixels,
        white_level=config.white_level,
    )
    rows = decode_files.decode(
        options, source, None, decode_files.Runner(config.workers), settings={}
    )
    crashed |= {row.path for row in rows if "crashed" in photo_findings.kinds_of(row)}
    with platform_support.stderr_silenced():  # the workers have noted the messages
        similar = near_duplicates.search(
            rows,
            source,
            encoded=lambda index: encoded(rows[index].path),
            num_workers=config.workers,
        )
    groups = photo_groups.PhotoGroups(similar=similar, user_keys=user_keys)
    pairs = zip(rows, source.photos, strict=True)
    given = (dataclasses.replace(row, split=photo.split) for row, photo in pairs)
    tally = manifest.Tally(source.class_names, given)
    counts = tally.counts("photos", "usable", *source.given)
    names = photo_source.describe_names(source.class_names).items()
    findings = [
        *photo_findings.find_groups(rows, source, groups),
        *photo_findings.find_small_classes(counts),
        *photo_findings.find_missing_splits(counts, source.given, "error"),
        *(Finding(kind, "warning", text) for kind, text in names),
        *photo_findings.find_unusual_files(rows),
    ]
    ignored = tuple(f"ignored: {n} {kind}" for kind, n in source.ignored.items())
    report = Report(
        source=config.source,
        counts=counts,
        findings=_sorted(findings),
        notes=(*source.notes, *ignored),
    )
    return report, rows, encoded


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    order = ("error", "warning", "note")
    return tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))


def _check_records(root: Path, num_workers: int) -> _Checked:
    converted = manifest.read(root)
    faults = verify(converted, num_workers=num_workers)
    findings = [Finding("fault", "error", fault) for fault in faults]
    if divided := converted.divided_groups():
        meaning = (
            "photos of one group are in several splits; make a new split with python "
            f"-m pipeline.split {root}"
        )
        groups = tuple(tuple(row.path for row in rows) for rows in divided)
        findings.append(Finding("across splits", "error", meaning, groups))
    if outdated := previous_dataset.outdated_rows(converted):
        meaning = (
            "written by an earlier version, which decoded some photos of this kind "
            "wrongly; to renew these records, convert into this folder again"
        )
        paths = tuple((row.path,) for row in outdated)
        findings.append(Finding("outdated pixels", "warning", meaning, paths))
    counts = converted.tally.counts("photos", "usable", *manifest.SPLITS)
    filled = [name for name in manifest.SPLITS if converted.included(name)]
    findings += photo_findings.find_small_classes(counts)
    findings += photo_findings.find_missing_splits(counts, filled, "warning")
    rows = converted.included()
    row_at = {row.path: row for row in rows}
    report = Report(
        source=str(root),
        counts=counts,
        findings=_sorted(findings),
        notes=(f"records: {len(rows):,}, manifest digest {converted.digest[:12]}",),
    )
    photos = stored_photo.StoredPhotos(root)
    return report, rows, lambda path: photos.image(row_at[path])


def render(report: Report, rows: Sequence[Row], encoded: Encoded) -> str:
    """Return a page of HTML that needs no other file."""
    shown = [
        [g[:_SHOWN_PHOTOS] for g in finding.groups[: _SHOWN[finding.is_about_labels]]]
        for finding in report.findings
    ]
    paths = list({path: None for groups in shown for group in groups for path in group})
    row_at = {row.path: row for row in rows}
    review = photo_review.PhotoReview(
        key=[(row.path, row.class_name, row.sha256) for row in rows],
        class_names=list(report.counts),
        command=photo_review.conversion_command(report.source),
    )

    def mark(finding: Finding, group: Sequence[str], path: str) -> str:
        row, is_minor = row_at.get(path), finding.severity == "note"
        if not (row and row.is_included and (finding.is_about_labels or not is_minor)):
            return ""
        label = row.class_name
        others = (row_at[p].class_name for p in group if row_at[p].class_name != label)
        suggested = next(others, "")
        return review.mark(path, label=label, sha256=row.sha256, suggested=suggested)

    return html_templates.load_template(_TEMPLATE, photo_review.TEMPLATES).render(
        **photo_review.assets(),
        report=report,
        columns=list(next(iter(report.counts.values()))),
        findings=list(zip(report.findings, shown, strict=True)),
        numbers={path: number for number, path in enumerate(paths)},
        photos=photo_review.thumbnail_urls(encoded, paths, _SIDE_PX),
        review=review,
        mark=mark,
    )


def summary(report: Report) -> str:
    """Return the report as text."""
    columns = list(next(iter(report.counts.values())))
    rows = [(name, *count.values()) for name, count in report.counts.items()]
    lines = [*command_line.table(("class", *columns), rows), *report.notes]
    for finding in report.findings:
        paths = [" and ".join(group[:2]) for group in finding.groups]
        shown = "; ".join(paths[:_EXAMPLES]) + " ..." * (len(paths) > _EXAMPLES)
        count = f" ({len(paths)}: {shown})" if paths else ""
        line = f"{finding.severity}: {finding.kind}: {finding.meaning}{count}"
        lines.append(command_line.one_line(line))
    if not report.findings:
        lines.append(report.all_clear)
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """A record for a worker: its row, its number in its file, its label."""

    row: Row
    index: int
    label: int

    def __str__(self) -> str:
        return self.row.path

    def fault(self, problem: str) -> str:
        """Return a problem with its place; "" for no problem."""
        place = f"{self.row.file} record {self.index}: {self.row.path}"
        return f"{place}: {problem}" if problem else ""


def verify(converted: manifest.Manifest, *, num_workers: int = 0) -> list[str]:
    """Read every record: checksums, all features, and its pixels in full.

    What `manifest.read` checks is not checked again. The result is the first fault of
    each record and file, with its place.
    """
    faults = _check_head(converted)
    tasks: list[_Task] = []
    rows_of: dict[str, list[Row]] = collections.defaultdict(list)
    for row in converted.included():
        rows_of[row.file].append(row)
    for name, rows in sorted(rows_of.items()):
        rows.sort(key=lambda row: row.offset)
        of_file = [
            _Task(row=row, index=index, label=converted.labels[row.class_name])
            for index, row in enumerate(rows)
        ]
        path = converted.directory / name
        faults += _check_file(path, of_file)
        if path.is_file():
            tasks += of_file
    settings = converted.info.settings
    opencv.limit_pixels(settings.get("max_pixels", file_headers.MAX_PIXELS))
    with command_line.progress(len(tasks), "record", "check") as progress:
        for _, fault in process_pool.map_blocks(
            functools.partial(_check_block, converted.directory),
            tasks,
            on_crash=lambda task: task.fault("the decoder crashed on it"),
            initializer=opencv.use_one_thread,
            num_workers=num_workers,
        ):
            faults += [fault] * bool(fault)
            progress.update()
    return faults


def _check_head(converted: manifest.Manifest) -> list[str]:
    """Compare the counts in manifest.json with those of the rows."""
    path = converted.directory / manifest.HEAD_NAME
    head = json.loads(path.read_text(encoding="ascii"))
    counts: dict[str, Any] = {"counts": converted.counts()}
    # Earlier versions counted photos that are gone as skipped.
    if not any(row.is_gone for row in converted.rows):
        counts["files"] = converted.tally.files()
    return [
        f"{manifest.HEAD_NAME}: its {name} are not those of {manifest.ROWS_NAME}"
        for name, expected in counts.items()
        if head.get(name) != expected
    ]


def _check_file(path: Path, tasks: Sequence[_Task]) -> list[str]:
    """Check that the records of a file leave no gap in it."""
    if not path.is_file():
        return [f"{path.name}: missing, with {len(tasks)} records"]
    end = 0
    for task in tasks:
        if task.row.offset != end:
            return [task.fault(f"starts at byte {task.row.offset}, expected {end}")]
        end += task.row.length
    if (size := path.stat().st_size) != end:
        return [f"{path.name}: has {size:,} bytes, expected {end:,}"]
    return []


def _check_block(directory: Path, block: Sequence[_Task]) -> list[str]:
    """Return the fault of each record, "" for none, in a worker process."""
    photos = stored_photo.StoredPhotos(directory)
    return [task.fault(_problem(photos, task)) for task in block]


def _problem(photos: stored_photo.StoredPhotos, task: _Task) -> str:
    """Return what is wrong with a record; "" if nothing is."""
    row = task.row
    try:
        record = photos.record(row)
    except DataError as error:
        return str(error)
    if differences := _differences(record, task):
        return "; ".join(differences)
    content_sha256 = hashlib.sha256(record.encoded).hexdigest()
    if row.action == "copied" and content_sha256 != row.sha256:
        return "its bytes are not those of the photo (SHA-256)"
    header = file_headers.JpegHeader.read(record.encoded)
    if row.action == "copied" and header and header.oddity:
        return f"{header.oddity.text}: convert the photos into this folder again"
    try:
        pixels = opencv.decode_rgb(record.encoded)
    except ImageError as error:
        return str(error)
    if pixels.shape[:2] != (row.height, row.width):
        height, width = pixels.shape[:2]
        return f"decodes to {width} x {height}, expected {row.width} x {row.height}"
    return ""


def _differences(record: stored_photo.Record, task: _Task) -> list[str]:
    """Return the features that differ from the manifest."""
    differences = []
    for name, attribute in stored_photo.FEATURES.items():
        if attribute == "encoded":  # its SHA-256 and pixels are checked instead
            continue
        value = getattr(record, attribute)
        expected = task.label if attribute == "label" else getattr(task.row, attribute)
        if value != expected:
            differences.append(f"{name} is {value!r:.80}, expected {expected!r:.80}")
    return differences
