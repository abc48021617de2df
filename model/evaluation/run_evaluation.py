"""Evaluate a run on a split and write the results to its evaluation folder."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import (
    label_errors,
    split_evaluation,
    stored_logits,
    test_time_augmentation,
)
from model.evaluation.predictions import Predictions
from model.runs import finished_run, run_folder
from pipeline.records import manifest
from pipeline.system import file_system
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """A run, its predictions for a split, and their figures.

    Attributes:
        records: records that the predictions were made on.
        split: name of the split; "all" for all photos.
        model: keras.Model, image -> logits.
        unseen: predictions for photos the model was not trained on, from which label
            errors are found.
        figures: content of the .json.
        path: path of the .json.
    """

    run: finished_run.FinishedRun
    records: manifest.Manifest
    split: str
    model: Any
    predictions: Predictions
    unseen: label_errors.UnseenPhotos
    figures: dict[str, Any]
    path: Path

    @property
    def on_own_records(self) -> bool:
        """Whether the run was trained on these records."""
        return self.records.digest == self.run.manifest_digest


def describe(run: finished_run.FinishedRun) -> str:
    """Return one line on a run: its name, network, classes and test accuracy."""
    num_classes = len(run.class_names)
    line = f"run {run.directory.name}: {run.config['network']}, {num_classes} classes"
    path = stored_logits.find(run, "test", run.manifest_digest)
    if path is None:
        folder = os.path.relpath(run.directory)
        return f"{line}, not evaluated yet: python evaluate.py --run_dir={folder}"
    figures = stored_logits.read_figures(path.with_suffix(".json"))
    low, high = figures["accuracy_ci95"]
    return (
        f"{line}, accuracy {figures['accuracy']:.3f} on {figures['num_examples']} test "
        f"photos (95 % interval {low:.3f} to {high:.3f})"
    )


def evaluate_run(
    run: finished_run.FinishedRun,
    records: manifest.Manifest,
    split: str,
    options: split_evaluation.EvaluationOptions = split_evaluation.DEFAULT,
    *,
    source: str = "",
) -> RunEvaluation:
    """Evaluate a run and write evaluation/<split>.json and .npz.

    With test-time augmentation the files are called <split>-<tta>. `source` is the
    folder of the photos in the .json, by default that of the records.

    Raises:
        DataError: the records cannot be evaluated, or the figures cannot be written.
    """
    labels = _label_of_each(run, records)
    path = _writable_path(run, records, split, options.tta)
    start = time.perf_counter()
    model = run.load_model()
    loaded = time.perf_counter()
    predictions = split_evaluation.evaluate_split(
        model, records, split, run.spec, options, class_names=run.class_names
    )
    predicting_s = time.perf_counter() - loaded
    predictions = dataclasses.replace(
        predictions, labels=labels[predictions.labels], temperature=run.temperature
    )
    with file_system.replacing(path.with_suffix(".npz")) as partial:
        predictions.save(partial)
    seen_photos = run.seen_photos()
    unseen = label_errors.unseen_photos(run, records, predictions, seen_photos)
    figures = {
        "run": run.directory.name,
        "split": split,
        **predictions.figures(),
        "label_doubts": unseen.figures(predictions.class_names),
        "photos_seen": len(seen_photos & {row.sha256 for row in predictions.rows}),
        "data": {
            "path": source or str(records.directory),
            "manifest_digest": records.digest,
        },
        "model_sha256": run.model_digest(),
        "seconds": time.perf_counter() - start,
        "images_per_s": len(predictions.rows) / predicting_s,
        "versions": run_folder.versions(),
    }
    stored_logits.write_figures(path, figures)
    return RunEvaluation(
        run=run,
        records=records,
        split=split,
        model=model,
        predictions=predictions,
        unseen=unseen,
        figures=figures,
        path=path,
    )


def _writable_path(
    run: finished_run.FinishedRun, records: manifest.Manifest, split: str, tta: str
) -> Path:
    """Return the path of the .json, in a folder that exists and can be written to."""
    name = split if tta == test_time_augmentation.NONE else f"{split}-{tta}"
    path = run.evaluation_path(name, records.digest)
    path.parent.mkdir(exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise run_folder.RunError(
            f"{path.parent}: permission denied. The figures and the report are written "
            "there: change the permissions, or copy the run to another folder."
        )
    return path


def _label_of_each(
    run: finished_run.FinishedRun, records: manifest.Manifest
) -> np.ndarray:
    """Return the run's label of each class of the records, int64 [num_classes]."""
    for name in records.class_names:
        if name not in run.class_names:
            raise DataError(
                f"{records.directory}: class {name} is unknown to run "
                f"{run.directory.name} (classes: {', '.join(run.class_names)}). "
                "Evaluate the run on its own records, or on photos of these classes."
            )
    labels = [run.class_names.index(name) for name in records.class_names]
    return np.array(labels, np.int64)
