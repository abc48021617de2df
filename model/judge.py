"""A model and a split -> logits of every photo, and the figures that follow."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model import loop, metrics, run
from pipeline import command, dataset, manifest, preprocess, schema

_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a model says of every photo of a split.

    Attributes:
        rows: the photos, in the manifest's order.
        labels: int64 [num_examples], 0-based.
        logits: float32 [num_examples, num_classes].
        class_names: in label order.
        temperature: that the logits are divided by for probabilities.
    """

    rows: Sequence[manifest.Row]
    labels: np.ndarray
    logits: np.ndarray
    class_names: Sequence[str]
    temperature: float

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
    spec: preprocess.InputSpec,
    *,
    batch_size: int,
    temperature: float,
    class_names: Sequence[str] = (),
) -> Judgement:
    """Runs a model over a split, every photo once.

    Args:
        model: keras.Model, image -> logits.
        found: the data set.
        split: of it; "" for all photos.
        spec: of the model's input.
        batch_size: photos per call.
        temperature: that the logits are divided by for probabilities.
        class_names: of the model; () for those of the data set. Labels are the data
            set's in any case.

    Raises:
        schema.DataError: the split is empty, the classes are not the model's, or not
            every photo came out once.
    """
    num_classes = model.output.shape[-1]
    class_names = class_names or found.class_names
    if num_classes != len(class_names):
        raise schema.DataError(
            f"{found.directory}: {len(found.class_names)} classes, but the network "
            f"tells {num_classes} apart; judge it on the records it was trained on"
        )
    split_data = dataset.Evaluation(found, split, spec, batch_size=batch_size)
    rows = split_data.images.rows
    if not rows:
        raise schema.DataError(
            f"{found.directory}: no photo in the {split or 'whole'} split; split "
            f"again with python -m pipeline.split {found.directory}"
        )
    step = loop.make_predict_step(model)
    logits = np.full((len(rows), num_classes), np.nan, np.float32)
    labels = np.full(len(rows), -1, np.int64)
    with command.progress(len(rows), "photo", split or "all") as progress:
        for batch in split_data:
            numbers = batch["row"].numpy()
            if (labels[numbers] >= 0).any():
                raise schema.DataError(f"{found.directory}: a photo came out twice")
            logits[numbers] = step(tf.cast(batch["image"], tf.float32)).numpy()
            labels[numbers] = batch["label"].numpy()
            progress.update(len(numbers))
    if (labels < 0).any():
        raise schema.DataError(f"{found.directory}: not every photo came out")
    return Judgement(
        rows=rows,
        labels=labels,
        logits=logits,
        class_names=class_names,
        temperature=temperature,
    )


def judge_run(
    finished: run.Finished,
    found: manifest.Manifest,
    split: str,
    *,
    batch_size: int = _BATCH_SIZE,
) -> dict[str, Any]:
    """Judges a run and writes evaluation/<split>.json and .npz.

    Args:
        finished: the run.
        found: records, those of the run or others.
        split: of them; "all" for all photos.
        batch_size: photos per call.

    Returns:
        What the .json holds, and under "written" its path.

    Raises:
        schema.DataError: see `judge`.
    """
    start = time.perf_counter()
    rows = found.taken(*([] if split == "all" else [split]))
    model = finished.load_model()
    loaded = time.perf_counter()
    judgement = judge(
        model,
        found,
        "" if split == "all" else split,
        finished.spec,
        batch_size=batch_size,
        temperature=finished.temperature,
    )
    judging_s = time.perf_counter() - loaded
    figures = {
        "run": finished.directory.name,
        "split": split,
        **judgement.figures(),
        "photos_seen": len(finished.seen_photos() & {row.sha256 for row in rows}),
        "data": {"path": str(found.directory), "manifest_digest": found.digest},
        "model_sha256": finished.model_digest(),
        "seconds": time.perf_counter() - start,
        "images_per_s": len(rows) / judging_s,
        "versions": run.versions(),
    }
    path = finished.evaluation_path(split, found.digest)
    path.parent.mkdir(exist_ok=True)
    with run.replacing(path.with_suffix(".npz")) as partial:
        judgement.save_examples(partial)
    with run.replacing(path) as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    figures["written"] = str(path)
    return figures
