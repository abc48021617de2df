"""Score how unlike the training photos a photo is, by the features of a network.

The features of a photo, scaled to length 1, have a distance from the nearest class mean
(Mahalanobis's, with one covariance for all classes: the variances of the directions in
which photos of a class differ most, and one variance for all other directions). The
score is that distance divided by a threshold, which 5 % of photos of the classes reach.
On flowers against cats, dogs and CIFAR photos it separated as well as the nearest
training photos do (see benchmarks/RESULTS.md), and needs no training photos.

Sources: Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution
Samples and Adversarial Attacks" (distance); Tipping and Bishop 1999, "Probabilistic
Principal Component Analysis" (covariance).
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from model.checkpoints import errors, npy
from model.loop.inputs import feature_cache, near_copies
from model.loop.training_loop import Source
from model.networks import head
from model.runs.run_folder import RunFolder
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

THRESHOLD = 1.0  # a photo with this score or more is unlike the training photos
FALSE_ALARMS = 0.05  # share of photos of the classes that reach it
FILE_NAME = "strangers.npz"  # in the folder of a run
MAX_TRAINING = 50_000  # photos; of more, an even selection is used
# Fewer validation photos cannot show what 5 % reach, so training photos are added.
_LEAST_VALIDATION = 19
_MOST_DIRECTIONS = 128
_COVARIANCE_PHOTOS = 1024  # evenly spread; more take minutes
_FOLDS = 5
_MAX_BYTES = 1 << 30

Batches = Iterable[tuple[Any, Any]]  # features [num_photos, ...] and labels, 0-based


class NoScore(DataError):
    """The training photos do not allow a stranger score, for the reason stated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer:
    """Class means and covariance of training photos; content of strangers.npz.

    For features x of length 1, and c = x - mean, the score is the square root of the
    smallest of the numbers scale |c|^2 - |c directions|^2 + c weights + offsets, one
    per class.
    """

    mean: np.ndarray  # float32 [num_features]
    directions: np.ndarray  # float32 [num_features, num_directions]
    weights: np.ndarray  # float32 [num_features, num_classes]
    offsets: np.ndarray  # float32 [num_classes]
    scale: float  # above 0
    num_validation: int = 0  # photos that set the threshold; 0: training photos did

    def scores(self, features: Any) -> np.ndarray:
        """Return scores, float64 [num_photos], 0 or more, of inputs of the head."""
        return self._distances(_vectors(features))

    def _distances(self, vectors: np.ndarray) -> np.ndarray:
        centred = vectors - self.mean
        common = self.scale * np.square(centred).sum(1)
        common -= np.square(centred @ self.directions).sum(1)
        of_class = (centred @ self.weights + self.offsets).min(1)
        return np.sqrt(np.maximum(0, common + of_class).astype(np.float64))

    def _divided(self, threshold: float) -> "Scorer":
        """Return the scorer whose scores are these divided by a threshold."""
        square = np.float32(threshold**2)
        return dataclasses.replace(
            self,
            directions=self.directions / np.float32(threshold),
            weights=self.weights / square,
            offsets=self.offsets / square,
            scale=self.scale / threshold**2,
        )


def write(
    folder: RunFolder, model: Any, source: Source, num_classes: int, num_training: int
) -> None:
    """Write strangers.npz of a run, or log why there can be no scores.

    `model` is the trained network, or only its tail if `source` has features for it.
    """
    inputs = head.input_tensor(model)  # None: cached features are the input of the head
    part = keras.Model(model.input, model.input if inputs is None else inputs)
    run = feature_cache.as_stored(part, np.float32)
    training = source.central_training(MAX_TRAINING)
    try:
        scorer = fit(
            ((run(images), labels) for images, labels in training),
            ((run(images), labels) for images, labels in source.validation()),
            num_training=min(num_training, MAX_TRAINING),
            num_classes=num_classes,
        )
    except NoScore as error:
        command_line.log(f"note: the run has no stranger score. {error}")
        return
    if not scorer.num_validation:
        command_line.log(
            "note: there are few validation photos, so training photos, left out in "
            "turn, help to set the threshold of the stranger score"
        )
    arrays = {name: np.float32(value) for name, value in vars(scorer).items()}
    identity = np.frombuffer(folder.identity.encode(), np.uint8)
    path = folder.directory / FILE_NAME
    with file_system.replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, run=identity, **arrays)  # type: ignore[arg-type]


def fit(
    training: Batches, validation: Batches, *, num_training: int, num_classes: int
) -> Scorer:
    """Fit the distance to training photos, and the threshold to validation photos.

    Batches hold the input of the network's head; `training` has `num_training` photos.
    Raises NoScore if there are too few photos, or all are alike.
    """
    sums: Any = 0.0
    counts = np.zeros(num_classes)
    step = max(1, math.ceil(num_training / _COVARIANCE_PHOTOS))
    vectors, labels, start = [], [], 0
    for features, of_batch in training:
        batch, of_batch = _vectors(features), np.asarray(of_batch)
        of_class = np.eye(num_classes, dtype=np.float32)[of_batch]
        sums = sums + np.float64(of_class.T @ batch)
        counts += of_class.sum(0)
        vectors.append(batch[-start % step :: step])
        labels.append(of_batch[-start % step :: step])
        start += len(batch)
    if not start or not np.isfinite(sums).all():
        raise NoScore("The features of training photos are infinite or NaN.")
    present = np.flatnonzero(counts)
    means = sums[present] / counts[present, None]
    places = np.searchsorted(present, np.concatenate(labels))
    sample = np.concatenate(vectors)
    scorer = _fit(sample, places, means, start)
    return _with_threshold(scorer, validation, sample, places)


def _fit(
    vectors: np.ndarray, labels: np.ndarray, means: np.ndarray, num_averaged: int
) -> Scorer:
    """Fit the distance to vectors, float32 [num_photos, num_features], of length 1.

    `means` are those of the classes, of `num_averaged` photos in all.
    """
    mean, (num_photos, num_features) = vectors.mean(0), vectors.shape
    within = vectors - means.astype(np.float32)[labels]
    freedom = min(num_averaged - len(means), num_photos, num_features)
    # within.T maps the eigenvectors of this product to those of the covariance.
    squares, seen = np.linalg.eigh((within @ within.T).astype(np.float64))
    total = squares.sum()
    if freedom < 1 or total / num_photos < 1e-9:
        raise NoScore(
            f"{num_averaged} training photos of {len(means)} classes are too few, or "
            "their features are all alike."
        )
    count = min(_MOST_DIRECTIONS, freedom // 2)
    squares, seen = squares[len(squares) - count :], seen[:, len(squares) - count :]
    least = 1e-6 * total / num_photos / freedom
    variances = np.maximum(squares / num_photos, least)
    rest = max((total / num_photos - variances.sum()) / (freedom - count), least)
    directions = within.T @ (seen / np.sqrt(variances * num_photos))
    # The inverse covariance is 1 / rest, but 1 / variance in these directions.
    directions *= np.sqrt(np.maximum(0, 1 / rest - 1 / variances))
    centres = means - mean
    weights = centres.T / rest - directions @ (directions.T @ centres.T)
    scorer = Scorer(
        mean=mean,
        directions=directions.astype(np.float32),
        weights=(-2 * weights).astype(np.float32),
        offsets=(centres.T * weights).sum(0).astype(np.float32),
        scale=float(1 / rest),
    )
    # So that scores do not grow with the number of photos in a fold.
    return scorer._divided(math.sqrt(freedom))


def _with_threshold(
    scorer: Scorer, validation: Batches, vectors: np.ndarray, labels: np.ndarray
) -> Scorer:
    """Set the threshold by validation photos, or by training photos left out in turn.

    It is the smallest distance that a new photo of the classes exceeds in at most 5 %
    of cases (split conformal prediction, Vovk et al. 2005).
    """
    parts = [scorer._distances(_vectors(features)) for features, _ in validation]
    distances = np.concatenate([*parts, np.zeros(0)])
    from_validation = len(distances) >= _LEAST_VALIDATION
    if not from_validation:
        folds = np.arange(len(vectors)) % _FOLDS
        for fold in range(_FOLDS):
            left, others = folds == fold, labels[folds != fold]
            present, places = np.unique(others, return_inverse=True)
            vectors_left = vectors[folds != fold]
            means = [vectors_left[others == label].mean(0) for label in present]
            fitted = _fit(vectors_left, places, np.stack(means), len(vectors_left))
            known = left & np.isin(labels, present)
            distances = np.append(distances, fitted._distances(vectors[known]))
    count = len(distances)
    rank = min(count, math.ceil((count + 1) * (1 - FALSE_ALARMS)))
    threshold = float(np.sort(distances)[rank - 1])
    if not 0 < threshold < math.inf:
        raise NoScore("The features of validation photos are infinite, NaN or alike.")
    scorer = scorer._divided(threshold)
    return dataclasses.replace(scorer, num_validation=from_validation * count)


def _vectors(features: Any) -> np.ndarray:
    """Return features as float32 rows of length 1; large maps become their means."""
    return near_copies.unit_vectors(near_copies.rows_of_numbers(features))


def is_stranger(score: float | None) -> bool:
    """Return whether a score reaches the threshold; None does not."""
    return score is not None and score >= THRESHOLD


def read(path: Path, *, run: str, num_classes: int, shape: Sequence[int]) -> Scorer:
    """Read the strangers.npz of the run with an identity.

    `shape` is that of the head's input for one photo. A damaged file, or one of another
    run, raises DataError.
    """
    try:
        tensors = npy.read(file_system.regular(path, _MAX_BYTES)).tensors
        if tensors.pop("run").tobytes() != run.encode():
            raise ValueError("run: expected the identity of this run")
        size, count = _vectors(np.zeros((1, *shape))).shape[1], tensors["offsets"].size
        num_directions = tensors["directions"].size // size
        shapes: dict[str, tuple[int, ...]] = {
            "mean": (size,),
            "directions": (size, num_directions),
            "weights": (size, count),
            "offsets": (count,),
            "scale": (),
            "num_validation": (),
        }
        for name, expected in shapes.items():
            value = tensors[name]
            if value.dtype != np.float32 or value.shape != expected:
                raise ValueError(f"{name}: expected float32 {list(expected)}")
            if not np.isfinite(value).all():
                raise ValueError(f"{name}: expected finite numbers")
        scale, number = (tensors.pop(n).item() for n in ("scale", "num_validation"))
        if not (1 <= count <= num_classes and scale > 0 and number >= 0):
            raise ValueError("expected scores of the classes of this run")
    except (errors.CheckpointError, LookupError, ValueError) as error:
        raise DataError(
            f"{path}: damaged, or another run's ({error!s:.200}). Remove it to predict "
            "without stranger scores, or train again."
        ) from error
    arrays = {name: tensors[name] for name in shapes if name in tensors}
    return Scorer(**arrays, scale=scale, num_validation=int(number))


def auroc(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float, float]:
    """Return the area under the ROC curve, and its 95 % interval.

    It is the share of pairs in which the stranger has the higher score; equal scores
    count half. The interval does not shrink to a point where the area is 1.

    Source: Newcombe 2006, "Confidence intervals for an effect size measure based on the
    Mann-Whitney statistic. Part 2", method 5.
    """
    ordered, (m, n) = np.sort(inside), (len(inside), len(outside))
    below = np.searchsorted(ordered, outside, "left").sum()
    area = (below + np.searchsorted(ordered, outside, "right").sum()) / (2 * m * n)
    grid = np.linspace(0, 1, 100_001)
    mean = (m + n) / 2 - 1
    variance = 1 + mean * (1 - grid) / (2 - grid) + mean * grid / (1 + grid)
    error = 1.959964 * np.sqrt(grid * (1 - grid) * variance / (m * n))
    covered = grid[np.abs(area - grid) <= error + 1e-12]
    return float(area), float(min(area, covered[0])), float(max(area, covered[-1]))
