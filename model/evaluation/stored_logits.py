"""evaluation/<split>.npz, as evaluate.py writes it -> checked arrays; NumPy only.

The file may be damaged or somebody else's: sizes are checked before memory is
allocated, and nothing in it is executed.
"""

import dataclasses
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoints import archive, npy
from pipeline.system.errors import DataError

# Name -> kind, bytes of a value (0: any) and number of axes.
_ARRAYS = {
    "sha256": ("U", 256, 1),  # UTF-32
    "path": ("U", 0, 1),
    "label": ("i", 8, 1),
    "logits": ("f", 4, 2),
}
# What the arrays may come to, inflated: 30 times with paths of 300 characters.
_MAX_GROWTH, _SMALL_BYTES = 100, 64 << 20
_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_LAST_CHARACTER = 0x10FFFF


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """What a run says of every photo that it was judged on.

    Attributes:
        sha256: str [num_examples], 64 hex digits, of each photo's file.
        path: str [num_examples], as the manifest names it.
        label: int64 [num_examples], 0-based.
        logits: float32 [num_examples, num_classes], finite.
    """

    sha256: np.ndarray
    path: np.ndarray
    label: np.ndarray
    logits: np.ndarray


def read(path: Path, num_classes: int) -> Examples:
    """Reads the photos' logits.

    Args:
        path: of the .npz.
        num_classes: that the run tells apart.

    Raises:
        DataError: the file is damaged, or not of such a run.
    """
    try:
        with zipfile.ZipFile(path) as opened:
            arrays = _read_arrays(opened, path.stat().st_size)
        found = Examples(**arrays)
        _check(found, num_classes)
    except archive.FAULTS as error:
        raise DataError(
            f"{path}: damaged, or not of this run ({error}); remove it, and the run is "
            "judged again"
        ) from error
    return found


def _read_arrays(opened: zipfile.ZipFile, size_bytes: int) -> dict[str, np.ndarray]:
    infos = opened.infolist()
    names = sorted(info.filename for info in infos)
    if names != sorted(f"{name}.npy" for name in _ARRAYS):
        raise ValueError(f"expected the arrays {', '.join(_ARRAYS)}")
    total = sum(info.file_size for info in infos)
    if total > max(_SMALL_BYTES, _MAX_GROWTH * size_bytes):
        raise ValueError(f"{total:,} bytes in a file of {size_bytes:,}")
    if min(info.header_offset for info in infos) < 0:
        raise ValueError("arrays that reach beyond the file")
    arrays = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        array = npy.parse_values(opened.read(info), info.filename)
        kind, value_bytes, axes = _ARRAYS[name]
        if (
            array.dtype.kind != kind
            or value_bytes not in (0, array.dtype.itemsize)
            or array.ndim != axes
        ):
            raise ValueError(f"{name} is {array.dtype} with {array.ndim} axes")
        native = array.dtype.newbyteorder("=")
        arrays[name] = np.ascontiguousarray(array, native)
    return arrays


def _check(found: Examples, num_classes: int) -> None:
    """Refuses arrays that do not go together.

    Raises:
        ValueError: says what.
    """
    total = len(found.label)
    if not total:
        raise ValueError("no photo")
    if len(found.sha256) != total or len(found.path) != total:
        raise ValueError("arrays of different length")
    if found.logits.shape != (total, num_classes):
        raise ValueError(
            f"logits are {list(found.logits.shape)}, expected [{total}, {num_classes}]"
        )
    if not np.isfinite(found.logits).all():
        raise ValueError("logits that are no numbers")
    if found.label.min() < 0 or found.label.max() >= num_classes:
        raise ValueError(f"labels beyond 0 to {num_classes - 1}")
    if not np.isin(found.sha256.view(np.uint32), _HEX_DIGITS).all():
        raise ValueError("SHA-256 that are none")
    if found.path.view(np.uint32).max() > _LAST_CHARACTER:
        raise ValueError("paths that are no text")


def read_figures(path: Path) -> dict[str, Any]:
    """Reads evaluation/<split>.json.

    Raises:
        DataError: it is damaged.
    """
    try:
        figures = dict(json.loads(path.read_text(encoding="utf-8")))
        _ = figures["model_sha256"], figures["data"]["manifest_digest"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: damaged ({error!r}); remove it, and the run is judged again"
        ) from error
    return figures


def is_of(path: Path, *, model_sha256: str, manifest_digest: str) -> bool:
    """Whether a model was judged on these records, and both files are there.

    Args:
        path: of the .npz; the .json lies beside it.
        model_sha256: of model.keras as it is now.
        manifest_digest: of the records.

    Raises:
        DataError: the .json is damaged.
    """
    beside = path.with_suffix(".json")
    if not path.exists() or not beside.exists():
        return False
    figures = read_figures(beside)
    return bool(
        figures["model_sha256"] == model_sha256
        and figures["data"]["manifest_digest"] == manifest_digest
    )


def images_per_s(path: Path) -> float | None:
    """Photos per second of the judgement; None where its .json does not say.

    Raises:
        DataError: the .json is damaged.
    """
    found = read_figures(path).get("images_per_s")
    return found if isinstance(found, float) and 0 < found < math.inf else None
