"""Cache what frozen layers compute for each photo, on disk.

A cache folder is named by a digest of all that its numbers depend on: weights, layer,
preprocessing, precision and records. It does not depend on the split, so that five
folds share it. For each view one array holds the features of all photos, another one
the checksums of the rows that are filled: a stopped run continues where it was, and
damaged rows are computed again.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import tensorflow as tf

from model.loop import traced_function
from model.networks import batch_norm_folding
from pipeline.batches import crop_and_resize, image_batches
from pipeline.system import command_line, file_system

CENTRAL, MIRRORED = 0, 1  # views: the central window, the same mirrored
CAP_BYTES = 10 << 30
# Photos per call of the network; larger batches were no faster.
BATCH_SIZE = 64
# Features that are held in memory while a head trains on them.
MEMORY_BYTES = 1 << 30
_IDENTITY_NAME = "about.json"


class Features:
    """Features of photos in several views, to be gathered in batches."""

    def __init__(
        self, views: Sequence[np.ndarray], rows: Mapping[int, np.ndarray]
    ) -> None:
        """Hold features in memory as one tensor if they fit into MEMORY_BYTES.

        There is one array [num_photos, ...] per view, on disk; `rows` are filled.
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
        """Return float32 [len(rows), ...]: the features of each row in its view."""
        if self._tensor is not None:
            places = self._places[views, rows]
            return tf.cast(tf.gather(self._tensor, places), tf.float32)
        values = np.empty((len(rows), *self._views[0].shape[1:]), np.float32)
        for number, features in enumerate(self._views):
            in_view = views == number
            values[in_view] = features[rows[in_view]]
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
    windows, always the same for a photo. `identity` is a result of cache_key.describe.
    """
    folder = _folder(cache_dir, identity)
    file_system.make_inside(cache_dir.parent, cache_dir.name, folder.name)
    file_system.refuse_link(folder / _IDENTITY_NAME)
    (folder / _IDENTITY_NAME).write_text(json.dumps(identity, indent=2) + "\n")
    shape = (len(images.rows), *trunk.output.shape[1:])
    dtype = stored_dtype(identity)
    with _locked(folder):
        arrays = {
            view: (
                _open(folder / _file_name(view), shape, dtype),
                _open(folder / _file_name(view, ".crc32c"), shape[:1], np.uint32),
            )
            for view in rows
        }
        missing = {}
        for view, needed in rows.items():
            values, sums = arrays[view]
            filled = needed[sums[needed] != 0]
            damaged = filled[sums[filled] != _checksums(values, filled)]
            if len(damaged):
                command_line.log(
                    f"warning: {folder / _file_name(view)}: {len(damaged):,} of "
                    f"{len(filled):,} features are damaged and computed again"
                )
                sums[damaged] = 0
            missing[view] = needed[sums[needed] == 0]
        if total := sum(map(len, missing.values())):
            with command_line.progress(total, "view", "features") as progress:
                run = as_stored(trunk, dtype)
                _compute(run, images, missing, arrays, progress.update)
    _evict(cache_dir, keep=folder)
    return Features([values for values, _ in arrays.values()], rows)


def _compute(
    run: Callable[[Any], Any],
    images: image_batches.Images,
    missing: Mapping[int, np.ndarray],
    arrays: Mapping[int, tuple[np.memmap, np.memmap]],
    on_batch: Callable[[int], object],
) -> None:
    """Fill the missing rows of the arrays, {view: (values, checksums)}.

    If a crash keeps a row from reaching the disk, its checksum does not match.
    """
    for views, needed in _passes(missing):
        for batch in images.run(needed, views_of(images, views[0])):
            numbers, image = batch["row"].numpy(), batch["image"]
            for view in views:
                if view != views[0]:  # a strided slice would take 45 ms
                    image = tf.reverse(image, [2])
                values, sums = arrays[view]
                values[numbers] = run(image).numpy()
                sums[numbers] = _checksums(values, numbers)
                on_batch(len(numbers))


def _checksums(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the CRC32C of rows, uint32 [len(rows)]; 1 for 0, which means unfilled."""
    sums = (google_crc32c.value(values[row].tobytes()) or 1 for row in rows)
    return np.fromiter(sums, np.uint32, len(rows))


def num_missing(
    num_photos: int,
    rows: Mapping[int, np.ndarray],
    *,
    cache_dir: Path,
    identity: dict[str, Any],
) -> int:
    """Return how many features `extract` would compute, without creating a cache."""
    count = sum(map(len, rows.values()))
    for view, needed in rows.items():
        path = _folder(cache_dir, identity) / _file_name(view, ".crc32c")
        if path.exists():
            sums = _open(path, (num_photos,), np.uint32)
            count -= int(np.count_nonzero(sums[needed]))
    return count


def _folder(cache_dir: Path, identity: dict[str, Any]) -> Path:
    text = json.dumps(identity, sort_keys=True)
    return cache_dir / hashlib.sha256(text.encode()).hexdigest()[:16]


def stored_dtype(identity: dict[str, Any]) -> Any:
    """Return the NumPy type that features are stored in."""
    return np.float32 if identity["precision"] == "float32" else np.float16


def as_stored(trunk: Any, dtype: Any) -> Callable[[Any], Any]:
    """Return a function images -> features of the stored type.

    float16 holds every bfloat16 number of a feature's usual size exactly.
    """
    compute = batch_norm_folding.folded(trunk)

    @traced_function.for_any_batch
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


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time write into a cache; the others wait, and log it."""
    with (folder / _IDENTITY_NAME).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            command_line.log(
                f"{folder}: waiting for another training that computes these features"
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def views_of(images: image_batches.Images, view: int) -> crop_and_resize.Views:
    """Return the windows of all photos in a view."""
    sizes, spec = images.sizes, images.spec
    if view > MIRRORED:
        return crop_and_resize.random_views(sizes, spec, (view,))
    return crop_and_resize.central_views(sizes, spec, mirrored=view == MIRRORED)


def _file_name(view: int, kind: str = "") -> str:
    return f"view{view}{kind}.npy"


def _open(path: Path, shape: Sequence[int], dtype: Any) -> np.memmap:
    """Open an array on disk; a missing or damaged one is created, with zeros."""
    file_system.refuse_link(path)
    shape = tuple(map(int, shape))
    if path.exists():
        try:
            size = path.stat().st_size  # opening extends a file that was cut off
            array = np.lib.format.open_memmap(path, mode="r+")
            whole = size == array.offset + array.nbytes
            if whole and array.shape == shape and array.dtype == dtype:
                return array
        except (ValueError, OSError):
            pass  # damaged: created again
        path.unlink()
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    try:
        # A full disk is an error now, instead of a signal in the middle of a write.
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink()
        raise OSError(
            error.errno, f"{error.strerror} for features", str(path)
        ) from error
    return array


def _evict(cache_dir: Path, keep: Path) -> None:
    """Remove the least recently used caches until the others fit into CAP_BYTES."""
    marks = sorted(
        cache_dir.glob(f"*/{_IDENTITY_NAME}"), key=lambda path: path.lstat().st_mtime
    )
    sizes = {
        mark.parent: sum(path.lstat().st_blocks * 512 for path in mark.parent.iterdir())
        for mark in marks
        if not mark.parent.is_symlink()
    }
    for folder in list(sizes):
        if sum(sizes.values()) <= CAP_BYTES:
            return
        if folder != keep:
            shutil.rmtree(folder)
            del sizes[folder]
