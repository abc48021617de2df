"""Keep features of photos in files: slots by content, checksums, locks, eviction.

A folder of a cache is named by a digest of all that its numbers depend on besides the
photo. One file lists the keys of its slots, by which photos are found. For each view,
one array holds the features, another one the checksums of key and features of the slots
that are filled. Files only grow, so that another process can go on reading. If they
would become too large and many slots are no longer used, new files replace them.
"""

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from pipeline.system import command_line, file_system, platform_support

CAP_BYTES = 10 << 30
_IDENTITY_NAME, _KEYS_NAME = "about.json", "photos.keys"


@contextlib.contextmanager
def opened(
    cache_dir: Path,
    identity: dict[str, Any],
    keys: np.ndarray,
    views: Sequence[int],
    shape: Sequence[int],
) -> Iterator["FeatureStore"]:
    """Open the files of a cache for photos; other processes wait until it is closed.

    `keys` are a result of feature_cache.photo_keys, `identity` one of identity_of.
    """
    folder = _folder(cache_dir, identity)
    file_system.make_inside(cache_dir.parent, cache_dir.name, folder.name)
    file_system.refuse_link(folder / _IDENTITY_NAME)
    (folder / _IDENTITY_NAME).write_text(json.dumps(identity, indent=2) + "\n")
    text = f"{folder}: waiting for another training that computes these features"
    notice = functools.partial(command_line.log, text)
    with platform_support.locked(folder / _IDENTITY_NAME, notice):
        yield FeatureStore(folder, keys, views, shape, stored_dtype(identity))
    _evict(cache_dir, keep=folder)


class FeatureStore:
    """The files of a cache folder, open, with slots for photos; the folder is locked.

    Attributes:
        slots: int64 [num_photos], the slot of each photo; copies share one.
        values: {view: features in the order of the slots, [num_slots, ...]}.
    """

    def __init__(
        self,
        folder: Path,
        keys: np.ndarray,
        views: Sequence[int],
        shape: Sequence[int],
        dtype: Any,
    ) -> None:
        """Add photos that are new; features have this shape and type."""
        self._folder, self._keys, self.dtype = folder, keys, dtype
        photo_bytes = len(views) * math.prod(shape) * np.dtype(dtype).itemsize
        num_slots = self._add(photo_bytes)
        self.values, self._sums = {}, {}
        for view in views:
            name = _file_name(view)
            self.values[view] = _open(folder / name, (num_slots, *shape), dtype)
            name = _file_name(view, "crc32c")
            self._sums[view] = _open(folder / name, (num_slots,), np.uint32)

    def _add(self, photo_bytes: int) -> int:
        """Give each photo a slot; return the number of all slots."""
        path = self._folder / _KEYS_NAME
        stored = _read(path, self._keys.dtype)
        self.slots, new = _find(stored, self._keys)
        num_unused = len(stored) + len(new) - len(np.unique(self.slots))
        is_full = (len(stored) + len(new)) * photo_bytes > CAP_BYTES
        if is_full and num_unused > len(stored) // 8:
            for old in self._folder.glob("[pv]*"):
                old.unlink()  # others may go on reading it
            stored = stored[:0]
            self.slots, new = _find(stored, self._keys)
        with path.open("ab") as file:
            file.truncate(stored.nbytes)  # without a key that was cut off
            file.write(new.tobytes())
        return len(stored) + len(new)

    def missing(self, view: int, needed: np.ndarray) -> np.ndarray:
        """Return the photos without intact features, of copies only the first."""
        _, first = np.unique(self.slots[needed], return_index=True)
        needed = needed[np.sort(first)]
        sums = self._sums[view]
        filled = needed[sums[self.slots[needed]] != 0]
        damaged = filled[sums[self.slots[filled]] != self._checksums(view, filled)]
        if len(damaged):
            command_line.log(
                f"warning: {self._folder / _file_name(view)}: {len(damaged):,} of "
                f"{len(filled):,} features are damaged, and are computed again"
            )
            sums[self.slots[damaged]] = 0
        return needed[sums[self.slots[needed]] == 0]

    def write(self, view: int, photos: np.ndarray, features: np.ndarray) -> None:
        """Fill the slots of photos.

        If a crash keeps a part of it from reaching the disk, the checksum does not
        match.
        """
        self.values[view][self.slots[photos]] = features
        self._sums[view][self.slots[photos]] = self._checksums(view, photos)

    def _checksums(self, view: int, photos: np.ndarray) -> np.ndarray:
        """Return the CRC32C of features and key; 1 for 0, which means unfilled."""
        values, extend = self.values[view], google_crc32c.extend
        sums = (
            extend(google_crc32c.value(values[slot].tobytes()), key) or 1
            for slot, key in zip(self.slots[photos], self._keys[photos], strict=True)
        )
        return np.fromiter(sums, np.uint32, len(photos))


def _find(stored: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the slot of each key, and the keys that are not stored yet, each once.

    The slots of new keys are those after the stored ones.
    """
    both = np.concatenate([stored, keys])
    _, first, inverse = np.unique(both, return_index=True, return_inverse=True)
    places = first[inverse[len(stored) :]]
    new = np.unique(places[places >= len(stored)])
    is_new = places >= len(stored)
    slots = np.where(is_new, len(stored) + np.searchsorted(new, places), places)
    return slots, both[new]


def num_missing(
    keys: np.ndarray,
    rows: Mapping[int, np.ndarray],
    *,
    cache_dir: Path,
    identity: dict[str, Any],
) -> int:
    """Return how many features `extract` would compute, without creating a cache.

    `keys` are those of all photos, a result of feature_cache.photo_keys.
    """
    folder, count = _folder(cache_dir, identity), 0
    stored = _read(folder / _KEYS_NAME, keys.dtype)
    slots, _ = _find(stored, keys)
    for view, needed in rows.items():
        sums = _read(folder / _file_name(view, "crc32c"), np.uint32)[: len(stored)]
        wanted = np.unique(slots[needed])
        count += len(wanted) - int(np.count_nonzero(sums[wanted[wanted < len(sums)]]))
    return count


def _folder(cache_dir: Path, identity: dict[str, Any]) -> Path:
    text = json.dumps(identity, sort_keys=True)
    return cache_dir / hashlib.sha256(text.encode()).hexdigest()[:16]


def stored_dtype(identity: dict[str, Any]) -> Any:
    """Return the NumPy type that features are stored in."""
    return np.float32 if identity["precision"] == "float32" else np.float16


def _file_name(view: int, kind: str = "features") -> str:
    return f"view{view}.{kind}"


def _read(path: Path, dtype: Any) -> np.ndarray:
    """Read a file of numbers or keys; a missing one is empty."""
    file_system.refuse_link(path)
    return np.fromfile(path, dtype) if path.exists() else np.empty(0, dtype)


def _open(path: Path, shape: Sequence[int], dtype: Any) -> np.memmap:
    """Open an array on disk; what is missing of its file is filled with zeros."""
    file_system.refuse_link(path)
    array_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    with path.open("ab") as file:
        size = file.tell()
        try:
            if size < array_bytes:
                # A full disk is an error now, not a signal in the middle of a write.
                platform_support.allocate(file.fileno(), 0, array_bytes)
        except OSError as error:
            file.truncate(size)
            raise OSError(
                error.errno, f"{error.strerror} for features", str(path)
            ) from error
    return np.memmap(path, dtype, "r+", shape=tuple(shape))


def _evict(cache_dir: Path, keep: Path) -> None:
    """Remove the least recently used caches until the others fit into CAP_BYTES."""
    marks = sorted(
        cache_dir.glob(f"*/{_IDENTITY_NAME}"), key=lambda path: path.lstat().st_mtime
    )
    sizes = {
        mark.parent: sum(path.lstat().st_size for path in mark.parent.iterdir())
        for mark in marks
        if not mark.parent.is_symlink()
    }
    for folder in list(sizes):
        if sum(sizes.values()) <= CAP_BYTES:
            return
        if folder != keep:
            file_system.remove_tree(folder)
            del sizes[folder]
