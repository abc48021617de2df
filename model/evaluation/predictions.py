"""Hold the predictions for every photo of a split, and compute their figures."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import calibration
from model.loop import metrics
from pipeline.records.manifest_row import Row


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
        return np.exp(metrics.log_softmax(self.logits / self.temperature))

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
        """Return the arrays of stored_logits.Examples, by name."""
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
        with path.open("wb") as file:
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
