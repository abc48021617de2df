"""Find the training photos that a network finds most similar to a photo.

Similarity is the cosine of the angle between the network's features of two photos, at
the layer that its head sits on. Those of the training photos come from the feature
cache, where training has put them if the layers below the head stayed frozen.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from model.loop.inputs import feature_cache, near_copies, training_data
from model.networks import head
from model.runs import finished_run, run_folder
from pipeline.records import manifest
from pipeline.records.manifest_row import Row
from pipeline.system.errors import DataError

_BLOCK_ROWS = 4096  # photos that are compared at the same time


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilarPhoto:
    """A training photo and its similarity to another: a cosine, 1 for a copy."""

    row: Row
    similarity: float


def head_input(run: finished_run.FinishedRun, model: Any) -> tuple[str, Any]:
    """Return the name and the tensor of the input of a run's head."""
    tensor, features = head.input_tensor(model), str(run.config.get("features", ""))
    if any(layer.name == head.POOL_LAYER for layer in model.layers):
        pooling = str(run.config.get("pooling", "average"))
        scaling = str(run.config.get("scaling", "none"))
        return head.pooled_name(features.split(","), pooling, scaling), tensor
    if tensor is not None and features:
        return features, tensor
    raise DataError(
        f"{run.directory}: the network has no head that Graft made. Expected a layer "
        f"{head.POOL_LAYER} or {head.FLATTEN_LAYER}."
    )


def build_embedder(run: finished_run.FinishedRun, model: Any) -> Any:
    """Build a keras.Model: image -> (input of the head, logits)."""
    _, embeddings = head_input(run, model)
    return keras.Model(model.input, [embeddings, model.output])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilarityIndex:
    """Training photos to be searched, with features that stay in their file."""

    records: manifest.Manifest
    rows: Sequence[Row]  # of the training photos
    features: feature_cache.Features  # of all photos of the records
    indices: np.ndarray  # int64 [num_rows], places of the rows in `features`

    def most_similar(self, embeddings: Any, k: int) -> list[list[SimilarPhoto]]:
        """Return the `k` most similar training photos of each photo, best first.

        Embeddings are float [num_photos, ...], from `build_embedder`.
        """
        blocks = (
            self.indices[start : start + _BLOCK_ROWS]
            for start in range(0, len(self.rows), _BLOCK_ROWS)
        )
        similarities, positions = near_copies.nearest(
            near_copies.unit_vectors(embeddings), map(self._vectors, blocks), k
        )
        return [
            [
                SimilarPhoto(row=self.rows[position], similarity=float(similarity))
                for position, similarity in zip(*pair, strict=True)
            ]
            for pair in zip(positions, similarities, strict=True)
        ]

    def _vectors(self, indices: np.ndarray) -> np.ndarray:
        views = np.full(len(indices), feature_cache.CENTRAL)
        return near_copies.unit_vectors(self.features.gather(indices, views))


def build_index(
    run: finished_run.FinishedRun, model: Any, data: str = ""
) -> SimilarityIndex:
    """Make the training photos of a run searchable, or raise DataError."""
    layer, embeddings = head_input(run, model)
    records = run.read_records(data)
    trunk = keras.Model(model.input, embeddings)
    trunk.trainable = False
    features = training_data.compute_features(
        records,
        trunk,
        run.spec,
        1,
        cache_dir=run_folder.cache_dir(run.directory),
        identity=feature_cache.identity_of(trunk, layer, run.spec, "float32"),
    )
    included = records.included()
    indices = [n for n, row in enumerate(included) if row.split == "train"]
    return SimilarityIndex(
        records=records,
        rows=tuple(included[n] for n in indices),
        features=features,
        indices=np.array(indices, np.int64),
    )
