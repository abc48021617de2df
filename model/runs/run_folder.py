"""The run folder: what a training leaves, and what judging and use start from.

runs/20260101-120000-alexnet/
    checkpoints/       snapshots of a training that is not done
    config.json        every resolved setting, versions, digests of data and weights
    ledger.json        what was restored, what is new, proof of what did not move
    metrics.jsonl      one line per epoch
    first_batch.png    what the network sees, with class names
    curves.png         losses and accuracies over the epochs
    tensorboard/       the same as scalars
    model.keras        the best by validation; loads in plain Keras
    labels.txt         class names in label order
    photos.json        SHA-256 of the photos it has seen
    ran_away.txt       why it ended early, if the loss was no number any more
    calibration.json   temperature fitted on the validation split
    evaluation/        what evaluate.py writes
runs/latest            -> the newest of them
"""

import dataclasses
import hashlib
import json
import math
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.loop import training_loop
from model.weights import restore, weight_file
from pipeline.batches import preprocess
from pipeline.images import record_image
from pipeline.records import manifest
from pipeline.system import file_system
from pipeline.system.errors import DataError

LATEST = "latest"
CONFIG_NAME = "config.json"
MODEL_NAME = "model.keras"
CHECKPOINTS = "checkpoints"  # is there until training is done
REPEATS = "repeats.json"  # of a folder of several runs
RAN_AWAY = "ran_away.txt"  # why training ended before its end
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


def versions() -> dict[str, str]:
    """Of what computes."""
    return {
        "graft": manifest.GRAFT_VERSION,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


class RunError(DataError):
    """A run folder is missing, unfinished or belongs to other data."""


def new_directory(run_dir: str, ckpt: str) -> Path:
    """The folder a new run shall have; "" names it by time and weights.

    Raises:
        RunError: it exists and is not empty, or has the name of the link.
    """
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(ckpt).name.split(".")[0]) or "run"
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{stem}"
    directory = Path(run_dir) if run_dir else Path("runs") / name
    if directory.name == LATEST:
        raise RunError(
            f"{directory}: is the name of the link to the newest run; choose another "
            "--run_dir"
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        unfinished = (directory / CHECKPOINTS).exists()
        what = "holds a stopped training" if unfinished else "exists and is not empty"
        advice = "remove it, or choose another --run_dir"
        if (directory / CHECKPOINTS).exists():
            advice = f"--resume={directory} goes on with it, or {advice}"
        raise RunError(f"{directory}: {what}; {advice}")
    return directory


def is_run(directory: Path) -> bool:
    """Whether a folder is a run, or holds a training's repetitions."""
    return any((directory / name).exists() for name in (CONFIG_NAME, REPEATS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder that is being written.

    Attributes:
        directory: of this run.
        writes: False for those of several processes that leave it to another.
    """

    directory: Path
    writes: bool = True

    def start(self, config: dict[str, Any], class_names: Sequence[str]) -> None:
        """Makes the folder with what is known before training.

        Raises:
            RunError: another training has begun there since `new_directory`.
        """
        if not self.writes:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        if any(self.directory.iterdir()):
            raise RunError(
                f"{self.directory}: another training has begun here meanwhile; choose "
                "another --run_dir"
            )
        self.write_json(CONFIG_NAME, config)
        labels = "".join(f"{name}\n" for name in class_names)
        with file_system.replacing(self.directory / "labels.txt") as partial:
            partial.write_text(labels, encoding="utf-8", errors="surrogateescape")

    def discard(self) -> None:
        """Removes a run that has nothing to show."""
        if not self.writes:
            return
        shutil.rmtree(self.directory, ignore_errors=True)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a file of the folder in one go."""
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Writes a file of the folder in one go."""
        if not self.writes:
            return
        with file_system.replacing(self.directory / name) as partial:
            partial.write_text(text, encoding="utf-8")

    def write_metrics(self, results: Sequence[training_loop.EpochResult]) -> None:
        """Writes the lines of some epochs in place of all that are there."""
        if not self.writes:
            return
        with file_system.replacing(self.directory / "metrics.jsonl") as partial:
            partial.write_text("".join(map(_line, results)), encoding="utf-8")

    def append_metrics(self, result: training_loop.EpochResult) -> None:
        """Adds an epoch's line."""
        if not self.writes:
            return
        with (self.directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(_line(result))

    def save_model(self, model: Any, about: dict[str, str]) -> None:
        """Writes model.keras.

        Args:
            model: keras.Model.
            about: what the file shall say of itself; see weights.describe.
        """
        if not self.writes:
            return
        with file_system.replacing(
            self.directory / MODEL_NAME, suffix=".partial.keras"
        ) as partial:
            model.save(partial)
            weight_file.mark_keras(partial, about)

    def point_latest(self) -> None:
        """Lets the link beside the folder lead to it; inside other runs there is none.

        Also to a run without a model, as soon as there is something to go on with; and
        to all repetitions, for one of them.
        """
        directory = self.directory.absolute()  # "." has no name of its own
        if (directory.parent / REPEATS).exists():
            directory = directory.parent
        link = directory.parent / LATEST
        if not self.writes or is_run(directory.parent):
            return
        if link.exists() and not link.is_symlink():
            return  # somebody's own file or folder
        with file_system.replacing(link) as partial:
            partial.symlink_to(directory.name)

    def write_ledger(
        self,
        entries: Sequence[restore.Entry],
        about: dict[str, Any],
        before: dict[str, str],
        after: dict[str, str],
    ) -> None:
        """Writes ledger.json.

        Args:
            entries: every tensor and variable.
            about: of the weight file.
            before: digests of the frozen variables when training began.
            after: digests of the same variables of the model that is saved.
        """
        if not self.writes:
            return
        changed = sorted(name for name in before if before[name] != after.get(name))
        if changed:
            raise RuntimeError(f"frozen variables changed in training: {changed}")
        frozen = [
            {
                "variable": name,
                "sha256_before": before[name],
                "sha256_after": after[name],
            }
            for name in sorted(before)
        ]
        tensors = [dataclasses.asdict(entry) for entry in entries]
        content = {**about, "tensors": tensors, "frozen": frozen}
        self.write_json("ledger.json", content)


def _line(result: training_loop.EpochResult) -> str:
    return json.dumps(dataclasses.asdict(result)) + "\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """A run folder that is read.

    Attributes:
        directory: of the run, links resolved.
        config: content of config.json.
    """

    directory: Path
    config: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """In label order."""
        return tuple(self.config["data"]["class_names"])

    @property
    def spec(self) -> preprocess.InputSpec:
        """Of the network's input."""
        return preprocess.InputSpec.from_json(self.config["input_spec"])

    @property
    def resize_min(self) -> int:
        """Longest short side that its records' photos kept, in pixels; 0: no limit."""
        found = self.config["data"].get("resize_min", record_image.RESIZE_MIN)
        if not isinstance(found, int) or found < 0:
            raise ValueError(f"resize_min {found!r}")
        return found

    def results(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl, one per epoch.

        Raises:
            RunError: a line is damaged.
        """
        path = self.directory / "metrics.jsonl"
        lines = path.read_bytes().splitlines()
        results = []
        for number, line in enumerate(lines, start=1):
            try:
                results.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise RunError(
                    f"{path} line {number}: damaged ({error}); train again"
                ) from error
        return results

    def validation_curve(self) -> list[tuple[int, float]]:
        """Epochs and the accuracy on the validation split; [] without metrics.jsonl.

        Raises:
            RunError: a line is damaged.
        """
        if not (self.directory / "metrics.jsonl").exists():
            return []
        results = self.results()
        try:
            return [
                (int(result["epoch"]), float(result["validation_accuracy"]))
                for result in results
            ]
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise RunError(
                f"{self.directory / 'metrics.jsonl'}: damaged ({error!r}); train again"
            ) from error

    @property
    def temperature(self) -> float:
        """That logits are divided by for calibrated probabilities.

        Raises:
            RunError: calibration.json is missing or damaged.
        """
        path = self.directory / "calibration.json"
        try:
            found = float(json.loads(path.read_text(encoding="utf-8"))["temperature"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}: cannot be read ({error!r}); train again"
            ) from error
        if not 0 < found < math.inf:
            raise RunError(
                f"{path}: temperature {found}, expected above 0; train again"
            )
        return found

    def seen_photos(self) -> set[str]:
        """SHA-256 of the photos trained on and chosen by.

        Raises:
            RunError: photos.json is missing or damaged.
        """
        path = self.directory / "photos.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {*found["train"], *found["validation"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}: cannot be read ({error!r}); train again"
            ) from error

    def evaluation_path(self, name: str, manifest_digest: str) -> Path:
        """Where a .json of the evaluation goes; of other records, with their digest."""
        if manifest_digest != self.config["data"]["manifest_digest"]:
            name += f"-{manifest_digest[:8]}"
        return self.directory / "evaluation" / f"{name}.json"

    def model_digest(self) -> str:
        """SHA-256 of the model file."""
        with (self.directory / MODEL_NAME).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def load_model(self) -> Any:
        """The saved network, float32: image -> logits.

        Raises:
            RunError: the file is damaged.
        """
        path = self.directory / MODEL_NAME
        if not zipfile.is_zipfile(path):  # Keras would say that there is no such file
            raise RunError(f"{path}: cut off, or no Keras model; train again")
        try:
            return keras.models.load_model(path, compile=False, safe_mode=True)
        except _UNREADABLE as error:
            raise RunError(f"{path}: cannot be read ({error}); train again") from error


def unfinished(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Folder and config.json of a training that can go on.

    Raises:
        RunError: there is none, or it is done.
    """
    if not (directory / CONFIG_NAME).exists():
        raise RunError(f"{directory}: no run, or one that was stopped before it began")
    if not (directory / CHECKPOINTS).exists():
        raise RunError(f"{directory}: its training is done; nothing is left to do")
    config = _read_config(directory)
    if not {"settings", "features", "precision", "versions"} <= config.keys():
        raise RunError(f"{directory / 'config.json'}: damaged; train anew")
    return directory.resolve(), config


def _read_config(directory: Path) -> dict[str, Any]:
    """Raises RunError if config.json is damaged."""
    path = directory / CONFIG_NAME
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
        found = Finished(directory=directory.resolve(), config=config)
        data = config["data"]
        _ = found.class_names, found.spec, found.resize_min
        _ = data["path"], data["manifest_digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged ({error!r}); train again") from error
    return config


def read(run_dir: str) -> Finished:
    """Opens a run folder.

    Raises:
        RunError: it is missing or holds no finished model.
    """
    directory = Path(run_dir)
    if not directory.exists():
        raise RunError(f"{directory}: no such run; train one first: python train.py")
    if (directory / REPEATS).exists():
        names = sorted(p.name for p in directory.iterdir() if (p / MODEL_NAME).exists())
        raise RunError(
            f"{directory}: holds several runs; name one of them: "
            + ", ".join(str(directory / name) for name in names[:10])
        )
    for name in (CONFIG_NAME, MODEL_NAME):
        if not (directory / name).exists():
            raise RunError(
                f"{directory}: {name} is missing; the run was stopped before its first "
                "epoch, or this is no run folder"
            )
    return Finished(directory=directory.resolve(), config=_read_config(directory))


def read_several(directories: Sequence[str]) -> dict[str, Finished]:
    """{name: run}, in the order given; by the folder's name if no two have the same.

    Raises:
        RunError: one is missing, unfinished or named twice.
    """
    runs = [read(directory) for directory in directories]
    names = [one.directory.name for one in runs]
    if len(set(names)) < len(names):
        names = [str(one.directory) for one in runs]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise RunError(
                f"{name}: named twice in --runs, the second time as "
                f"{directories[number]}; expected different runs"
            )
    return dict(zip(names, runs, strict=True))


def check_records(
    finished: Finished,
    found: manifest.Manifest,
    split: str,
    *,
    another: bool,
    source: str = "",
) -> None:
    """Refuses records that are not those of the run.

    Args:
        finished: the run.
        found: the records.
        split: that it is to be judged on; "all" for all of them.
        another: they are others on purpose; then it must not have seen the photos.
        source: what the user calls them, who may have named a folder of photos.

    Raises:
        DataError: says why, and what to do.
    """
    expected = finished.config["data"]["manifest_digest"]
    called = source or found.directory
    if found.digest == expected:
        return
    if not another:
        raise DataError(
            f"{called}: manifest digest {found.digest[:12]}, but the run "
            f"{finished.directory.name} was trained on {expected[:12]}: photos or "
            "split have changed since, and test photos may have been trained on. Train "
            "again, or pass --another_dataset if these are other photos on purpose"
        )
    if not set(found.class_names) <= set(finished.class_names):
        raise DataError(
            f"{called}: classes {', '.join(found.class_names)}; the run knows "
            f"{', '.join(finished.class_names)}: all or some of these names expected"
        )
    rows = found.included(*([] if split == "all" else [split]))
    seen = finished.seen_photos() & {row.sha256 for row in rows}
    if seen:
        raise DataError(
            f"{called}: {finished.directory.name} was trained on, or chosen by, "
            f"{len(seen)} of these {len(rows)} photos; expected others, or the run's "
            "own records"
        )
