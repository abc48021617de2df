"""Where an export goes, and how it appears there in one go."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from model.export import errors
from model.runs import finished_run
from pipeline.system import file_system

_FOLDER = "exported"  # in the run's folder
_SAVED_MODEL = "saved_model.pb"  # in every folder that is one
# Format -> name by default; {} is for how it is quantized.
_NAMES = {
    "saved_model": "saved_model",
    "onnx": "model.onnx",
    "litert": "model{}.tflite",
    "keras": "model.keras",
}


def choose(
    finished: finished_run.FinishedRun, form: str, out: str, quantize: str
) -> Path:
    """The path that is asked for, or that of the format in the run's folder.

    Raises:
        errors.ExportError: the name does not do for the format, or is taken by
            something else.
    """
    how = "" if quantize == "none" else f"-{quantize}"
    path = Path(out) if out else finished.directory / _FOLDER / _NAMES[form].format(how)
    if form == "keras" and path.suffix != ".keras":
        raise errors.ExportError(f"--out={path}: expected a name that ends in .keras")
    if form == "saved_model":
        is_ours = not path.exists() or (path / _SAVED_MODEL).is_file()
        if not is_ours and not (path.is_dir() and not any(path.iterdir())):
            raise errors.ExportError(
                f"--out={path}: exists, and is no SavedModel; expected a new folder"
            )
    elif path.is_dir():
        raise errors.ExportError(f"--out={path}: is a folder; expected a file's name")
    return path


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Gives a name for a folder to write, which becomes `path` when all went well."""
    partial, before = (
        path.with_name(f".{path.name}.{os.getpid()}{end}")
        for end in (".partial", ".old")
    )
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        if path.exists():
            path.rename(before)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


@contextlib.contextmanager
def replacing_labels(path: Path, content: bytes) -> Iterator[Path]:
    """Writes a file of class names likewise.

    Raises:
        errors.ExportError: another file of that name is there, with other lines.
    """
    if path.exists() and path.read_bytes() != content:
        raise errors.ExportError(
            f"{path}: is there already, with other class names; expected none, or "
            "those of the run: choose another --out, or remove it"
        )
    with file_system.replacing(path) as partial:
        partial.write_bytes(content)
        yield partial
