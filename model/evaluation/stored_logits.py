"""Hold the predictions for a split, compute their figures, store and find them.

evaluation/<split>.npz has the logits of a run. The .json file has a seal, which
only this user can make: without it, the file may be damaged or come from a stranger,
and is not opened.
"""

import dataclasses
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import calibration
from model.loop import metrics
from model.runs import finished_run
from model.runs.finished_run import FinishedRun
from pipeline.records.manifest_row import Row
from pipeline.system import command_line, file_system

_SEAL = "seal"  # name, in the .json, of what proves who wrote it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """The logits of a run; each array has one entry for every photo of a split."""

    sha256: np.ndarray  # of the photo's file, 64 hex digits
    path: np.ndarray  # in the manifest
    group: np.ndarray  # name of the photo's group, 64 hex digits
    label: np.ndarray  # int64, 0-based
    logits: np.ndarray  # float32 [num_examples, num_classes], finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """A model's predictions for every photo of a split."""

    rows: Sequence[Row]  # in the manifest's order
    labels: np.ndarray  # int64 [num_examples], 0-based
    logits: np.ndarray  # float32 [num_examples, num_classes], averages over the views
    class_names: Sequence[str]  # in label order
    # Divisor of the logits that calibrates probabilities, or one for each photo, float
    # [num_examples, 1].
    temperature: float | np.ndarray = 1.0
    tta: str = "none"  # or "flip" or "ten_crop"
    # Name of the run that predicted each photo, str [num_examples]; None for one run.
    folds: np.ndarray | None = None

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each photo, int64 [num_examples]."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def groups(self) -> np.ndarray:
        """The group of each photo, str [num_examples]; a single photo has its own."""
        return np.array([row.group or row.sha256 for row in self.rows])

    @property
    def effective_examples(self) -> float:
        """The number of independent photos that these photos are worth."""
        correct = self.predicted == self.labels
        if self.folds is None:
            return metrics.effective_number(correct, self.groups)
        return metrics.effective_in_folds(correct, self.groups, self.folds)

    def probabilities(self) -> np.ndarray:
        """Return calibrated probabilities, float64 [num_examples, num_classes]."""
        logs = metrics.log_softmax(self.logits / self.temperature)
        return np.exp(logs, out=logs)

    def figures(self) -> dict[str, Any]:
        """Return everything evaluation/<split>.json holds about the photos."""
        logits, labels, names = self.logits, self.labels, list(self.class_names)
        total, correct = len(labels), self.predicted == labels
        confusion = metrics.confusion_matrix(labels, self.predicted, len(names))
        per_class = metrics.per_class(confusion)
        uncalibrated = np.exp(metrics.log_softmax(logits))
        return {
            "num_examples": total,
            "num_groups": len(set(self.groups)),
            "effective_examples": self.effective_examples,
            "accuracy": float(correct.mean()),
            "accuracy_ci95": metrics.accuracy_interval(
                correct, self.groups, self.folds
            ),
            "balanced_accuracy": metrics.mean_over_classes(per_class, "recall"),
            "macro_f1": metrics.mean_over_classes(per_class, "f1"),
            "top5_accuracy": metrics.top_k_accuracy(logits, labels, 5),
            "loss": metrics.mean_loss(logits, labels),
            "calibrated_loss": metrics.mean_loss(logits / self.temperature, labels),
            "temperature": float(np.mean(self.temperature)),
            **calibration.figures(uncalibrated, self.probabilities(), labels),
            "tta": self.tta,
            "largest_class_share": float(confusion.sum(axis=1).max() / total),
            "class_names": names,
            "confusion_matrix": confusion.tolist(),
            "per_class": [
                {"class_name": name, **row}
                for name, row in zip(names, per_class, strict=True)
            ],
            "errors": self.errors(),
        }

    def errors(self) -> list[dict[str, Any]]:
        """Return the misclassified photos, the most confident mistakes first."""
        probabilities, predicted = self.probabilities(), self.predicted
        wrong = np.flatnonzero(predicted != self.labels)
        confidence = probabilities[wrong, predicted[wrong]]
        return [
            {
                "path": self.rows[n].path,
                "true": self.class_names[self.labels[n]],
                "predicted": self.class_names[predicted[n]],
                "probability": float(probabilities[n, predicted[n]]),
            }
            for n in wrong[np.argsort(-confidence, kind="stable")]
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of Examples, by name."""
        return {
            "sha256": np.array([row.sha256 for row in self.rows]),
            "path": np.array([row.path for row in self.rows]),
            "group": self.groups,
            "label": self.labels,
            "logits": self.logits,
            **({} if self.folds is None else {"fold": self.folds}),
        }

    def save(self, path: Path) -> None:
        """Write the arrays of every photo as .npz."""
        with file_system.replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **self.arrays())  # type: ignore[arg-type]


def pool(parts: Mapping[str, Predictions]) -> Predictions:
    """Return the predictions of several runs, by name, with the same classes."""
    first, *_ = every = [*parts.values()]
    sizes = [len(part.rows) for part in every]
    return dataclasses.replace(
        first,
        rows=[row for part in every for row in part.rows],
        labels=np.concatenate([part.labels for part in every]),
        logits=np.concatenate([part.logits for part in every]),
        temperature=np.repeat([[part.temperature] for part in every], sizes, axis=0),
        folds=np.repeat([*parts], sizes),
    )


def read(path: Path) -> Examples:
    """Read a file that `find` has returned, or that was written just now."""
    with np.load(path, allow_pickle=False) as arrays:
        return Examples(**{name: arrays[name] for name in arrays.files})


def read_figures(path: Path, extract: Callable[[Any], Any] = dict) -> Any:
    """Return what `extract` takes from evaluation/<split>.json, by default all."""
    advice = "Remove it, and the run is evaluated again."
    return finished_run.read_json(path, extract, advice)


def write_sealed(path: Path, figures: dict[str, Any]) -> None:
    """Write the figures of an evaluation, whose .npz exists, and a seal for both."""
    content = json.loads(json.dumps(figures))
    write_figures(path, figures | {_SEAL: _seal(content, path.with_suffix(".npz"))})


def _seal(figures: dict[str, Any], npz_path: Path) -> str:
    """Return what only this user can compute of an evaluation; "" without a key."""
    key_path = file_system.cache_folder() / "evaluation.key"
    try:
        if not key_path.exists():
            key_path.parent.mkdir(parents=True, exist_ok=True)
            with file_system.replacing(key_path) as partial:
                partial.touch(mode=0o600)
                partial.write_bytes(secrets.token_bytes(32))
        key = key_path.read_bytes()
    except OSError:  # a home that cannot be written
        return ""
    with npz_path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    text = json.dumps([figures, digest], sort_keys=True)
    return hmac.digest(key, text.encode(), "sha256").hex()


def write_figures(path: Path, figures: dict[str, Any]) -> None:
    """Write the figures of an evaluation or a comparison."""
    with file_system.replacing(path) as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def find(
    run: FinishedRun, split: str, manifest_digest: str, *, by_anybody: bool = False
) -> Path | None:
    """Return the .npz of a run's present model on these records, if it has one.

    An evaluation by an earlier version, which does not know the photos' groups, does
    not count. That of another user counts only with `by_anybody`: into a run's folder
    anybody can write logits that are too good.
    """
    json_path = run.evaluation_path(split, manifest_digest)
    path = json_path.with_suffix(".npz")
    if not path.exists() or not json_path.exists():
        return None
    figures, *origin = read_figures(
        json_path, lambda f: (dict(f), f["model_sha256"], f["data"]["manifest_digest"])
    )
    if origin != [run.model_digest(), manifest_digest] or "num_groups" not in figures:
        return None
    seal = figures.pop(_SEAL, "")
    if by_anybody or (seal and seal == _seal(figures, file_system.regular(path))):
        return path
    command_line.log(
        f"{path}: not used, because another user or machine wrote it, or it was edited"
    )
    return None
