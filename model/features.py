"""The feature cache: what the frozen trunk says of each photo, computed once.

A cache folder is named by a digest of everything its numbers depend on: weights, layer,
preprocessing, precision and records. It does not depend on the split, so five folds
share it. For each view there is one array over all photos, and one of marks saying
which rows are filled; a stopped run goes on where it was.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model import restore
from pipeline import command, dataset, manifest, preprocess

CAP_BYTES = 10 << 30
_ABOUT_NAME = "about.json"
# Computed features per call of the network; larger batches were no faster.
BATCH_SIZE = 64
# Features that are held in memory while a head trains on them.
_MEMORY_BYTES = 1 << 30


class Features:
    """Features of some photos in some views, ready to be taken in batches."""

    def __init__(
        self, views: Sequence[np.ndarray], rows: Mapping[int, np.ndarray]
    ) -> None:
        """Takes them into memory as one tensor, if they are no more than a gigabyte.

        Args:
            views: one array [num_photos, ...] per view, on disk.
            rows: {view: rows of it that are filled}.
        """
        self._views = views
        # Place of (view, row) in the tensor; gathering there is three times as fast.
        self._places = np.zeros((len(views), len(views[0])), np.int64)
        count = 0
        for view, filled in rows.items():
            self._places[view, filled] = np.arange(count, count + len(filled))
            count += len(filled)
        self._tensor: Any = None
        if count * views[0][:1].nbytes <= _MEMORY_BYTES:
            parts = [views[view][filled] for view, filled in rows.items()]
            self._tensor = tf.constant(np.concatenate(parts))

    def gather(self, rows: np.ndarray, views: np.ndarray) -> Any:
        """Returns float32 [len(rows), ...]: for each row its features in its view."""
        if self._tensor is not None:
            places = self._places[views, rows]
            return tf.cast(tf.gather(self._tensor, places), tf.float32)
        found = np.empty((len(rows), *self._views[0].shape[1:]), np.float32)
        for number, features in enumerate(self._views):
            chosen = views == number
            found[chosen] = features[rows[chosen]]
        return tf.constant(found)


def key(
    trunk: Any,
    last: str,
    spec: preprocess.InputSpec,
    precision: str,
    found: manifest.Manifest,
) -> dict[str, Any]:
    """Everything that features depend on, as it is digested for the cache's name."""
    weights = sorted(restore.digests(trunk.variables).items())
    return {
        "format": 1,
        "weights": hashlib.sha256(json.dumps(weights).encode()).hexdigest(),
        "layer": last,
        "spec": dataclasses.asdict(spec),
        "precision": precision,
        "records": found.records_digest,
        "tensorflow": tf.__version__,
    }


def extract(
    trunk: Any,
    images: dataset.Images,
    rows: Mapping[int, np.ndarray],
    *,
    cache_dir: Path,
    about: dict[str, Any],
) -> Features:
    """Returns the features of the rows, computing those the cache does not have.

    Args:
        trunk: frozen keras.Model, uint8 [batch, size_px, size_px, 3] -> features.
        images: all photos of the data set.
        rows: {view: indices of the photos wanted in it}. View 0 is the central window,
            further ones are random windows, always the same for the same photo.
        cache_dir: folder of all caches.
        about: of `key`.
    """
    text = json.dumps(about, sort_keys=True)
    folder = cache_dir / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ABOUT_NAME).write_text(json.dumps(about, indent=2) + "\n")
    shape = (len(images.rows), *trunk.output.shape[1:])
    kind = np.float32 if about["precision"] == "float32" else np.float16
    opened = [
        (
            _open(folder / f"view{view}.npy", shape, kind),
            _open(folder / f"view{view}.done.npy", shape[:1], np.bool_),
        )
        for view in rows
    ]
    missing = [
        wanted[~done[wanted]]
        for wanted, (_, done) in zip(rows.values(), opened, strict=True)
    ]
    total = sum(len(some) for some in missing)
    run = tf.function(lambda image: trunk(image, training=False), autograph=False)
    if total:
        with command.progress(total, "photo", "features") as progress:
            for view, (values, done) in enumerate(opened):
                views = _views(images, view)
                for batch in images.run(missing[view], views):
                    numbers = batch["row"].numpy()
                    values[numbers] = _storable(run(batch["image"]), kind)
                    done[numbers] = True
                    progress.update(len(numbers))
                values.flush()
                done.flush()
    _evict(cache_dir, keep=folder)
    return Features([values for values, _ in opened], rows)


def _views(images: dataset.Images, view: int) -> preprocess.Views:
    if view == 0:
        return preprocess.central_views(images.sizes, images.spec)
    return preprocess.random_views(images.sizes, images.spec, (view,))


def _storable(features: Any, kind: Any) -> np.ndarray:
    """float16 holds every bfloat16 number of a feature's usual size exactly."""
    found = tf.cast(features, tf.float32).numpy()
    if kind == np.float16:
        limit = float(np.finfo(np.float16).max)
        np.clip(found, -limit, limit, out=found)
    return found.astype(kind)


def _open(path: Path, shape: Sequence[int], kind: Any) -> np.memmap:
    """Opens an array on disk, or makes one full of zeros, which costs no space yet."""
    shape = tuple(int(size) for size in shape)
    if path.exists():
        try:
            found = np.lib.format.open_memmap(path, mode="r+")
            if found.shape == shape and found.dtype == kind:
                return found
        except (ValueError, OSError):
            pass  # damaged: made anew
        path.unlink()
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def _evict(cache_dir: Path, keep: Path) -> None:
    """Removes the caches unused for longest, until the rest is within the cap."""
    folders = [path.parent for path in cache_dir.glob(f"*/{_ABOUT_NAME}")]
    folders.sort(key=lambda folder: (folder / _ABOUT_NAME).stat().st_mtime)
    sizes = {
        folder: sum(path.stat().st_blocks * 512 for path in folder.iterdir())
        for folder in folders
    }
    for folder in folders:
        if sum(sizes.values()) <= CAP_BYTES:
            return
        if folder != keep:
            shutil.rmtree(folder)
            del sizes[folder]
