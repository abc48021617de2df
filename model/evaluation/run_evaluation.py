"""Evaluate a run on a split and write the results to its evaluation folder.

Each photo is predicted once in each view, in float32.
"""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model.evaluation import stored_logits
from model.evaluation.evaluation_settings import Config
from model.evaluation.held_out import label_errors
from model.evaluation.stored_logits import Predictions
from model.loop import metrics
from model.networks import fast_graphs
from model.runs import run_folder
from model.runs.finished_run import FinishedRun
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest
from pipeline.records.manifest_row import Row
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """The photos of a split."""

    records: manifest.Manifest
    split: str  # "all" for all photos
    folder: str = ""  # of the photos as the user names it; "" for that of the records
    # Paths of photos that runs have seen; None if nobody has looked for them.
    left_out: frozenset[str] | None = None

    @property
    def name(self) -> str:
        """Name of the split in names of files."""
        return self.split if self.left_out is None else f"{self.split}-unseen"

    @property
    def source(self) -> str:
        """Folder of the photos or of the records, for messages and figures."""
        return file_system.named(self.folder or str(self.records.directory))

    @property
    def rows(self) -> tuple[Row, ...]:
        """Manifest rows of the photos."""
        rows = self.records.included(*([] if self.split == "all" else [self.split]))
        return tuple(row for row in rows if row.path not in (self.left_out or ()))

    @property
    def sha256(self) -> set[str]:
        """SHA-256 of each photo's file."""
        return {row.sha256 for row in self.rows}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """A run, its predictions for a split, and their figures."""

    run: FinishedRun
    data: EvaluationData
    model: Any  # keras.Model, image -> logits; None for folds
    predictions: Predictions
    figures: dict[str, Any]  # content of the .json
    path: Path  # of the .json
    # The runs of folds, by name; then each photo is predicted by the one that
    # `predictions.folds` names, and `model` is None.
    folds: Mapping[str, FinishedRun] = dataclasses.field(default_factory=dict)


def describe(run: FinishedRun) -> str:
    """Return one line on a run: its name, network, classes and test accuracy."""
    num_classes = len(run.class_names)
    line = f"run {run.directory.name}: {run.config['network']}, {num_classes} classes"
    if run.white_level:
        line += f", {run.white_level} is white in 16-bit pictures"
    path = stored_logits.find(run, "test", run.manifest_digest, by_anybody=True)
    if path is None:
        folder = run_folder.shown(run.directory)
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
    run: FinishedRun, data: EvaluationData, config: Config | None = None
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
    names = run.class_names
    predictions = evaluate_split(model, data, run.spec, config, class_names=names)
    predicting_s = time.perf_counter() - loaded
    known = {name: label for label, name in enumerate(names)}
    labels = np.array([known.get(name, -1) for name in records.class_names])
    predictions = dataclasses.replace(
        predictions, labels=labels[predictions.labels], temperature=run.temperature
    )
    predictions.save(path.with_suffix(".npz"))
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


def check_classes(run: FinishedRun, data: EvaluationData) -> None:
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


def _near_copies(run: FinishedRun, data: EvaluationData) -> dict[str, Any]:
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


def evaluate_split(
    model: Any,
    data: EvaluationData,
    spec: InputSpec,
    config: Config,
    *,
    class_names: Sequence[str] = (),
) -> Predictions:
    """Predict every photo of a split; return predictions with temperature 1.

    `class_names` are those of the model, by default those of the data set. The labels
    returned are the data set's in either case.
    """
    records, rows = data.records, data.rows
    class_names = class_names or records.class_names
    _check(model, data, len(class_names))
    images = image_batches.Images(records, rows, spec, batch_size=config.batch_size)
    views = views_of(config.tta, images.sizes, spec)
    compute = fast_graphs.folded(model)
    predict = fast_graphs.for_any_batch(
        lambda images: compute(tf.cast(images, tf.float32))
    )
    labels = np.full(len(rows), -1, np.int64)
    sums = np.zeros((len(rows), len(class_names)), np.float64)
    with command_line.progress(len(rows) * len(views), "photo", data.split) as progress:
        for view in views:
            for batch in images.run(np.arange(len(rows)), view):
                numbers = batch["row"].numpy()
                labels[numbers] = batch["label"].numpy()
                logits = predict(batch["image"]).numpy()
                # A single view stays as it is, to the bit. Several give the geometric
                # mean of their probabilities, which a temperature still calibrates.
                sums[numbers] += (
                    metrics.log_softmax(logits) if len(views) > 1 else logits
                )
                progress.update(len(numbers))
    return Predictions(
        rows=rows,
        labels=labels,
        logits=(sums / len(views)).astype(np.float32),
        class_names=class_names,
        tta=config.tta,
    )


def _check(model: Any, data: EvaluationData, num_classes: int) -> None:
    records = data.records
    if (num_outputs := model.output.shape[-1]) != num_classes:
        raise DataError(
            f"{records.directory}: the records have {len(records.class_names)} "
            f"classes, but the network has {num_outputs}. Evaluate it on its own "
            "records."
        )
    if not data.rows:
        split = "whole" if data.split == "all" else data.split
        raise DataError(
            f"{records.directory}: the {split} split has no photos. Make a new split "
            f"with: python -m pipeline.split {records.directory}"
        )


def views_of(
    tta: str, sizes: np.ndarray, spec: InputSpec
) -> list[crop_and_resize.Views]:
    """Return the views to average over.

    "none" is the central crop; "flip" adds its mirror image; "ten_crop" has the central
    crop and those in the four corners, each with its mirror image. `sizes` are height
    and width of the stored images, int [num_images, 2], in pixels.

    Source: Krizhevsky et al. 2012, section 4.1.
    """
    views = [crop_and_resize.central_views(sizes, spec)]
    if tta == "ten_crop":
        views = list(crop_and_resize.cornered_views(sizes, spec))
    if tta != "none":
        mirrored = np.ones(len(sizes), np.bool_)
        views += [dataclasses.replace(view, mirrored=mirrored) for view in views]
    return views
