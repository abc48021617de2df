"""Read photos that a run was not trained on, and the run's probabilities for them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from model.evaluation import run_evaluation, stored_logits
from model.evaluation.run_evaluation import EvaluationData
from model.loop import metrics
from model.runs import finished_run
from pipeline.batches import image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest
from pipeline.records.manifest_row import Row
from pipeline.system import command_line

SPLIT = "test"
_CALIBRATION_PHOTOS = 128  # TensorFlow's guides recommend 100 to 500
_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldoutPhotos:
    """The test photos of a run, with the probabilities that evaluate.py stored."""

    records: manifest.Manifest
    rows: tuple[Row, ...]
    labels: np.ndarray  # int64 [num_photos], 0-based
    probabilities: np.ndarray  # float64 [num_photos, num_classes], calibrated

    def accuracy(self, probabilities: np.ndarray) -> float:
        """Return the share of photos whose most probable class is right, 0..1."""
        return float((probabilities.argmax(axis=1) == self.labels).mean())


def load(run: finished_run.FinishedRun, data: str = "") -> HeldoutPhotos:
    """Load the test photos; evaluate the run on them first if that was not done."""
    records = run.read_records(data)
    manifest.check_files(records)
    path = stored_logits.find(run, SPLIT, records.digest)
    if path is None:
        command_line.log(
            f"{run.directory.name} was not evaluated with these weights yet; "
            f"evaluating it on its {SPLIT} photos"
        )
        photos = EvaluationData(records=records, split=SPLIT)
        evaluation = run_evaluation.evaluate_run(run, photos)
        path = evaluation.path.with_suffix(".npz")
    examples = stored_logits.read(path)
    rows = records.included(SPLIT)
    logits = examples.logits.astype(np.float64) / run.temperature
    return HeldoutPhotos(
        records=records,
        rows=rows,
        labels=examples.label,
        probabilities=np.exp(metrics.log_softmax(logits)),
    )


def fill_views(
    records: manifest.Manifest, rows: Sequence[Row], spec: InputSpec, views: np.ndarray
) -> None:
    """Fill uint8 [num_rows, size_px, size_px, 3] with photos as a network sees them."""
    for batch in image_batches.Images(records, rows, spec, batch_size=_BATCH_SIZE):
        views[batch["row"].numpy()] = batch["image"].numpy()


def calibration_views(records: manifest.Manifest, spec: InputSpec) -> list[np.ndarray]:
    """Read training photos as a network sees them: uint8 [size_px, size_px, 3] each."""
    rows = records.included("train")
    return list(image_batches.sample(records, rows, spec, _CALIBRATION_PHOTOS))
