"""Run a model over a split: every photo once in each view, in float32."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from model.evaluation.evaluation_settings import Config
from model.evaluation.predictions import Predictions
from model.loop import metrics, traced_function
from model.networks import batch_norm_folding
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest
from pipeline.records.manifest_row import Row
from pipeline.system import command_line
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
        return self.folder or str(self.records.directory)

    @property
    def rows(self) -> tuple[Row, ...]:
        """Manifest rows of the photos."""
        rows = self.records.included(*([] if self.split == "all" else [self.split]))
        return tuple(row for row in rows if row.path not in (self.left_out or ()))

    @property
    def sha256(self) -> set[str]:
        """SHA-256 of each photo's file."""
        return {row.sha256 for row in self.rows}


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
    compute = batch_norm_folding.folded(model)
    predict = traced_function.for_any_batch(
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
