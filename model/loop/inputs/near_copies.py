"""Find held-out photos that look like copies of training photos, by their features.

Conversion keeps copies in one split if their hashes reveal them. Features of a
pretrained network also reveal copies that are cropped, framed, turned by a few degrees
or taken a second later. A photo is listed if it is as similar to a training photo as a
cropped one is to its original, a threshold that each network and data set has.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from model.loop.inputs import feature_cache
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records.manifest import Manifest

_MAX_TRAINING = 50_000  # photos; of more, an even selection is searched
# To find the threshold, 128 training photos are cropped by a tenth on each side; 95 %
# of them reach it. benchmarks/near_copies.py measures what that finds.
_NUM_CUT, CUT, FOUND_SHARE = 128, 0.1, 0.95
_LEAST_TRAINING = 20  # photos; fewer say nothing about similarity
_WHITENING_PHOTOS, _MOST_DIRECTIONS = 1024, 512
_SHRINKAGE = 0.1  # of the mean variance, added to each
_MOST_NUMBERS = 1 << 14  # of a photo; maps with more are reduced to their means
_QUERIES_AT_ONCE, _TRAINING_AT_ONCE, _GATHERED_AT_ONCE = 4096, 1024, 256
_MIN_LENGTH = 1e-12  # so that nothing is divided by 0


def search(
    records: Manifest, features: feature_cache.Features, trunk: Any, spec: InputSpec
) -> dict[str, Any]:
    """Compare validation and test photos with the training photos.

    `features` are those that the trunk, a frozen keras.Model, computed of all photos.

    Returns:
        `threshold`, a cosine; `chance`, the share of cropped training photos, 0..1,
        that are as similar to a photo of another group (a real series, or by chance);
        `num_training` of `num_training_in_all` photos that were searched; and
        `photos`, held-out photos that reach the threshold, most similar first: {path,
        split, similar_to, similarity}. {} if there are too few training photos.
    """
    rows = records.included()
    is_training = np.array([row.split == "train" for row in rows], np.bool_)
    all_training = np.flatnonzero(is_training)
    if len(all_training) < _LEAST_TRAINING:
        return {}
    training = spread(all_training, _MAX_TRAINING)
    whitened = _Whitened(features, spread(training, _WHITENING_PHOTOS))
    cut = spread(training, _NUM_CUT)
    cut_vectors = whitened.transform(_cut_features(records, trunk, spec, cut))
    to_original = (cut_vectors * whitened.vectors(cut)).sum(axis=1)
    threshold = max(_MIN_LENGTH, float(np.quantile(to_original, 1 - FOUND_SHARE)))
    vectors = whitened.vectors(training)  # at most 100 MB

    def most_similar(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return nearest(queries, _blocks(vectors, _TRAINING_AT_ONCE), k)

    similarities, positions = most_similar(cut_vectors, 2)
    groups = np.array([row.group for row in rows])
    is_other = groups[training[positions]] != groups[cut][:, None]
    chance = (is_other & (similarities >= threshold)).any(axis=1).mean()
    photos = []
    for held_out in _blocks(np.flatnonzero(~is_training), _QUERIES_AT_ONCE):
        similarities, positions = most_similar(whitened.vectors(held_out), 1)
        for n in np.flatnonzero(similarities[:, 0] >= threshold):
            row = rows[held_out[n]]
            photo = {"path": row.path, "split": row.split}
            photo["similar_to"] = rows[training[positions[n, 0]]].path
            photos.append(photo | {"similarity": round(float(similarities[n, 0]), 4)})
    return {
        "threshold": threshold,
        "chance": float(chance),
        "num_training": len(training),
        "num_training_in_all": len(all_training),
        "photos": sorted(photos, key=lambda photo: -photo["similarity"]),
    }


def nearest(
    queries: np.ndarray, blocks: Iterable[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the `k` vectors with the largest cosines to each query, best first.

    Queries are float32 [num_queries, num_features]; `blocks` yields the vectors to be
    searched, some at a time; all have length 1. Returns cosines and positions over all
    blocks, [num_queries, k], fewer if there are fewer vectors.
    """
    best = np.zeros((len(queries), 0), np.float32)
    positions = np.zeros((len(queries), 0), np.int64)
    count = 0
    for block in blocks:
        cosines = queries @ block.T
        # A full sort of each block took nine tenths of the time.
        if k == 1:  # ten times as fast as argpartition
            top = cosines.argmax(axis=1)[:, None]
        else:
            top = np.argpartition(-cosines, min(k, len(block)) - 1, axis=1)[:, :k]
        best = np.hstack([best, np.take_along_axis(cosines, top, axis=1)])
        positions = np.hstack([positions, count + top])
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(best, order, axis=1)
        positions = np.take_along_axis(positions, order, axis=1)
        count += len(block)
    return best, positions


def unit_vectors(features: Any) -> np.ndarray:
    """Return features [num_photos, ...] as float32 rows of length 1."""
    flat = rows_of_numbers(features, most=math.inf)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.maximum(lengths, _MIN_LENGTH)


def rows_of_numbers(features: Any, most: float = _MOST_NUMBERS) -> np.ndarray:
    """Return features as float32 rows; the means of maps with more than `most`."""
    values = np.asarray(features, np.float32)
    count = math.prod(values.shape[1:])
    if values.ndim == 4 and count > most:
        return values.mean(axis=(1, 2))
    return values.reshape(len(values), count)


class _Whitened:
    """Features in directions with nearly equal variance, so that none dominates.

    On flower photos, at the threshold that finds 95 % of photos cropped by a tenth,
    plain cosines find 3 to 14 % of other photos, too; whitened ones find 1 to 4 %.
    """

    def __init__(self, features: feature_cache.Features, sample: np.ndarray) -> None:
        """Find the directions of these photos, an index each."""
        self._features = features
        parts = map(self._gather, _blocks(sample, _GATHERED_AT_ONCE))
        values = np.concatenate(list(parts))
        self._mean = values.mean(axis=0)
        values = values - self._mean
        mean_variance = np.square(values).sum() / min(values.shape)
        # The eigenvectors of this product are the directions, seen from the photos.
        variances, vectors = np.linalg.eigh(values @ values.T)
        largest = np.flatnonzero(variances > 1e-3 * mean_variance)[-_MOST_DIRECTIONS:]
        variances, vectors = variances[largest], vectors[:, largest]
        scales = np.sqrt(variances * (variances + _SHRINKAGE * mean_variance))
        self._matrix = values.T @ (vectors / scales)

    def _gather(self, indices: np.ndarray) -> np.ndarray:
        view = np.full_like(indices, feature_cache.CENTRAL)
        return rows_of_numbers(self._features.gather(indices, view))

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Return features, float32 [num_photos, num_features], whitened, length 1."""
        return unit_vectors((values - self._mean) @ self._matrix)

    def vectors(self, indices: np.ndarray) -> np.ndarray:
        """Return whitened features of photos, by their indices."""
        blocks = _blocks(indices, _GATHERED_AT_ONCE)
        return np.concatenate([self.transform(self._gather(b)) for b in blocks])


def _cut_features(
    records: Manifest, trunk: Any, spec: InputSpec, indices: np.ndarray
) -> np.ndarray:
    """Return the features of photos that are cropped by a tenth on each side."""
    included, size = records.included(), feature_cache.BATCH_SIZE
    rows = [included[index] for index in indices]
    images = image_batches.Images(records, rows, spec, batch_size=size)
    view = crop_and_resize.central_views(images.sizes, spec)
    sides = np.maximum(1, np.rint(view.windows[:, 2:] * (1 - 2 * CUT))).astype(np.int32)
    corners = view.windows[:, :2] + (view.windows[:, 2:] - sides) // 2
    view = dataclasses.replace(view, windows=np.concatenate([corners, sides], axis=1))
    run = feature_cache.as_stored(trunk, np.float32)
    batches = images.run(np.arange(len(rows)), view)
    return np.concatenate([rows_of_numbers(run(batch["image"])) for batch in batches])


def spread(indices: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the indices, evenly spread."""
    count = min(most, len(indices))
    return indices[np.linspace(0, len(indices) - 1, count).astype(np.int64)]


def _blocks(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (values[start : start + size] for start in range(0, len(values), size))
