"""A run -> photos that it has not trained on, and what it says of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from model.evaluation import evaluate_split, stored_logits
from model.loop import metrics
from model.runs import finished_run, run_records
from pipeline.batches import dataset, preprocess
from pipeline.images import record_image
from pipeline.records import manifest
from pipeline.system import command_line
from pipeline.system.errors import DataError

SPLIT = "test"
_CALIBRATION_PHOTOS = 128  # TensorFlow's guides say 100 to 500
_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The test photos of a run, and its answers as evaluate.py stored them.

    Attributes:
        found: the records.
        rows: of the test split.
        labels: int64 [num_examples], 0-based.
        probabilities: float64 [num_examples, num_classes], calibrated.
    """

    found: manifest.Manifest
    rows: tuple[manifest.Row, ...]
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def accuracy(self) -> float:
        """Of the run, 0..1."""
        return accuracy(self.probabilities, self.labels)

    def sample(self, count: int) -> np.ndarray:
        """int64 [at most `count`]: photos spread evenly over the split."""
        return spread(len(self.rows), count)

    def encoded(self, indices: np.ndarray) -> list[bytes]:
        """The photos as the records hold them, JPEG or PNG files.

        Raises:
            DataError: a record is damaged.
        """
        return dataset.read_encoded(self.found, [self.rows[n] for n in indices])


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of photos whose likeliest class is theirs, 0..1."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def spread(total: int, count: int) -> np.ndarray:
    """int64 [min(total, count)]: indices below `total`, evenly apart."""
    return np.arange(min(total, count)) * total // min(total, count)


def of_run(finished: finished_run.FinishedRun, data: str = "") -> HeldOut:
    """Reads them; the run is judged if that was not done, or with other weights.

    Args:
        finished: the run.
        data: of own_records.read.

    Raises:
        DataError: the records are gone, changed, or have no test split.
    """
    found = run_records.read(finished, data)
    manifest.check_files(found)
    path = finished.evaluation_path(SPLIT, found.digest).with_suffix(".npz")
    digest = finished.model_digest()
    if not stored_logits.is_of(path, model_sha256=digest, manifest_digest=found.digest):
        name = finished.directory.name
        command_line.log(
            f"{name}: not judged on its {SPLIT} photos yet; judging it now"
        )
        evaluate_split.judge_run(finished, found, SPLIT)
    examples = stored_logits.read(path, len(finished.class_names))
    rows = found.included(SPLIT)
    if [row.sha256 for row in rows] != examples.sha256.tolist():
        raise DataError(
            f"{path}: photos other than those of the records' {SPLIT} split; remove "
            "it, and the run is judged again"
        )
    logits = examples.logits.astype(np.float64) / finished.temperature
    return HeldOut(
        found=found,
        rows=rows,
        labels=examples.label,
        probabilities=np.exp(metrics.log_softmax(logits)),
    )


def views(
    found: manifest.Manifest,
    rows: Sequence[manifest.Row],
    spec: preprocess.InputSpec,
    out: np.ndarray,
) -> None:
    """Fills uint8 [num_rows, size_px, size_px, 3]: the photos as a network sees them.

    Raises:
        DataError: a record is damaged.
    """
    photos = dataset.Images(found, rows, spec, batch_size=_BATCH_SIZE)
    central = preprocess.central_views(photos.sizes, spec)
    for batch in photos.run(np.arange(len(rows)), central):
        out[batch["row"].numpy()] = batch["image"].numpy()


def calibration(
    found: manifest.Manifest, spec: preprocess.InputSpec
) -> list[np.ndarray]:
    """Training photos as a network sees them, uint8 [size_px, size_px, 3] each.

    Raises:
        DataError: a record is damaged.
    """
    taken = found.included("train")
    rows = [taken[n] for n in spread(len(taken), _CALIBRATION_PHOTOS)]
    size_px = spec.size_px
    pixels = np.zeros((len(rows), size_px, size_px, 3), np.uint8)
    views(found, rows, spec, pixels)
    return list(pixels)


def upright_pixels(encoded: bytes) -> np.ndarray:
    """A record's photo as uint8 [height, width, 3], RGB."""
    return record_image.decode_record(encoded)
