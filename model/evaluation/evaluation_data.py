"""Open the photos of an evaluation, records or a folder of photos, and check them."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from model.runs import finished_run, run_records
from pipeline.convert import conversion, convert_settings
from pipeline.images import file_headers
from pipeline.records import manifest
from pipeline.system import command_line
from pipeline.system.errors import DataError


def is_photo_folder(data: str) -> bool:
    """Return whether `data` is a folder without a manifest."""
    folder = Path(data)
    return folder.is_dir() and not (folder / manifest.HEAD_NAME).exists()


@contextlib.contextmanager
def open_records(
    data: str, resize_min: int = file_headers.RESIZE_MIN
) -> Iterator[manifest.Manifest]:
    """Provide records for a context; a folder of photos is converted first.

    Args:
        data: folder of records, or of class folders with photos.
        resize_min: longest short side of converted photos, in pixels; 0 for no limit.
    """
    if not is_photo_folder(data):
        yield manifest.read(Path(data))
        return
    with tempfile.TemporaryDirectory() as scratch:
        config = convert_settings.Config(
            source=data, out=f"{scratch}/records", resize_min=resize_min
        )
        records = conversion.convert(config).manifest
        for row in records.rows:
            if not row.is_included:
                command_line.log(f"skipped {row.path}: {row.reason}")
        yield records


def check_records(
    run: finished_run.FinishedRun,
    records: manifest.Manifest,
    split: str,
    *,
    another_dataset: bool,
    source: str,
) -> None:
    """Refuse records that a run must not be evaluated on.

    They must be the run's own; with `another_dataset`, their classes must be among the
    run's, and the run must not be trained on a photo of the split. `source` is the
    folder of the photos as the user names it.
    """
    if another_dataset and records.digest != run.manifest_digest:
        run_records.check_unseen(run, records, split, source=source)
        return
    run_records.check(
        run.directory,
        run.manifest_digest,
        records,
        source=source,
        advice="For other photos on purpose, pass --another_dataset.",
    )


def included_photos(records: manifest.Manifest, split: str) -> set[str]:
    """Return the SHA-256 of the photos of a split; "all" for all photos."""
    splits = [] if split == "all" else [split]
    return {row.sha256 for row in records.included(*splits)}


def refuse_seen_photos(
    run: finished_run.FinishedRun, records: manifest.Manifest, split: str
) -> None:
    """Refuse to judge a run's accuracy by photos that its training has seen."""
    photos = included_photos(records, split)
    if num_seen := len(run.seen_photos() & photos):
        raise DataError(
            f"--min_accuracy: {run.directory.name} was trained on, or chosen by, "
            f"{num_seen} of these {len(photos)} photos, so their accuracy is not a "
            "valid gate. Evaluate the test split, or other photos."
        )
