"""Open the photos of an evaluation, and refuse those that training has seen."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from model.evaluation import run_evaluation
from model.evaluation.evaluation_settings import Config
from model.evaluation.run_evaluation import EvaluationData
from model.runs import run_folder
from model.runs.finished_run import FinishedRun
from pipeline.convert import conversion, convert_settings
from pipeline.images import file_headers
from pipeline.records import manifest
from pipeline.system import command_line, config_flags, file_system
from pipeline.system.errors import DataError


def is_photo_folder(folder: str) -> bool:
    """Return whether a path is a folder without a manifest."""
    return Path(folder).is_dir() and not Path(folder, manifest.HEAD_NAME).exists()


@contextlib.contextmanager
def open_data(
    config: Config, run: FinishedRun | None = None
) -> Iterator[EvaluationData]:
    """Provide the photos of --data, or else those of a run's records, for a context.

    If the folder holds photos rather than records, they are converted first, as those
    of the run were.
    """
    folder, split = config.data, config.split
    if run and not folder:
        folder = str(run.records_folder())
    if not is_photo_folder(folder):
        if config.layout:
            raise DataError(f"--layout: {folder} holds records. Expected photos")
        records = manifest.read(Path(folder))
        yield EvaluationData(records=records, split=split, folder=folder)
        return
    white_level = run.white_level if run else 0
    if white_level:
        command_line.log(f"{white_level} is white in 16-bit pictures, as in the run")
    with file_system.scratch_folder() as scratch:
        settings = {
            "source": folder,
            "out": f"{scratch}/records",
            "resize_min": run.resize_min if run else file_headers.RESIZE_MIN,
            "white_level": white_level,
            "layout": config.layout,
            "missing_classes": "keep",
        }
        built = config_flags.build(convert_settings.Config, settings)
        summary = conversion.convert(built)
        records = summary.manifest
        skipped = [row for row in records.rows if not row.is_included]
        lines = [f"skipped {row.path}: {row.reason}" for row in skipped]
        for line in (*summary.notes, *lines):
            command_line.log(line)
        yield EvaluationData(records=records, split=split, folder=folder)


def check(run: FinishedRun, data: EvaluationData, config: Config) -> EvaluationData:
    """Return the photos to evaluate a run on, or refuse all of them.

    The records must be the run's own; with --another_dataset, their classes must be
    among the run's, and the run must not be trained on one of the photos. If the run's
    own records have changed in their place, the photos that it has seen are left out.
    """
    has_changed = data.records.digest != run.manifest_digest
    if has_changed and not (config.another_dataset or config.data):
        return _unseen(run, data)
    is_own = not (config.another_dataset and has_changed)
    if is_own:
        run_folder.check_records(
            run.directory,
            run.manifest_digest,
            data.records,
            source=data.source,
            advice="For other photos on purpose, pass --another_dataset.",
        )
    run_evaluation.check_classes(run, data)
    if not is_own:
        refuse_seen_photos(
            run,
            data.sha256,
            subject=f"{data.source}: run {run.directory.name}",
            advice="Use other photos, or the run's own records.",
        )
    return data


def _unseen(run: FinishedRun, data: EvaluationData) -> EvaluationData:
    """Return the photos of a changed data set that are new to a run, of its classes."""
    unseen, reasons = leave_out_seen(data, {"it": run})
    foreign = [row for row in unseen.rows if row.class_name not in run.class_names]
    if foreign:
        names = ", ".join(sorted({row.class_name for row in foreign}))
        reasons.append(f"{len(foreign):,} of classes that it does not know ({names})")
    paths = (unseen.left_out or frozenset()) | {row.path for row in foreign}
    unseen = dataclasses.replace(unseen, left_out=paths)
    total, tested = len(data.rows), run.photos("test")
    same = sum(row.sha256 in tested for row in unseen.rows)
    what = f"{len(unseen.rows):,} of {total:,} photos of {data.split} are evaluated"
    if tested:
        what += f": {same:,} are as they were, {len(unseen.rows) - same:,} are new"
    command_line.log(
        f"{data.source} has changed since run {run.directory.name} was trained; "
        f"{what}. Left out: {', '.join(reasons) or 'none'}"
    )
    if not unseen.rows:
        raise DataError(f"{data.source}: no photo is left to evaluate the run on")
    return unseen


def leave_out_seen(
    data: EvaluationData, runs: Mapping[str, FinishedRun]
) -> tuple[EvaluationData, list[str]]:
    """Leave out photos that a run has seen, and those of their groups; say how many."""
    seen = {name: run.seen_photos() for name, run in runs.items()}
    all_seen = set[str]().union(*seen.values())
    groups = {row.group for row in data.records.included() if row.sha256 in all_seen}
    reasons = []
    for name, photos in seen.items():
        if count := sum(row.sha256 in photos for row in data.rows):
            reasons.append(f"{count:,} that {name} was trained on or chosen by")
    left_out = {row.path for row in data.rows if row.sha256 in all_seen}
    similar = {row.path for row in data.rows if row.group in groups} - left_out
    if similar:
        reasons.append(f"{len(similar):,} in a group with such a photo")
    return dataclasses.replace(data, left_out=frozenset(left_out | similar)), reasons


def refuse_seen_photos(
    run: FinishedRun, photos: set[str], *, subject: str, advice: str
) -> None:
    """Raise DataError if a run was trained on, or chosen by, a photo of these SHA-256.

    The message begins with `subject`, which ends in the run's name.
    """
    if num_seen := len(run.seen_photos() & photos):
        raise DataError(
            f"{subject} was trained on, or chosen by, {num_seen} of these "
            f"{len(photos)} photos, which would favour it. {advice}"
        )
