"""The training photos that a network finds most like a photo.

Likeness is the cosine of the angle between what the network says of two photos at the
layer that its head sits on. What it says of the training photos comes from the feature
cache; a run whose layers below the head stayed as they were has it there already.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from model.loop import feature_cache, training_data
from model.networks import head
from model.runs import finished_run, run_records
from model.training import repeated_runs
from pipeline.records import manifest
from pipeline.system.errors import DataError

_ROWS_AT_ONCE = 4096
_SMALLEST = 1e-12  # of a length that is divided by


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A training photo that is like another one.

    Attributes:
        row: of the manifest.
        similarity: cosine, -1..1; 1 for a copy.
    """

    row: manifest.Row
    similarity: float


def below_head(finished: finished_run.FinishedRun, model: Any) -> tuple[str, Any]:
    """What a run's head sees, by name and as a tensor of the network.

    The tensor is found from above: below the head, the network may be a model inside
    another, whose parts go by names of their own.

    Raises:
        DataError: the network has no such head.
    """
    layers = {layer.name: layer for layer in model.layers}
    features = str(finished.config.get("features", ""))
    if head.POOL_LAYER in layers:
        pooling = str(finished.config.get("pooling", "average"))
        name = head.pooled_name(features.split(","), pooling)
        return name, layers[head.POOL_LAYER].output
    if head.FLATTEN_LAYER in layers and features:
        return features, layers[head.FLATTEN_LAYER].input
    raise DataError(
        f"{finished.directory}: no layer of the network is the first of a head; "
        f"expected {head.POOL_LAYER} or {head.FLATTEN_LAYER}"
    )


def embedder(finished: finished_run.FinishedRun, model: Any) -> Any:
    """A network that also gives what its head sees.

    Args:
        finished: the run.
        model: of it: image -> logits.

    Returns:
        keras.Model: image -> (what the head sees, logits).

    Raises:
        DataError: the network has no head.
    """
    _, seen = below_head(finished, model)
    return keras.Model(model.input, [seen, model.output])


class Index:
    """Training photos, to be searched.

    Attributes:
        rows: of them.
        found: the data set that they are of.
    """

    def __init__(
        self,
        found: manifest.Manifest,
        rows: Sequence[manifest.Row],
        cached: feature_cache.Features,
        numbers: np.ndarray,
    ) -> None:
        """Keeps the features where they are.

        Args:
            found: the data set.
            rows: of the training photos.
            cached: features of all photos of the data set that are used.
            numbers: int [num_rows]: where in `cached` the rows are.
        """
        self.found = found
        self.rows = rows
        self._cached = cached
        self._numbers = numbers

    def nearest(self, embeddings: Any, k: int) -> list[list[Neighbour]]:
        """The k training photos most like each of some photos, the likest first.

        Args:
            embeddings: float [num_photos, ...], of `embedder`.
            k: neighbours of each, at least 1; fewer if there are fewer photos.
        """
        wanted = _directions(embeddings)
        best = np.zeros((len(wanted), 0), np.float32)
        where = np.zeros((len(wanted), 0), np.int64)
        for start in range(0, len(self.rows), _ROWS_AT_ONCE):
            numbers = self._numbers[start : start + _ROWS_AT_ONCE]
            views = np.full(len(numbers), feature_cache.CENTRAL)
            block = _directions(self._cached.gather(numbers, views))
            places = np.broadcast_to(
                np.arange(start, start + len(numbers)), (len(wanted), len(numbers))
            )
            best = np.concatenate([best, wanted @ block.T], axis=1)
            where = np.concatenate([where, places], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :k]
            best = np.take_along_axis(best, order, axis=1)
            where = np.take_along_axis(where, order, axis=1)
        return [
            [
                Neighbour(row=self.rows[place], similarity=float(similarity))
                for place, similarity in zip(places, similarities, strict=True)
            ]
            for places, similarities in zip(where, best, strict=True)
        ]


def _directions(embeddings: Any) -> np.ndarray:
    """float32 [num_photos, num_features], each of length 1."""
    flat = np.asarray(embeddings, np.float32)
    flat = flat.reshape(len(flat), math.prod(flat.shape[1:]))
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.maximum(lengths, _SMALLEST)


def build(finished: finished_run.FinishedRun, model: Any, data: str = "") -> Index:
    """Makes the training photos of a run searchable.

    Args:
        finished: the run.
        model: of it: image -> logits, float32.
        data: of own_records.read.

    Raises:
        DataError: the records are missing, damaged, or no longer the run's; or
            the network has no head.
    """
    layer, seen = below_head(finished, model)
    found = run_records.read(finished, data)
    trunk = keras.Model(model.input, seen)
    trunk.trainable = False
    cached = training_data.compute_features(
        found,
        trunk,
        finished.spec,
        1,
        cache_dir=repeated_runs.cache_dir(finished.directory),
        about=feature_cache.key(trunk, layer, finished.spec, "float32", found),
    )
    numbers = np.array(
        [n for n, row in enumerate(found.included()) if row.split == "train"], np.int64
    )
    rows = tuple(row for row in found.included() if row.split == "train")
    return Index(found, rows, cached, numbers)
