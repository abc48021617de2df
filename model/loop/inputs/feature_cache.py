"""Cache what frozen layers compute for each photo, on disk.

Features do not depend on class, split and other photos: folds, corrected labels and
larger data sets share what is computed once.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.loop.inputs import feature_store
from model.networks import architecture, fast_graphs
from model.weights import model_variables
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest
from pipeline.records.manifest_row import Row
from pipeline.system import command_line, platform_support

CENTRAL, MIRRORED = 0, 1  # views: the central window, the same mirrored
# Photos per call of the network; larger batches were no faster.
BATCH_SIZE = 64
# On a CPU, the last photos of a batch have other rounding errors in float32 if its size
# is not a multiple of 8. GPUs may choose other kernels for every size.
_CPU_MULTIPLE = 8
# Features that are held in memory while a head trains on them for epochs.
MEMORY_BYTES = 1 << 30
# Parts of a layer's configuration that do not change its output at inference.
_IMMATERIAL = re.compile(
    "name|trainable|dtype|seed|.*(initializer|regularizer|constraint)"
)

# Tools whose versions decide the pixels of a photo that is not copied.
_PIXEL_TOOLS = ("decoder", "opencv", "pillow", "pi_heif")


class Features:
    """Features of photos in several views, to be gathered in batches."""

    def __init__(
        self,
        views: Sequence[np.ndarray],
        rows: Mapping[int, np.ndarray],
        slots: np.ndarray,
    ) -> None:
        """Hold views of files, of which `gather` reads what it needs.

        There is one array [num_slots, ...] per view, on disk. `slots` are the places of
        all photos in it, int64 [num_photos]; those of the photos `rows` are filled.
        """
        self._views, self._slots = views, slots
        self._rows = rows
        # Place of (view, row) in a tensor; gathering there is three times as fast.
        self._places = np.zeros((len(views), len(slots)), np.int64)
        self._tensor: Any = None

    def load(self) -> None:
        """Read the features into memory, if they fit into MEMORY_BYTES."""
        count = sum(map(len, self._rows.values()))
        if self._tensor is not None or count * self._views[0][:1].nbytes > MEMORY_BYTES:
            return
        table = np.empty((count, *self._views[0].shape[1:]), self._views[0].dtype)
        start = 0
        for view, filled in self._rows.items():
            end = start + len(filled)
            self._places[view, filled] = np.arange(start, end)
            table[start:end] = self._views[view][self._slots[filled]]
            start = end
        self._tensor = tf.constant(table)

    def gather(self, rows: np.ndarray, views: np.ndarray) -> Any:
        """Return float32 [len(rows), ...]: the features of each row in its view."""
        if self._tensor is not None:
            places = self._places[views, rows]
            return tf.cast(tf.gather(self._tensor, places), tf.float32)
        values = np.empty((len(rows), *self._views[0].shape[1:]), np.float32)
        for number, features in enumerate(self._views):
            in_view = views == number
            values[in_view] = features[self._slots[rows[in_view]]]
            platform_support.release_pages(features)
        return tf.constant(values)


def extract(
    trunk: Any,
    images: image_batches.Images,
    rows: Mapping[int, np.ndarray],
    *,
    cache_dir: Path,
    identity: dict[str, Any],
) -> Features:
    """Return the features of photos, computing those that the cache does not have.

    The trunk is a frozen keras.Model, uint8 [batch, size_px, size_px, 3] -> features,
    and `images` are all photos of the data set. `rows` are {view: indices of the photos
    needed in it}, for all views from 0 on; those beyond CENTRAL and MIRRORED are random
    windows, always the same for a photo. `identity` is a result of identity_of.
    """
    keys = photo_keys(images.records, images.rows)
    shape = trunk.output.shape[1:]
    with feature_store.opened(cache_dir, identity, keys, tuple(rows), shape) as store:
        missing = {view: store.missing(view, needed) for view, needed in rows.items()}
        if total := sum(map(len, missing.values())):
            with command_line.progress(total, "view", "features") as progress:
                run = as_stored(trunk, store.dtype)
                _compute(run, images, missing, store, progress.update)
    return Features([store.values[view] for view in rows], rows, store.slots)


def _compute(
    run: Callable[[Any], Any],
    images: image_batches.Images,
    missing: Mapping[int, np.ndarray],
    store: feature_store.FeatureStore,
    on_batch: Callable[[int], object],
) -> None:
    """Compute the missing features, {view: photos}, and store them.

    The last batch is filled up, so that a photo has the same features to the bit
    whichever photos are computed with it.
    """
    is_exact = store.dtype == np.float32 and not tf.config.get_visible_devices("GPU")
    multiple = _CPU_MULTIPLE if is_exact else BATCH_SIZE
    for views, needed in _passes(missing):
        for batch in images.run(needed, views_of(images, views[0])):
            photos, image = batch["row"].numpy(), batch["image"]
            fill = -len(photos) % multiple
            image = tf.pad(image, [[0, fill], [0, 0], [0, 0], [0, 0]])
            for view in views:
                if view != views[0]:  # a strided slice would take 45 ms
                    image = tf.reverse(image, [2])
                store.write(view, photos, run(image).numpy()[: len(photos)])
                on_batch(len(photos))


def as_stored(trunk: Any, dtype: Any) -> Callable[[Any], Any]:
    """Return a function images -> features of the stored type.

    float16 holds every bfloat16 number of a feature's usual size exactly.
    """
    compute = fast_graphs.folded(trunk)

    @fast_graphs.for_any_batch
    def run(images: Any) -> Any:
        features = tf.cast(compute(images), tf.float32)
        if dtype == np.float16:
            limit = float(np.finfo(np.float16).max)
            features = tf.clip_by_value(features, -limit, limit)
        return tf.cast(features, dtype)

    return run


def _passes(
    missing: Mapping[int, np.ndarray],
) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """Return the passes over the photos that compute the missing rows: (views, rows).

    A photo needed both mirrored and not is decoded once for both.
    """
    pair, none = (CENTRAL, MIRRORED), np.array([], np.int64)
    both = np.intersect1d(missing.get(CENTRAL, none), missing.get(MIRRORED, none))
    passes = [
        ((view,), np.setdiff1d(rows, both if view in pair else none))
        for view, rows in missing.items()
    ]
    return [(views, rows) for views, rows in ((pair, both), *passes) if len(rows)]


def views_of(images: image_batches.Images, view: int) -> crop_and_resize.Views:
    """Return the windows of all photos in a view; a photo's content decides its own."""
    sizes, spec = images.sizes, images.spec
    if view > MIRRORED:
        keys = photo_keys(images.records, images.rows)
        uniform = uniform_numbers(keys, view)
        return crop_and_resize.drawn_views(sizes, spec, uniform)
    return crop_and_resize.central_views(sizes, spec, mirrored=view == MIRRORED)


def identity_of(
    trunk: Any, layer: str, spec: InputSpec, precision: str
) -> dict[str, Any]:
    """Return all that a trunk's features at `layer` depend on, as JSON can hold it."""
    weights = sorted(model_variables.digests(trunk.variables).items())
    layers = json.dumps(_layers(trunk), sort_keys=True, default=str)
    return {
        "format": 4,
        "layers": hashlib.sha256(layers.encode()).hexdigest(),
        "weights": hashlib.sha256(json.dumps(weights).encode()).hexdigest(),
        "layer": layer,
        "spec": dataclasses.asdict(spec),
        "precision": precision,
        "tensorflow": tf.__version__,
    }


def photo_keys(records: manifest.Manifest, rows: Sequence[Row]) -> np.ndarray:
    """Return a key of each photo's stored pixels, 16 bytes each, "S16" [num_rows].

    A copied photo is the source, whose SHA-256 is known. For other photos, the key has
    all that determines the pixels, and not the class, path or place of the record.
    """
    info = records.info
    tools = [info.versions.get(name) for name in _PIXEL_TOOLS]
    settings = [info.settings.get(name, 0) for name in ("resize_min", "white_level")]
    conversion = json.dumps([tools, settings])

    def describe(row: Row) -> str:
        if row.action == "copied":
            return row.sha256
        # Nearly the size of the encoded image, which differs where encoders differ.
        names_bytes = len(os.fsencode(row.path + row.class_name))
        size = row.format, row.height, row.width, row.length - names_bytes
        return f"{row.sha256} {size} {conversion}"

    digests = (hashlib.blake2b(describe(r).encode(), digest_size=16) for r in rows)
    return np.frombuffer(b"".join(d.digest() for d in digests), "S16")


def uniform_numbers(keys: np.ndarray, seed: int) -> np.ndarray:
    """Return three numbers below 1 for each photo, decided by its key and the seed."""
    salt = seed.to_bytes(8, "little")
    digests = (hashlib.blake2b(k, digest_size=24, salt=salt).digest() for k in keys)
    numbers = np.frombuffer(b"".join(digests), "<u8").reshape(len(keys), 3)
    return (numbers >> 11) * 2.0**-53


def _layers(trunk: Any) -> list[Any]:
    """Return the operations without input and normalisation, which `spec` defines."""
    return [
        [
            type(operation).__name__,
            _material(operation.get_config())
            if isinstance(operation, keras.Layer)
            else "",
        ]
        for operation in trunk.operations
        if operation.name != architecture.NORMALISATION
        and not isinstance(operation, keras.layers.InputLayer | keras.layers.Dropout)
    ]


def _material(config: Any) -> Any:
    if isinstance(config, dict):
        names = [name for name in config if not _IMMATERIAL.fullmatch(name)]
        return {name: _material(config[name]) for name in names}
    if isinstance(config, list | tuple):
        return [_material(value) for value in config]
    return config
