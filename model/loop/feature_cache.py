"""The feature cache: what the frozen trunk says of each photo, computed once.

A cache folder is named by a digest of everything its numbers depend on: weights, layer,
preprocessing, precision and records. It does not depend on the split, so five folds
share it. For each view there is one array over all photos, and one of marks saying
which rows are filled; a stopped run goes on where it was.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.loop import traced_function
from model.networks import architecture
from model.weights import model_variables
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest
from pipeline.system import command_line

# Views: the central window, the same mirrored.
CENTRAL, MIRRORED = 0, 1
CAP_BYTES = 10 << 30
_ABOUT_NAME = "about.json"
# Computed features per call of the network; larger batches were no faster.
BATCH_SIZE = 64
_BATCHES_PER_MARK = 32
# Features that are held in memory while a head trains on them.
MEMORY_BYTES = 1 << 30


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
        if count * views[0][:1].nbytes <= MEMORY_BYTES:
            table = np.empty((count, *views[0].shape[1:]), views[0].dtype)
            for view, filled in rows.items():
                table[self._places[view, filled]] = views[view][filled]
            self._tensor = tf.constant(table)

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
    spec: InputSpec,
    precision: str,
    found: manifest.Manifest,
) -> dict[str, Any]:
    """Everything that features depend on, as it is digested for the cache's name."""
    weights = sorted(model_variables.digests(trunk.variables).items())
    layers = json.dumps(_layers(trunk), sort_keys=True, default=str)
    return {
        "format": 2,
        "layers": hashlib.sha256(layers.encode()).hexdigest(),
        "weights": hashlib.sha256(json.dumps(weights).encode()).hexdigest(),
        "layer": last,
        "spec": dataclasses.asdict(spec),
        "precision": precision,
        "records": found.records_digest,
        "tensorflow": tf.__version__,
    }


# What a layer's configuration says that its output in use does not depend on.
_IMMATERIAL = re.compile(
    "name|trainable|dtype|seed|.*(initializer|regularizer|constraint)"
)


def _layers(trunk: Any) -> list[Any]:
    """What a trunk computes, the same for every model with the same operations.

    Input and normalisation are left out: the spec says them.
    """
    return [
        [
            type(one).__name__,
            _material(one.get_config()) if isinstance(one, keras.Layer) else "",
        ]
        for one in trunk.operations
        if one.name != architecture.NORMALISATION
        and not isinstance(one, keras.layers.InputLayer | keras.layers.Dropout)
    ]


def _material(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            name: _material(value)
            for name, value in config.items()
            if not _IMMATERIAL.fullmatch(name)
        }
    if isinstance(config, list | tuple):
        return [_material(value) for value in config]
    return config


def extract(
    trunk: Any,
    images: image_batches.Images,
    rows: Mapping[int, np.ndarray],
    *,
    cache_dir: Path,
    about: dict[str, Any],
) -> Features:
    """Returns the features of the rows, computing those the cache does not have.

    Args:
        trunk: frozen keras.Model, uint8 [batch, size_px, size_px, 3] -> features.
        images: all photos of the data set.
        rows: {view: indices of the photos wanted in it}, for all views from 0 to some.
            Those beyond CENTRAL and MIRRORED are random windows, always the same for
            the same photo.
        cache_dir: folder of all caches.
        about: of `key`.
    """
    folder = _folder(cache_dir, about)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ABOUT_NAME).write_text(json.dumps(about, indent=2) + "\n")
    shape = (len(images.rows), *trunk.output.shape[1:])
    kind = _kind(about)
    with _locked(folder):
        opened = {view: _open_view(folder, view, shape, kind) for view in rows}
        missing = {
            view: wanted[~opened[view][1][wanted]] for view, wanted in rows.items()
        }
        if total := sum(map(len, missing.values())):
            run = as_stored(trunk, kind)
            with command_line.progress(total, "photo", "features") as progress:
                for views, wanted in _passes(missing):
                    with _marking([opened[view] for view in views]) as mark:
                        for batch in images.run(wanted, views_of(images, views[0])):
                            numbers, image = batch["row"].numpy(), batch["image"]
                            for view in views:
                                # A strided slice took 45 ms, a tenth of the network.
                                if view != views[0]:
                                    image = tf.reverse(image, [2])
                                opened[view][0][numbers] = run(image).numpy()
                                progress.update(len(numbers))
                            mark(numbers)
    _evict(cache_dir, keep=folder)
    return Features([values for values, _ in opened.values()], rows)


def num_missing(
    trunk: Any,
    num_photos: int,
    rows: Mapping[int, np.ndarray],
    *,
    cache_dir: Path,
    about: dict[str, Any],
) -> int:
    """How many features `extract` would have to compute; leaves no trace.

    Args:
        trunk: see `extract`; so are the others.
        num_photos: of the data set.
        rows: see `extract`.
        cache_dir: see `extract`.
        about: see `extract`.
    """
    folder = _folder(cache_dir, about)
    shape = (num_photos, *trunk.output.shape[1:])
    count = 0
    for view, wanted in rows.items():
        if (folder / f"view{view}.npy").exists():
            _, done = _open_view(folder, view, shape, _kind(about))
            count += int((~done[wanted]).sum())
        else:
            count += len(wanted)
    return count


def _folder(cache_dir: Path, about: dict[str, Any]) -> Path:
    text = json.dumps(about, sort_keys=True)
    return cache_dir / hashlib.sha256(text.encode()).hexdigest()[:16]


def _kind(about: dict[str, Any]) -> Any:
    """Type that features are stored in."""
    return np.float32 if about["precision"] == "float32" else np.float16


def as_stored(trunk: Any, kind: Any) -> Callable[[Any], Any]:
    """Images -> features of the type that is stored.

    float16 holds every bfloat16 number of a feature's usual size exactly.
    """

    @traced_function.for_any_batch
    def run(images: Any) -> Any:
        found = tf.cast(trunk(images, training=False), tf.float32)
        if kind == np.float16:
            limit = float(np.finfo(np.float16).max)
            found = tf.clip_by_value(found, -limit, limit)
        return tf.cast(found, kind)

    return run


def _passes(missing: Mapping[int, np.ndarray]) -> list[tuple[list[int], np.ndarray]]:
    """The missing rows as passes over the photos: (views, rows).

    A photo wanted both as it is and mirrored is decoded once for both.
    """
    rows = dict(missing)
    both = np.intersect1d(rows.get(CENTRAL, []), rows.get(MIRRORED, [])).astype(int)
    passes = [([CENTRAL, MIRRORED], both)]
    for view in rows:
        alone = np.setdiff1d(rows[view], both) if view in passes[0][0] else rows[view]
        passes.append(([view], alone))
    return [(views, wanted) for views, wanted in passes if len(wanted)]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time write into a cache; another waits, and says so."""
    with (folder / _ABOUT_NAME).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            command_line.log(
                f"{folder}: another training computes these features; waiting for it"
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _marking(
    arrays: Sequence[tuple[np.memmap, np.memmap]],
) -> Iterator[Callable[[np.ndarray], None]]:
    """Marks rows as filled, but only once their values are on disk.

    Args:
        arrays: values and marks that are filled alike.

    Yields:
        A function that is told which rows were filled.
    """
    waiting: list[np.ndarray] = []

    def settle() -> None:
        for values, done in arrays:
            values.flush()
            for numbers in waiting:
                done[numbers] = True
            done.flush()
        waiting.clear()

    def mark(numbers: np.ndarray) -> None:
        waiting.append(numbers)
        if len(waiting) >= _BATCHES_PER_MARK:
            settle()

    try:
        yield mark
    finally:
        settle()


def views_of(images: image_batches.Images, view: int) -> crop_and_resize.Views:
    """The windows of all photos in a view."""
    if view in (CENTRAL, MIRRORED):
        mirrored = view == MIRRORED
        return crop_and_resize.central_views(
            images.sizes, images.spec, mirrored=mirrored
        )
    return crop_and_resize.random_views(images.sizes, images.spec, (view,))


def _open_view(
    folder: Path, view: int, shape: Sequence[int], kind: Any
) -> tuple[np.memmap, np.memmap]:
    """Values and marks of a view; where the values are new, nothing is marked."""
    values, is_new = _open(folder / f"view{view}.npy", shape, kind)
    done, _ = _open(folder / f"view{view}.done.npy", shape[:1], np.bool_)
    if is_new:
        done[:] = False
    return values, done


def _open(path: Path, shape: Sequence[int], kind: Any) -> tuple[np.memmap, bool]:
    """Opens an array on disk, or makes one full of zeros.

    Returns:
        The array, and whether it is new: there was none, or a damaged one.
    """
    shape = tuple(int(size) for size in shape)
    if path.exists():
        try:
            size = path.stat().st_size  # a file cut off would be filled up with zeros
            found = np.lib.format.open_memmap(path, mode="r+")
            whole = size == found.offset + found.nbytes
            if whole and found.shape == shape and found.dtype == kind:
                return found, False
        except (ValueError, OSError):
            pass  # damaged: made anew
        path.unlink()
    made = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
    try:
        # Space that is missing is told now, not by a signal in the middle of a write.
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink()
        raise OSError(
            error.errno, f"{error.strerror} for features", str(path)
        ) from error
    return made, True


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
