"""Find photos that are probably filed under the wrong class.

The probabilities must come from a network that was not trained on the photo. If the run
is one of several folds, the photos of all folds count, each predicted by the network of
the fold that was not trained on it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import stored_logits
from model.evaluation.predictions import Predictions
from model.loop import metrics
from model.runs import finished_run, run_folder
from pipeline.records import manifest
from pipeline.records.manifest_row import Row
from pipeline.system.errors import DataError

_MAX_LISTED = 200  # label errors in evaluation/<split>.json, the most probable


def find_label_errors(
    probabilities: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find labels that are probably wrong, the most probable errors first.

    A photo is confidently assigned to a class if that class is at least as probable as
    it is on average for the photos labelled as that class; among several such classes
    the most probable one counts. If that is not the label, the label is probably wrong.
    Errors are ordered by the probability of the label minus that of the suggestion.

    Probabilities are float [num_examples, num_classes]. Returns the indices of the
    photos, and the label that each probably should have.

    Source: Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating
    Uncertainty in Dataset Labels", sections 3.1 and 3.2.
    """
    num_classes = probabilities.shape[1]
    of_label = probabilities[np.arange(len(labels)), labels]
    totals = np.bincount(labels, weights=of_label, minlength=num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    # No photo is confidently assigned to a class without photos.
    thresholds = np.where(counts > 0, totals / np.maximum(1, counts), np.inf)
    # The mean of equal numbers may be a rounding error above them.
    confident = probabilities >= thresholds - 1e-9
    suggested = np.where(confident, probabilities, -1.0).argmax(axis=1)
    wrong = np.flatnonzero(confident.any(axis=1) & (suggested != labels))
    difference = of_label[wrong] - probabilities[wrong, suggested[wrong]]
    wrong = wrong[np.argsort(difference, kind="stable")]
    return wrong, suggested[wrong]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnseenPhotos:
    """Predictions for photos that the predicting network was not trained on."""

    rows: Sequence[Row]
    labels: np.ndarray  # int64 [num_examples], 0-based
    probabilities: np.ndarray  # float64 [num_examples, num_classes], calibrated
    source: str  # origin of the probabilities, in words

    def figures(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return the entry "label_doubts" of evaluation/<split>.json."""
        wrong, suggested = find_label_errors(self.probabilities, self.labels)
        listed = zip(wrong[:_MAX_LISTED], suggested, strict=False)
        return {
            "source": self.source,
            "num_examples": len(self.labels),
            "num_doubts": len(wrong),
            "photos": [
                {
                    "path": self.rows[n].path,
                    "label": class_names[self.labels[n]],
                    "label_probability": float(self.probabilities[n, self.labels[n]]),
                    "suggested": class_names[label],
                    "suggested_probability": float(self.probabilities[n, label]),
                }
                for n, label in listed
            ],
        }


def unseen_photos(
    run: finished_run.FinishedRun,
    records: manifest.Manifest,
    predictions: Predictions,
    training_photos: set[str],
) -> UnseenPhotos:
    """Return the unseen photos of all folds, or those of the evaluated split.

    `training_photos` has the SHA-256 of those that training and validation used.
    """
    unseen = [
        n for n, row in enumerate(predictions.rows) if row.sha256 not in training_photos
    ]
    of_folds = unseen_in_folds(run, records)
    if of_folds and len(of_folds.labels) > len(unseen):
        return of_folds
    return UnseenPhotos(
        rows=[predictions.rows[n] for n in unseen],
        labels=predictions.labels[unseen],
        probabilities=predictions.probabilities()[unseen],
        source="held-out probabilities of the photos evaluated here",
    )


def unseen_in_folds(
    run: finished_run.FinishedRun, records: manifest.Manifest
) -> UnseenPhotos | None:
    """Return the test photos of all folds that were evaluated; None outside folds."""
    num_folds = _num_folds(run.directory)
    if not num_folds or run.manifest_digest != records.digest:
        return None
    rows = {row.sha256: row for row in records.included()}
    fold_dirs = [run.directory.parent / f"fold-{n}" for n in range(num_folds)]
    folds = list(filter(None, (_evaluated_fold(d, run.class_names) for d in fold_dirs)))
    if len(folds) < 2:
        return None
    by_photo = {
        sha256: (label, probabilities)
        for photos in folds
        for sha256, label, probabilities in zip(*photos, strict=True)
        if sha256 in rows
    }
    return UnseenPhotos(
        rows=[rows[sha256] for sha256 in by_photo],
        labels=np.array([label for label, _ in by_photo.values()], np.int64),
        probabilities=np.stack([p for _, p in by_photo.values()]),
        source=f"out-of-fold probabilities of {len(folds)} of {num_folds} folds",
    )


def _num_folds(directory: Path) -> int:
    """Return the number of folds that a run is one of; 0 outside folds."""
    path = directory.parent / run_folder.REPEATS
    if not directory.name.startswith("fold-") or not path.exists():
        return 0
    try:
        folds = finished_run.read_json(path, lambda c: int(c["settings"]["folds"]))
    except DataError:
        return 0  # a damaged file about other runs is no reason to fail here
    return min(max(0, int(folds)), 1000)


def _evaluated_fold(
    fold_dir: Path, class_names: Sequence[str]
) -> tuple[list[str], np.ndarray, np.ndarray] | None:
    """Return SHA-256, labels and probabilities of a fold's photos, once evaluated."""
    try:
        fold = finished_run.read(str(fold_dir))
    except DataError:
        return None
    path = stored_logits.find(fold, "test", fold.manifest_digest)
    if path is None or fold.class_names != class_names:
        return None
    examples = stored_logits.read(path)
    probabilities = np.exp(metrics.log_softmax(examples.logits / fold.temperature))
    return examples.sha256.tolist(), examples.label, probabilities
