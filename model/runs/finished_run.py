"""Read the folder of a finished run: its settings, figures, photos and model."""

import dataclasses
import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from model.runs import model_sizes, run_folder
from model.runs.run_folder import RunError
from pipeline.batches.input_spec import InputSpec
from pipeline.images import file_headers
from pipeline.system import file_system

# What Keras, HDF5 and zipfile raise on a damaged model file.
_UNREADABLE = (
    ValueError,
    OSError,
    KeyError,
    TypeError,
    RuntimeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run folder that holds a trained model."""

    directory: Path  # links resolved
    config: dict[str, Any]  # content of config.json

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return tuple(self.config["data"]["class_names"])

    @property
    def manifest_digest(self) -> str:
        """SHA-256 of the manifest of the records that the run was trained on."""
        return str(self.config["data"]["manifest_digest"])

    @property
    def spec(self) -> InputSpec:
        """Preprocessing of the network's input."""
        return InputSpec.from_json(self.config["input_spec"])

    @property
    def resize_min(self) -> int:
        """Shorter side that larger photos were shrunk to, in pixels; 0: no limit."""
        value = self.config["data"].get("resize_min", file_headers.RESIZE_MIN)
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"resize_min {value!r}")
        return value

    def results(self) -> list[dict[str, float]]:
        """Return the lines of metrics.jsonl, one per epoch."""
        path = self.directory / "metrics.jsonl"
        results = []
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                results.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise RunError(
                    f"{path} line {number}: damaged ({error}). Train again."
                ) from error
        return results

    def best_epoch(self) -> str:
        """Return the epoch with the lowest validation loss and its figures, as text."""
        results = self.results()
        best = min(results, key=lambda result: result["validation_loss"])
        return (
            f"best epoch {best['epoch']} of {len(results)} (lowest validation loss): "
            f"validation accuracy {best['validation_accuracy']:.4f}, loss "
            f"{best['validation_loss']:.4f}"
        )

    def validation_curve(self) -> list[tuple[int, float]]:
        """Return epochs with their validation accuracy; [] without metrics.jsonl."""
        path = self.directory / "metrics.jsonl"
        results = self.results() if path.exists() else []
        try:
            return [(int(r["epoch"]), float(r["validation_accuracy"])) for r in results]
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise RunError(f"{path}: damaged ({error!r}). Train again.") from error

    @property
    def temperature(self) -> float:
        """Number above 0 that logits are divided by for calibrated probabilities."""
        path = self.directory / "calibration.json"
        value = read_json(path, lambda content: float(content["temperature"]))
        if not 0 < value < math.inf:
            raise RunError(
                f"{path}: temperature expected above 0, found {value}. Train again."
            )
        return value

    def seen_photos(self) -> set[str]:
        """Return the SHA-256 of the photos used for training and validation."""
        path = self.directory / "photos.json"
        return read_json(
            path, lambda content: {*content["train"], *content["validation"]}
        )

    def evaluation_path(self, name: str, manifest_digest: str) -> Path:
        """Return the path of an evaluation's .json file.

        If the records are not the run's own, its name contains their digest.
        """
        if manifest_digest != self.manifest_digest:
            name += f"-{manifest_digest[:8]}"
        folder = self.directory / "evaluation"
        file_system.refuse_link(folder)
        return folder / f"{name}.json"

    def model_digest(self) -> str:
        """Return the SHA-256 of the model file."""
        with (self.directory / run_folder.MODEL_NAME).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def load_model(self) -> Any:
        """Load the saved network, float32: image -> logits."""
        path = self.directory / run_folder.MODEL_NAME
        if zipfile.is_zipfile(path):
            model_sizes.check(path)
        # Keras reports a damaged archive as a missing file.
        if not zipfile.is_zipfile(path):
            raise RunError(f"{path}: cut off, or not a Keras model. Train again.")
        try:
            return keras.models.load_model(path, compile=False, safe_mode=True)
        except _UNREADABLE as error:
            raise RunError(f"{path}: cannot be read ({error}). Train again.") from error


def read(run_dir: str) -> FinishedRun:
    """Open the folder of a finished run.

    Raises:
        RunError: The folder is missing or holds no finished model.
    """
    directory = Path(run_dir)
    if not directory.exists():
        raise RunError(
            f"{directory}: no such run folder. Train a run first: python train.py"
        )
    if (directory / run_folder.REPEATS).exists():
        models = sorted(directory.glob(f"*/{run_folder.MODEL_NAME}"))
        raise RunError(
            f"{directory}: this folder holds several runs. Name one of them: "
            + ", ".join(str(path.parent) for path in models[:10])
        )
    for name in (run_folder.CONFIG_NAME, run_folder.MODEL_NAME):
        if not (directory / name).exists():
            raise RunError(
                f"{directory}: {name} is missing. Either this is not a run folder, or "
                "the run was stopped before its first epoch ended."
            )
    return FinishedRun(directory=directory.resolve(), config=_read_config(directory))


def read_several(run_dirs: Sequence[str]) -> dict[str, FinishedRun]:
    """Open several finished runs; return {name: run} in the given order.

    The name is that of the folder, or its whole path if two folders have the same name.
    """
    runs = [read(run_dir) for run_dir in run_dirs]
    names = [run.directory.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.directory) for run in runs]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise RunError(
                f"{name}: named twice in --runs, the second time as "
                f"{run_dirs[number]}. Expected different runs."
            )
    return dict(zip(names, runs, strict=True))


def read_unfinished(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a stopped training, links resolved, and its config.json.

    Raises:
        RunError: The folder holds no run, or one whose training is complete.
    """
    if not (directory / run_folder.CONFIG_NAME).exists():
        raise RunError(
            f"{directory}: no run, or one that was stopped before it began. Start it "
            "again without --resume."
        )
    if not (directory / run_folder.CHECKPOINTS).exists():
        raise RunError(f"{directory}: this training is complete; nothing to resume.")
    config = _read_config(directory)
    if not {"settings", "features", "precision", "versions"} <= config.keys():
        raise RunError(f"{directory / run_folder.CONFIG_NAME}: damaged. Train again.")
    return directory.resolve(), config


def _read_config(directory: Path) -> dict[str, Any]:
    def check(content: Any) -> dict[str, Any]:
        run = FinishedRun(directory=directory, config=dict(content))
        _ = run.class_names, run.spec, run.resize_min, run.manifest_digest
        _ = run.config["data"]["path"]
        return run.config

    return read_json(directory / run_folder.CONFIG_NAME, check)


def read_json(path: Path, extract: Callable[[Any], Any]) -> Any:
    """Return what `extract` takes from the content of a run's JSON file.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        return extract(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error!r}). Train again.") from error
