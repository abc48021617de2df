"""Find and read evaluation/<split>.npz, the logits of a run.

Its .json has a seal, which only this user can make: the file may be damaged
or come from a stranger, and is not opened then.
"""

import dataclasses
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from model.runs import finished_run
from pipeline.system import command_line, file_system

_SEAL = "seal"  # name, in the .json, of what proves who wrote it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """The logits of a run; each array has one entry for every photo of a split."""

    sha256: np.ndarray  # of the photo's file, 64 hex digits
    path: np.ndarray  # in the manifest
    group: np.ndarray  # name of the photo's group, 64 hex digits
    label: np.ndarray  # int64, 0-based
    logits: np.ndarray  # float32 [num_examples, num_classes], finite


def read(path: Path) -> Examples:
    """Read a file that `find` has returned, or that was written just now."""
    with np.load(path, allow_pickle=False) as arrays:
        return Examples(**{name: arrays[name] for name in arrays.files})


def read_figures(path: Path, extract: Callable[[Any], Any] = dict) -> Any:
    """Return what `extract` takes from evaluation/<split>.json, by default all."""
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
    by_anybody: bool = False,
) -> Path | None:
    """Return the .npz of a run's present model on these records, if it has one.

    An evaluation by an earlier version, which does not know the photos' groups, does
    not count. That of another user counts only with `by_anybody`: into a run's folder
    anybody can write logits that are too good.
    """
    json_path = run.evaluation_path(split, manifest_digest)
    path = json_path.with_suffix(".npz")
    if not path.exists() or not json_path.exists():
        return None
    figures, *origin = read_figures(
        json_path, lambda f: (dict(f), f["model_sha256"], f["data"]["manifest_digest"])
    )
    if origin != [run.model_digest(), manifest_digest] or "num_groups" not in figures:
        return None
    seal = figures.pop(_SEAL, "")
    if by_anybody or (seal and seal == _seal(figures, file_system.regular(path))):
        return path
    command_line.log(
        f"{path}: not used, because another user or machine wrote it, or it was edited"
    )
    return None
