"""Photos that a network was not trained on -> labels in doubt.

Of a run that is one of several folds, the photos of all folds count, each judged by the
network that was not trained on it.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import label_errors, stored_logits
from model.loop import metrics
from model.runs import finished_run, run_folder
from pipeline.records import manifest
from pipeline.system.errors import DataError

_LISTED = 200  # doubts in evaluation/<split>.json, the likeliest


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What networks say of photos that they were not trained on.

    Attributes:
        rows: the photos.
        labels: int64 [num_examples], 0-based.
        probabilities: float64 [num_examples, num_classes], calibrated.
        source: whose probabilities they are, in words.
    """

    rows: Sequence[manifest.Row]
    labels: np.ndarray
    probabilities: np.ndarray
    source: str

    def doubts(self, class_names: Sequence[str]) -> dict[str, Any]:
        """What evaluation/<split>.json says of labels that are likely wrong."""
        found = label_errors.find(self.probabilities, self.labels)
        return {
            "source": self.source,
            "num_examples": len(self.labels),
            "num_doubts": len(found),
            "photos": [
                {
                    "path": self.rows[doubt.example].path,
                    "label": class_names[doubt.label],
                    "label_probability": doubt.label_probability,
                    "suggested": class_names[doubt.suggested],
                    "suggested_probability": doubt.suggested_probability,
                }
                for doubt in found[:_LISTED]
            ],
        }


def of_split(
    rows: Sequence[manifest.Row],
    labels: np.ndarray,
    probabilities: np.ndarray,
    seen: set[str],
) -> HeldOut:
    """Those of judged photos that were not trained on.

    Args:
        rows: the photos.
        labels: int [num_examples], 0-based.
        probabilities: float [num_examples, num_classes].
        seen: SHA-256 of the photos that the network was trained on or chosen by.
    """
    kept = [n for n, row in enumerate(rows) if row.sha256 not in seen]
    return HeldOut(
        rows=[rows[n] for n in kept],
        labels=labels[kept],
        probabilities=probabilities[kept],
        source="held-out probabilities of the photos judged here",
    )


def of_folds(
    finished: finished_run.FinishedRun, found: manifest.Manifest
) -> HeldOut | None:
    """All photos that the folds beside a run have judged; None if it is no fold.

    Args:
        finished: the run, judged on its test split.
        found: its records.

    Raises:
        DataError: a judgement is damaged.
    """
    num_folds = _num_folds(finished.directory)
    if not num_folds or finished.config["data"]["manifest_digest"] != found.digest:
        return None
    rows = {row.sha256: row for row in found.included()}
    by_photo: dict[str, tuple[int, np.ndarray]] = {}
    counted = 0
    for number in range(num_folds):
        place = finished.directory.parent / f"fold-{number}"
        fold = _judgement(place, finished.class_names)
        if fold is None:
            continue
        counted += 1
        examples, probabilities = fold
        each = zip(examples.sha256.tolist(), examples.label, probabilities, strict=True)
        for sha256, label, row in each:
            if sha256 in rows:
                by_photo[sha256] = int(label), row
    if counted < 2:
        return None
    return HeldOut(
        rows=[rows[sha256] for sha256 in by_photo],
        labels=np.array([label for label, _ in by_photo.values()], np.int64),
        probabilities=np.stack([row for _, row in by_photo.values()]),
        source=f"out-of-fold probabilities of {counted} of {num_folds} folds",
    )


def _num_folds(directory: Path) -> int:
    """Of the repeated training that a run is part of; 0 if it is none."""
    path = directory.parent / run_folder.REPEATS
    if not directory.name.startswith("fold-") or not path.exists():
        return 0
    try:
        found = int(json.loads(path.read_text(encoding="utf-8"))["settings"]["folds"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0  # what it says of others does not matter here
    return min(max(0, found), 1000)


def _judgement(
    place: Path, class_names: Sequence[str]
) -> tuple[stored_logits.Examples, np.ndarray] | None:
    """A fold's test photos and probabilities; None where it is not judged yet."""
    try:
        fold = finished_run.read(str(place))
    except DataError:
        return None
    digest = fold.config["data"]["manifest_digest"]
    path = fold.evaluation_path("test", digest).with_suffix(".npz")
    if tuple(fold.class_names) != tuple(class_names):
        return None
    if not stored_logits.is_of(
        path, model_sha256=fold.model_digest(), manifest_digest=digest
    ):
        return None
    examples = stored_logits.read(path, len(class_names))
    logits = examples.logits / fold.temperature
    return examples, np.exp(metrics.log_softmax(logits))
