"""A run -> the records that it was trained on, wherever they lie now."""

from pathlib import Path

from model.runs import run_folder
from pipeline.records import manifest
from pipeline.system.errors import DataError

HELP = "Folder of the run's records, if they were moved."


def read(finished: run_folder.Finished, data: str = "") -> manifest.Manifest:
    """Reads their manifest.

    Args:
        finished: the run.
        data: folder of the records; "" for where training read them.

    Raises:
        DataError: they are not there, damaged, or not those of the run.
    """
    found = manifest.read(place(finished, data))
    check(finished, found)
    return found


def place(finished: run_folder.Finished, data: str = "") -> Path:
    """Their folder.

    Args:
        finished: the run.
        data: of `read`.

    Raises:
        DataError: there are none.
    """
    folder = Path(data or finished.config["data"]["path"])
    if not (folder / manifest.HEAD_NAME).exists():
        raise DataError(
            f"{folder}: no {manifest.HEAD_NAME} here; expected the records that "
            f"{finished.directory.name} was trained on; --data=FOLDER says where they "
            "are, if they were moved"
        )
    return folder


def check(finished: run_folder.Finished, found: manifest.Manifest) -> None:
    """Refuses records that are not those of a run.

    Raises:
        DataError: they are others, or were changed since.
    """
    expected = finished.config["data"]["manifest_digest"]
    if found.digest != expected:
        raise DataError(
            f"{found.directory}: manifest digest {found.digest[:12]}, but the run "
            f"{finished.directory.name} was trained on {expected[:12]}: these are "
            "other records, or their photos or split have changed since; expected the "
            "run's own as they were, or a run that was trained on these"
        )
