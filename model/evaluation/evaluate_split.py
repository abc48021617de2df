"""A model and a split -> logits of every photo, and the figures that follow."""

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import (
    calibration,
    final_features,
    test_time_augmentation,
    unseen_photos,
)
from model.loop import metrics
from model.runs import finished_run, run_folder
from pipeline.batches import dataset
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """How photos are looked at.

    Attributes:
        batch_size: photos per call of the network.
        tta: views of each photo whose answers are averaged; one of views.CHOICES.
        num_features: photos of which to keep what the final layer sees, evenly spread
            over all of them; more than there are for all. Needs a network of a run.
    """

    batch_size: int = 64
    tta: str = test_time_augmentation.NONE
    num_features: int = 0


PLAIN = How()


def _no_numbers() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a model says of every photo of a split.

    Attributes:
        rows: the photos, in the manifest's order.
        labels: int64 [num_examples], 0-based.
        logits: float32 [num_examples, num_classes]; of several views their mean, see
            views.Mean.
        class_names: in label order.
        temperature: that the logits are divided by for probabilities.
        tta: which views of each photo; one of views.CHOICES.
        examples: int64 [num_kept], the photos whose features were kept.
        features: float32 [num_kept, num_features]: what the final layer sees of them in
            their central window; None if not asked for.
    """

    rows: Sequence[manifest.Row]
    labels: np.ndarray
    logits: np.ndarray
    class_names: Sequence[str]
    temperature: float = 1.0
    tta: str = test_time_augmentation.NONE
    examples: np.ndarray = dataclasses.field(default_factory=_no_numbers)
    features: np.ndarray | None = None

    def probabilities(self) -> np.ndarray:
        """Calibrated, float64 [num_examples, num_classes], rows summing to 1."""
        return np.exp(metrics.log_softmax(self.logits / self.temperature))

    def figures(self) -> dict[str, Any]:
        """Everything evaluation/<split>.json holds about the photos."""
        predicted = self.logits.argmax(axis=1)
        hits = int((predicted == self.labels).sum())
        confusion = metrics.confusion_matrix(
            self.labels, predicted, len(self.class_names)
        )
        by_class = [
            {"class_name": name, **row}
            for name, row in zip(
                self.class_names, metrics.per_class(confusion), strict=True
            )
        ]
        return {
            "num_examples": len(self.labels),
            "accuracy": metrics.accuracy(self.logits, self.labels),
            "accuracy_ci95": list(metrics.wilson_interval(hits, len(self.labels))),
            "top5_accuracy": metrics.top_k_accuracy(self.logits, self.labels, 5),
            "loss": metrics.mean_loss(self.logits, self.labels),
            "calibrated_loss": metrics.mean_loss(
                self.logits / self.temperature, self.labels
            ),
            "temperature": self.temperature,
            **calibration.figures(
                np.exp(metrics.log_softmax(self.logits)),
                self.probabilities(),
                self.labels,
            ),
            "tta": self.tta,
            "largest_class_share": float(
                confusion.sum(axis=1).max() / len(self.labels)
            ),
            "class_names": list(self.class_names),
            "confusion_matrix": confusion.tolist(),
            "per_class": by_class,
            "errors": self.errors(),
        }

    def errors(self) -> list[dict[str, Any]]:
        """The photos taken for another class, the surest mistakes first."""
        probabilities = self.probabilities()
        predicted = self.logits.argmax(axis=1)
        wrong = np.flatnonzero(predicted != self.labels)
        surest = wrong[
            np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")
        ]
        return [
            {
                "path": self.rows[n].path,
                "true": self.class_names[self.labels[n]],
                "predicted": self.class_names[predicted[n]],
                "probability": float(probabilities[n, predicted[n]]),
            }
            for n in surest
        ]

    def save_examples(self, path: Path) -> None:
        """Writes SHA-256, path, label and logits of every photo as .npz."""
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                sha256=np.array([row.sha256 for row in self.rows]),
                path=np.array([row.path for row in self.rows]),
                label=self.labels,
                logits=self.logits,
            )


def judge(
    model: Any,
    found: manifest.Manifest,
    split: str,
    spec: InputSpec,
    how: How = PLAIN,
    *,
    class_names: Sequence[str] = (),
) -> Judgement:
    """Runs a model over a split, every photo once in each view.

    Args:
        model: keras.Model, image -> logits.
        found: the data set.
        split: of it; "" for all photos.
        spec: of the model's input.
        how: views, batches.
        class_names: of the model; () for those of the data set. Labels are the data
            set's in any case.

    Returns:
        A judgement with temperature 1.

    Raises:
        DataError: the split is empty, the classes are not the model's, or not
            every photo came out once.
    """
    num_classes = model.output.shape[-1]
    class_names = class_names or found.class_names
    if num_classes != len(class_names):
        raise DataError(
            f"{found.directory}: {len(found.class_names)} classes, but the network "
            f"tells {num_classes} apart; judge it on the records it was trained on"
        )
    split_data = dataset.Evaluation(found, split, spec, batch_size=how.batch_size)
    rows = split_data.images.rows
    if not rows:
        raise DataError(
            f"{found.directory}: no photo in the {split or 'whole'} split; split "
            f"again with python -m pipeline.split {found.directory}"
        )
    seen = test_time_augmentation.of(how.tta, split_data.images.sizes, spec)
    mean = test_time_augmentation.Mean(len(seen), (len(rows), num_classes))
    labels = np.full(len(rows), -1, np.int64)
    probe = final_features.Probe(model, len(rows), how.num_features)
    total = len(rows) * len(seen)
    with command_line.progress(total, "photo", split or "all") as progress:
        for view in seen:
            for batch in split_data.seen_by(view):
                numbers = batch["row"].numpy()
                mean.add(numbers, probe.logits(numbers, batch["image"]))
                labels[numbers] = batch["label"].numpy()
                progress.update(len(numbers))
            probe.only_logits()
    if not mean.complete:
        raise DataError(
            f"{found.directory}: not every photo came out once; convert again"
        )
    return Judgement(
        rows=rows,
        labels=labels,
        logits=mean.logits(),
        class_names=class_names,
        tta=how.tta,
        examples=probe.examples,
        features=probe.features,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """A run's judgement, as its folder holds it now.

    Attributes:
        finished: the run.
        found: records that it was judged on.
        split: of them; "all" for all photos.
        model: keras.Model, image -> logits.
        judgement: of every photo.
        held_out: photos by which labels are doubted.
        figures: what the .json holds.
        path: of the .json.
    """

    finished: finished_run.FinishedRun
    found: manifest.Manifest
    split: str
    model: Any
    judgement: Judgement
    held_out: unseen_photos.HeldOut
    figures: dict[str, Any]
    path: Path

    @property
    def own_records(self) -> bool:
        """Whether the run was trained on these records."""
        expected = self.finished.config["data"]["manifest_digest"]
        return bool(self.found.digest == expected)


def judge_run(
    finished: finished_run.FinishedRun,
    found: manifest.Manifest,
    split: str,
    how: How = PLAIN,
    *,
    source: str = "",
) -> Judged:
    """Judges a run and writes evaluation/<split>.json and .npz.

    Averaged views have names of their own, <split>-<tta>, so that they are never taken
    for the plain figures.

    Args:
        finished: the run.
        found: records, those of the run or others, of all or some of its classes.
        split: of them; "all" for all photos.
        how: views, batches.
        source: folder that the photos are from; "" for that of the records.

    Raises:
        DataError: see `judge`; or a class is none of the run's, or the run's
            folder cannot be written to.
    """
    label_of_each = _label_of_each(finished, found)
    name = split if how.tta == test_time_augmentation.NONE else f"{split}-{how.tta}"
    path = finished.evaluation_path(name, found.digest)
    path.parent.mkdir(exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise run_folder.RunError(
            f"{path.parent}: cannot be written to, but figures and report belong "
            "there; allow it, or copy the run to where you may"
        )
    start = time.perf_counter()
    model = finished.load_model()
    loaded = time.perf_counter()
    whole = "" if split == "all" else split
    names = finished.class_names
    judgement = judge(model, found, whole, finished.spec, how, class_names=names)
    judgement = dataclasses.replace(
        judgement,
        labels=label_of_each[judgement.labels],
        temperature=finished.temperature,
    )
    judging_s = time.perf_counter() - loaded
    with file_system.replacing(path.with_suffix(".npz")) as partial:
        judgement.save_examples(partial)
    seen = finished.seen_photos()
    unseen = _held_out(finished, found, judgement, seen)
    figures = {
        "run": finished.directory.name,
        "split": split,
        **judgement.figures(),
        "label_doubts": unseen.doubts(judgement.class_names),
        "photos_seen": len(seen & {row.sha256 for row in judgement.rows}),
        "data": {
            "path": source or str(found.directory),
            "manifest_digest": found.digest,
        },
        "model_sha256": finished.model_digest(),
        "seconds": time.perf_counter() - start,
        "images_per_s": len(judgement.rows) / judging_s,
        "versions": run_folder.versions(),
    }
    with file_system.replacing(path) as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    figures["written"] = str(path)
    return Judged(
        finished=finished,
        found=found,
        split=split,
        model=model,
        judgement=judgement,
        held_out=unseen,
        figures=figures,
        path=path,
    )


def _label_of_each(
    finished: finished_run.FinishedRun, found: manifest.Manifest
) -> np.ndarray:
    """int64 [num_classes of the data]: the run's label of each, by its name.

    Raises:
        DataError: a class is none of the run's.
    """
    labels = {name: label for label, name in enumerate(finished.class_names)}
    for name in found.class_names:
        if name not in labels:
            raise DataError(
                f"{found.directory}: class {name} is none of {finished.directory.name} "
                f"({', '.join(finished.class_names)}); judge it on the records it was "
                "trained on, or on photos of its classes"
            )
    return np.array([labels[name] for name in found.class_names], np.int64)


def _held_out(
    finished: finished_run.FinishedRun,
    found: manifest.Manifest,
    judgement: Judgement,
    seen: set[str],
) -> unseen_photos.HeldOut:
    """Of the photos judged here, and of all folds if the run is one of them."""
    here = unseen_photos.of_split(
        judgement.rows, judgement.labels, judgement.probabilities(), seen
    )
    folds = unseen_photos.of_folds(finished, found)
    return folds if folds and len(folds.labels) > len(here.labels) else here
