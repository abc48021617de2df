"""Read evaluation/<split>.npz as checked arrays.

The file may be damaged or come from a stranger: sizes are checked before memory is
allocated, and nothing in it is executed.
"""

import dataclasses
import hashlib
import hmac
import json
import math
import secrets
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoints import archive, npy
from model.runs import finished_run
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

# {name: (kind, bytes of one value or 0 for any, number of axes)}
_ARRAYS = {
    "sha256": ("U", 256, 1),  # UTF-32
    "path": ("U", 0, 1),
    "group": ("U", 256, 1),
    "label": ("i", 8, 1),
    "logits": ("f", 4, 2),
}
# Largest growth on decompression: paths of 300 characters grow 30 times.
_MAX_GROWTH, _SMALL_BYTES = 100, 64 << 20
_SEAL = "seal"  # name, in the .json, of what proves who wrote it
_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_LAST_CHARACTER = 0x10FFFF


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """The logits of a run for every photo of a split.

    Attributes:
        sha256: str [num_examples], SHA-256 of each photo's file, 64 hex digits.
        path: str [num_examples], path of each photo in the manifest.
        group: str [num_examples], name of each photo's group, 64 hex digits.
        label: int64 [num_examples], 0-based.
        logits: float32 [num_examples, num_classes], finite.
    """

    sha256: np.ndarray
    path: np.ndarray
    group: np.ndarray
    label: np.ndarray
    logits: np.ndarray


def read(path: Path, num_classes: int) -> Examples:
    """Read the logits of a run with `num_classes` classes from an .npz.

    Raises:
        DataError: the file is damaged, or belongs to another run.
    """
    try:
        with zipfile.ZipFile(file_system.regular(path)) as opened:
            examples = Examples(**_read_arrays(opened, path.stat().st_size))
        _check(examples, num_classes)
    except archive.FAULTS as error:
        raise DataError(
            f"{path}: the file is damaged or belongs to another run ({error}). Remove "
            "it, and the run is evaluated again."
        ) from error
    return examples


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
        arrays[name] = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return arrays


def _check(examples: Examples, num_classes: int) -> None:
    """Raise ValueError if the arrays do not belong together."""
    total = len(examples.label)
    if not total:
        raise ValueError("no photos")
    if {len(values) for values in vars(examples).values()} != {total}:
        raise ValueError("arrays of different length")
    if examples.logits.shape != (total, num_classes):
        raise ValueError(
            f"logits are {list(examples.logits.shape)}, expected [{total}, "
            f"{num_classes}]"
        )
    if not np.isfinite(examples.logits).all():
        raise ValueError("logits that are not finite")
    if examples.label.min() < 0 or examples.label.max() >= num_classes:
        raise ValueError(f"labels beyond 0 to {num_classes - 1}")
    for name in ("sha256", "group"):
        if not np.isin(vars(examples)[name].view(np.uint32), _HEX_DIGITS).all():
            raise ValueError(f"{name} that are not hex digits")
    if examples.path.view(np.uint32).max() > _LAST_CHARACTER:
        raise ValueError("paths that are not text")


def read_figures(path: Path, extract: Callable[[Any], Any] = dict) -> Any:
    """Return what `extract` takes from evaluation/<split>.json, by default all.

    Raises:
        DataError: the file is damaged.
    """
    advice = "Remove it, and the run is evaluated again."
    return finished_run.read_json(path, extract, advice)


def write_sealed(path: Path, figures: dict[str, Any]) -> None:
    """Write the figures of an evaluation, whose .npz exists, and a seal for both."""
    content = json.loads(json.dumps(figures))
    write_figures(path, figures | {_SEAL: _seal(content, path.with_suffix(".npz"))})


def _seal(figures: dict[str, Any], npz_path: Path) -> str:
    """Return what only this user can compute of an evaluation; "" without a key."""
    key_path = file_system.cache_folder() / "evaluation.key"
    try:
        if not key_path.exists():
            key_path.parent.mkdir(parents=True, exist_ok=True)
            with file_system.replacing(key_path) as partial:
                partial.touch(mode=0o600)
                partial.write_bytes(secrets.token_bytes(32))
        key = key_path.read_bytes()
    except OSError:  # a home that cannot be written
        return ""
    with npz_path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    text = json.dumps([figures, digest], sort_keys=True)
    return hmac.digest(key, text.encode(), "sha256").hex()


def write_figures(path: Path, figures: dict[str, Any]) -> None:
    """Write the figures of an evaluation or a comparison."""
    with file_system.replacing(path) as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def find(
    run: finished_run.FinishedRun,
    split: str,
    manifest_digest: str,
    *,
    only_own: bool = False,
) -> Path | None:
    """Return the .npz of a run's present model on these records, if it has one.

    An evaluation by an earlier version, which does not know the photos' groups, does
    not count. With `only_own` that of another user does not either: anybody can write
    logits into a run's folder that are too good.

    Raises:
        DataError: the .json with its figures is damaged.
    """
    json_path = run.evaluation_path(split, manifest_digest)
    path = json_path.with_suffix(".npz")
    if not path.exists() or not json_path.exists():
        return None
    figures, *origin, has_groups = read_figures(
        json_path,
        lambda f: (
            *(dict(f), f["model_sha256"]),
            *(f["data"]["manifest_digest"], "num_groups" in f),
        ),
    )
    if origin != [run.model_digest(), manifest_digest] or not has_groups:
        return None
    seal = figures.pop(_SEAL, "")
    if not only_own or (seal and seal == _seal(figures, file_system.regular(path))):
        return path
    command_line.log(
        f"{path}: not used, because another user or machine wrote it, or it was edited"
    )
    return None


def images_per_s(path: Path) -> float | None:
    """Return the photos per second of an evaluation; None if its .json has none."""
    rate = read_figures(path).get("images_per_s")
    return rate if isinstance(rate, float) and 0 < rate < math.inf else None
