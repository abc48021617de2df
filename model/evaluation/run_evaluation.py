"""Evaluate a run on a split and write the results to its evaluation folder."""

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import split_evaluation, stored_logits
from model.evaluation.evaluation_settings import Config
from model.evaluation.held_out import label_errors
from model.evaluation.predictions import Predictions
from model.evaluation.split_evaluation import EvaluationData
from model.runs import finished_run, run_folder
from pipeline.system import file_system
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """A run, its predictions for a split, and their figures."""

    run: finished_run.FinishedRun
    data: EvaluationData
    model: Any  # keras.Model, image -> logits; None for folds
    predictions: Predictions
    figures: dict[str, Any]  # content of the .json
    path: Path  # of the .json
    # The runs of folds, by name; then each photo is predicted by the one that
    # `predictions.folds` names, and `model` is None.
    folds: Mapping[str, finished_run.FinishedRun] = dataclasses.field(
        default_factory=dict
    )


def describe(run: finished_run.FinishedRun) -> str:
    """Return one line on a run: its name, network, classes and test accuracy."""
    num_classes = len(run.class_names)
    line = f"run {run.directory.name}: {run.config['network']}, {num_classes} classes"
    if run.white_level:
        line += f", {run.white_level} is white in 16-bit pictures"
    path = stored_logits.find(run, "test", run.manifest_digest, by_anybody=True)
    if path is None:
        folder = os.path.relpath(run.directory)
        return f"{line}, not evaluated yet: python evaluate.py --run_dir={folder}"

    def accuracy(figures: Any) -> str:
        low, high = figures["accuracy_ci95"]
        return (
            f"accuracy {figures['accuracy']:.3f} on {figures['num_examples']} test "
            f"photos (95 % interval {low:.3f} to {high:.3f}), balanced accuracy "
            f"{figures['balanced_accuracy']:.3f}"
        )

    path = path.with_suffix(".json")
    return f"{line}, {stored_logits.read_figures(path, accuracy)}"


def evaluate_run(
    run: finished_run.FinishedRun, data: EvaluationData, config: Config | None = None
) -> RunEvaluation:
    """Evaluate a run and write evaluation/<split>.json and .npz.

    With test-time augmentation the files are called <split>-<tta>. All classes of the
    records must be among the run's.
    """
    check_classes(run, data)
    config = config or Config()
    records, split, tta = data.records, data.split, config.tta
    name = data.name if tta == "none" else f"{data.name}-{tta}"
    path = run.evaluation_path(name, records.digest)
    _make_writable_folder(path.parent)
    start = time.perf_counter()
    model = run.load_model()
    loaded = time.perf_counter()
    predictions = split_evaluation.evaluate_split(
        model, data, run.spec, config, class_names=run.class_names
    )
    predicting_s = time.perf_counter() - loaded
    known = {name: label for label, name in enumerate(run.class_names)}
    labels = np.array([known.get(name, -1) for name in records.class_names])
    predictions = dataclasses.replace(
        predictions, labels=labels[predictions.labels], temperature=run.temperature
    )
    with file_system.replacing(path.with_suffix(".npz")) as partial:
        predictions.save(partial)
    seen_photos = run.seen_photos()
    doubts = label_errors.of_run(run, records, predictions, seen_photos)
    figures = {
        "run": run.directory.name,
        "split": split,
        **predictions.figures(),
        "label_doubts": doubts,
        "photos_seen": len(seen_photos & data.sha256),
        "near_copies": _near_copies(run, data),
        "data": {"path": data.source, "manifest_digest": records.digest},
        "model_sha256": run.model_digest(),
        "precision": "float32",
        "training_precision": run.config.get("precision", ""),
        "seconds": time.perf_counter() - start,
        "images_per_s": len(predictions.rows) / predicting_s,
        "versions": run_folder.versions(),
    }
    stored_logits.write_sealed(path, figures)
    return RunEvaluation(
        run=run,
        data=data,
        model=model,
        predictions=predictions,
        figures=figures,
        path=path,
    )


def check_classes(run: finished_run.FinishedRun, data: EvaluationData) -> None:
    """Raise DataError if a run does not know a class of the data."""
    found = {row.class_name for row in data.rows}
    if data.left_out is None:
        found = set(data.records.class_names)
    if not found <= set(run.class_names):
        raise DataError(
            f"{data.source}: the classes do not match run {run.directory.name}. "
            f"Expected some or all of {', '.join(run.class_names)}, found "
            f"{', '.join(data.records.class_names)}."
        )


def _near_copies(run: finished_run.FinishedRun, data: EvaluationData) -> dict[str, Any]:
    """Return which photos look like training photos, or {"not_searched": reason}."""
    if data.records.digest != run.manifest_digest:
        return {"not_searched": "these are not the records of the training"}
    paths, content = {row.path for row in data.rows}, run.near_copies()
    if not content:
        return {
            "not_searched": "the training cached no features. A training that leaves "
            "the layers below the head frozen searches these records"
        }
    photos = [photo for photo in content["photos"] if photo["path"] in paths]
    return content | {"photos": photos}


def _make_writable_folder(folder: Path) -> None:
    file_system.prepare_folder(folder)
    if not os.access(folder, os.W_OK):
        raise run_folder.RunError(
            f"{folder}: permission denied. The figures and the report are written "
            "there: change the permissions, or copy the run to another folder."
        )
