"""Find the records that a run was trained on, and refuse any others."""

from pathlib import Path

from model.runs import finished_run
from model.runs.run_folder import RunError
from pipeline.records import manifest
from pipeline.system.errors import DataError


def read(run: finished_run.FinishedRun, data: str = "") -> manifest.Manifest:
    """Read the manifest of the records that a run was trained on.

    `data` is their folder; "" for the folder that training used.
    """
    records = manifest.read(locate(run, data))
    check(run.directory, run.manifest_digest, records)
    return records


def locate(run: finished_run.FinishedRun, data: str = "") -> Path:
    """Return the folder of the records: `data`, or the one that training used."""
    folder = Path(data or run.config["data"]["path"])
    if not (folder / manifest.HEAD_NAME).exists():
        raise DataError(
            f"{folder}: {manifest.HEAD_NAME} is missing. Expected the records that run "
            f"{run.directory.name} was trained on. If they were moved, name their "
            "folder by --data=FOLDER."
        )
    return folder


def check(
    run_directory: Path,
    manifest_digest: str,
    records: manifest.Manifest,
    *,
    source: str = "",
    advice: str = "",
) -> None:
    """Refuse records that are not exactly those that a run was trained on.

    Args:
        run_directory: Folder of the run, or of the runs of --seeds or --folds.
        manifest_digest: SHA-256 of the manifest that the run was trained on.
        records: The records to check.
        source: What the user calls the records; "" for the name of their folder.
        advice: Another way out than the message gives, as a sentence; "" for none.

    Raises:
        RunError: These are other records, or their photos or split have changed.
    """
    if records.digest != manifest_digest:
        message = (
            f"{source or records.directory}: these are not the records that run "
            f"{run_directory.name} was trained on: photos or their split have changed, "
            "so that test photos may have been used for training. Expected manifest "
            f"digest {manifest_digest[:12]}, found {records.digest[:12]}. Use the "
            f"run's own records, or train a new run on these. {advice}"
        )
        raise RunError(message.rstrip())
