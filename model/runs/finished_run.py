"""Read the folder of a finished run: its settings, figures, photos and model."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from model.runs import run_folder
from model.runs.run_folder import RunError
from pipeline.batches.input_spec import InputSpec
from pipeline.images import file_headers
from pipeline.records import manifest
from pipeline.system import file_system
from pipeline.system.errors import DataError
from pipeline.system.remote import mirror

# What reading damaged JSON raises.
JSON_FAULTS = (
    *(FileNotFoundError, ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, RecursionError),
)
# Types of values in config.json, of which old runs may have the network alone.
_TYPES: dict[str, type] = {
    **dict.fromkeys(("network", "features", "pooling", "precision"), str),
    **dict.fromkeys(("settings", "weights", "versions"), dict),
}
_MAX_MODEL_BYTES = 16 << 30
_ANOTHER_RUNS = "is another run's, or was edited"
_NEAR_COPY = {"path": str, "split": str, "similar_to": str, "similarity": float}
_FIGURES = ("loss", "accuracy", "validation_loss", "validation_accuracy")


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
        return int(self.config["data"].get("resize_min", file_headers.RESIZE_MIN))

    @property
    def white_level(self) -> int:
        """Number that was white in 16-bit training photos; 0: 65535."""
        return int(self.config["data"].get("white_level", 0))

    def results(self) -> list[dict[str, float]]:
        """Return the lines of metrics.jsonl, one per epoch."""
        path = self.directory / "metrics.jsonl"
        results: list[dict[str, float]] = []
        for number, line in enumerate(_read(path).splitlines(), start=1):
            try:
                values = json.loads(line)
                expect("epoch", values["epoch"], int)
                for name in _FIGURES:
                    float(expect(name, values[name], float, int))  # may be too large
                if "l2" in values:
                    float(expect("l2", values["l2"], float))
                results.append(values)
            except JSON_FAULTS as error:
                raise _damaged(f"{path} line {number}", error) from error
        return results

    def best_epoch(self) -> str:
        """Return the epoch with the lowest validation loss and its figures, as text."""
        results = self.results()
        best = min(results, key=lambda result: result["validation_loss"])
        what = f"epoch {best['epoch']} of {len(results)}"
        if "l2" in best:
            what = f"L2 penalty {best['l2']:.2g}"
        return (
            f"best {what} (lowest validation loss): "
            f"validation accuracy {best['validation_accuracy']:.4f}, loss "
            f"{best['validation_loss']:.4f}"
        )

    @property
    def temperature(self) -> float:
        """Number above 0 that logits are divided by for calibrated probabilities."""

        def check(content: Any) -> float:
            value = float(expect("temperature", content["temperature"], float, int))
            if not 0 < value < math.inf:
                raise ValueError(f"temperature: expected above 0, found {value}")
            if content.get("run", self.identity) != self.identity:
                raise ValueError(_ANOTHER_RUNS)
            return value

        return float(read_json(self.directory / "calibration.json", check))

    def near_copies(self) -> dict[str, Any]:
        """Return similar.json, a result of near_copies.search; {} if it is missing."""
        path = self.directory / run_folder.NEAR_COPIES_JSON

        def check(content: Any) -> dict[str, Any]:
            for photo in content["photos"]:
                for name, kind in _NEAR_COPY.items():
                    expect(name, photo[name], kind)
            for name in ("chance", "num_training", "num_training_in_all"):
                if not 0 <= expect(name, content[name], float, int) < math.inf:
                    raise ValueError(f"{name}: expected 0 or more")
            return dict(content)

        return dict(read_json(path, check)) if path.exists() else {}

    def seen_photos(self) -> set[str]:
        """Return the SHA-256 of the photos used for training and validation."""
        return self.photos("train", "validation")

    def photos(self, *splits: str) -> set[str]:
        """Return the SHA-256 of photos; an earlier version lists no test photos."""

        def check(content: Any) -> set[str]:
            content = {"test": []} | content
            lists = [_names(name, content[name]) for name in splits]
            expected = self.config["data"].get("photos_sha256")
            seen = {name: content[name] for name in ("train", "validation")}
            if expected not in (None, run_folder.digest_of(seen)):
                raise ValueError(_ANOTHER_RUNS)
            return set().union(*lists)

        return set(read_json(self.directory / "photos.json", check))

    def evaluation_path(self, name: str, manifest_digest: str) -> Path:
        """Return the path of an evaluation's .json file.

        If the records are not the run's own, its name contains their digest.
        """
        if manifest_digest != self.manifest_digest:
            name += f"-{manifest_digest[:8]}"
        folder = self.directory / "evaluation"
        file_system.refuse_link(folder)
        return folder / f"{name}.json"

    @property
    def _model_path(self) -> Path:
        path = self.directory / run_folder.MODEL_NAME
        return file_system.regular(path, _MAX_MODEL_BYTES)

    def model_digest(self) -> str:
        """Return the SHA-256 of the model file."""
        with self._model_path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def identity(self) -> str:
        """Digest of config.json, by which files of the run name it."""
        return run_folder.RunFolder(directory=self.directory).identity

    def load_model(self) -> Any:
        """Load the saved network, float32: image -> logits."""
        from model.runs import saved_network  # needs Keras

        return saved_network.load(
            self._model_path,
            size_px=self.spec.size_px,
            num_classes=len(self.class_names),
            identity=self.identity,
        )

    def records_folder(self, data: str = "") -> Path:
        """Return the folder of the run's records: `data`, or the one it trained on."""
        folder = mirror.local(data or self.config["data"]["path"])
        if not data and run_folder.is_fold(self.directory):  # also if that was moved
            beside = self.directory.parent / run_folder.FOLD_RECORDS
            folder = beside / self.directory.name
        if not (folder / manifest.HEAD_NAME).exists():
            raise DataError(
                f"{folder}: {manifest.HEAD_NAME} is missing. Expected the records that "
                f"run {self.directory.name} was trained on. If they were moved, name "
                "their folder by --data=FOLDER."
            )
        return folder

    def read_records(self, data: str = "") -> manifest.Manifest:
        """Read the manifest of the run's records, from `data` or where they were."""
        records = manifest.read(self.records_folder(data))
        run_folder.check_records(self.directory, self.manifest_digest, records)
        return records


def read(run_dir: str, flag: str = "--run_dir") -> FinishedRun:
    """Open the folder of a finished run; RunError says what is there instead."""
    directory = Path(run_dir)
    if not directory.exists():
        problem = "no such run folder. Train a run first: python train.py"
        if directory.is_symlink():
            problem = (
                f"the run {directory.readlink()}, to which this link points, was moved "
                "or removed. Name a run's folder: --run_dir=FOLDER"
            )
        raise RunError(f"{directory}: {problem}")
    if (directory / run_folder.REPEATS).exists():
        models = sorted(directory.glob(f"*/{run_folder.MODEL_NAME}"))
        runs = " or ".join(str(path.parent) for path in models[:10])
        raise RunError(
            f"{directory}: this folder holds several runs. For {flag}, name one that "
            f"has completed an epoch: {runs or 'none yet'}"
        )
    for name in (run_folder.CONFIG_NAME, run_folder.MODEL_NAME):
        if not (directory / name).exists():
            raise RunError(
                f"{directory}: {name} is missing. Either this is not a run folder, or "
                "the run was stopped before its first epoch ended."
            )
    config = _read_config(directory)
    return FinishedRun(directory=run_folder.shown(directory), config=config)


def read_several(run_dirs: Sequence[str]) -> dict[str, FinishedRun]:
    """Open several finished runs; return {name: run} in the given order.

    The name is that of the folder, or its whole path if two folders have the same name.
    """
    runs = [read(run_dir, "--runs") for run_dir in run_dirs]
    names = [run.directory.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.directory.resolve()) for run in runs]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise RunError(
                f"{name}: named twice in --runs, the second time as "
                f"{run_dirs[number]}. Expected different runs."
            )
    return dict(zip(names, runs, strict=True))


def is_complete(directory: Path) -> bool:
    """Return whether the training of a run is complete; RunError if it diverged."""
    if (path := directory / run_folder.DIVERGED).exists():
        reason = _read(path).decode("utf-8", "replace").strip()
        raise RunError(
            f"{directory}: this training ended early and cannot be continued. {reason} "
            "Train again, with other settings and another --run_dir."
        )
    has_model = (directory / run_folder.MODEL_NAME).exists()
    return has_model and not (directory / run_folder.CHECKPOINTS).exists()


def read_unfinished(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a stopped training, links resolved, and its config.json."""
    if not (directory / run_folder.CONFIG_NAME).exists():
        raise RunError(
            f"{directory}: is not a run, or one that was stopped before it began. "
            "Start it again without --resume."
        )
    if is_complete(directory):
        raise RunError(f"{directory}: this training is complete; nothing to resume.")
    config = _read_config(directory)
    if missing := _TYPES.keys() - config.keys():
        path = directory / run_folder.CONFIG_NAME
        raise RunError(f"{path}: damaged ({min(missing)} is missing). Train again.")
    FinishedRun(directory=directory, config=config).seen_photos()
    return run_folder.shown(directory), config


def _read_config(directory: Path) -> dict[str, Any]:
    def check(content: Any) -> dict[str, Any]:
        for name, kind in _TYPES.items():
            if name == "network" or name in content:
                expect(name, content[name], kind)
        data = content["data"]
        expect("data.path", data["path"], str)
        expect("data.manifest_digest", data["manifest_digest"], str)
        for name in ("resize_min", "white_level"):
            if expect(f"data.{name}", data.get(name, 0), int) < 0:
                raise ValueError(f"data.{name}: expected 0 or more")
        names = _names("data.class_names", data["class_names"])
        text = "".join(f"{name}\n" for name in names)
        labels, path = text.encode(errors="surrogateescape"), directory / "labels.txt"
        if not names or (path.exists() and _read(path) != labels):
            raise ValueError(f"data.class_names: expected the lines of {path.name}")
        InputSpec.from_json(content["input_spec"])
        return dict(content)

    return dict(read_json(directory / run_folder.CONFIG_NAME, check))


def read_json(
    path: Path, extract: Callable[[Any], Any], advice: str = "Train again."
) -> Any:
    """Return what `extract` takes from the content of a run's JSON file.

    What look-ups and conversions in `extract` raise becomes a RunError that ends in
    `advice`.
    """
    try:
        return extract(json.loads(_read(path)))
    except JSON_FAULTS as error:
        raise _damaged(path, error, advice) from error


def _read(path: Path) -> bytes:
    return file_system.regular(path, file_system.MAX_TEXT_BYTES).read_bytes()


def _damaged(where: object, error: Exception, advice: str = "Train again.") -> RunError:
    what = str(error) if isinstance(error, ValueError | OSError) else repr(error)
    return RunError(f"{where}: damaged ({what:.200}). {advice}")


def expect(name: str, value: Any, *kinds: type) -> Any:
    """Return a value if its type is one of `kinds`: a bool is not an int."""
    if type(value) not in kinds:
        raise ValueError(f"{name}: expected {kinds[0].__name__}, found {value!r:.40}")
    return value


def _names(name: str, values: Any) -> list[str]:
    """Return a list of different texts, none of them empty."""
    texts = [str(expect(name, text, str)) for text in expect(name, values, list)]
    if "" in texts or len(set(texts)) < len(texts):
        raise ValueError(f"{name}: expected different names")
    return texts
