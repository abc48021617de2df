"""An exported file and a run -> how far apart they are on photos never trained on."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.export import errors, heldout_photos, replay
from pipeline.batches import preprocess

NUM_PHOTOS = 32
NUM_TIMED = 30  # calls
_WORDS = 400  # of what the other process says
# Of the other process: no greetings, and float32 that is float32 on a GPU too.
_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "NVIDIA_TF32_OVERRIDE": "0",
}
# How long it may take, for imports and timed calls and for each photo.
_START_S, _EACH_S = 600.0, 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A file to be checked.

    Attributes:
        kind: one of replay's.
        path: of the file or folder.
        class_names: that it shall know.
        signatures: to call; ("",) where a file has but one.
        labels: file of class names beside a .keras; None for other kinds.
    """

    kind: str
    path: Path
    class_names: tuple[str, ...]
    signatures: tuple[str, ...] = ("",)
    labels: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """What an exported file says in a process without Graft.

    Attributes:
        probabilities: float64 [num_photos, num_classes], of each photo alone.
        together: int64 [2 to 4], photos that were asked about as a batch.
        batch: float64 [2 to 4, num_classes], probabilities of these.
        latency_s: median of single calls, after some that do not count.
    """

    probabilities: np.ndarray
    together: np.ndarray
    batch: np.ndarray
    latency_s: float

    def difference(self, expected: np.ndarray) -> float:
        """The largest from expected probabilities, alone or in the batch.

        What is no number at all is as far apart as can be.

        Args:
            expected: float64 [num_photos, num_classes].
        """
        apart = self.probabilities - expected, self.batch - expected[self.together]
        largest = [float(np.abs(one).max()) for one in apart]
        return math.inf if any(map(math.isnan, largest)) else max(largest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far an exported file and its run are apart.

    Attributes:
        signature: that was called.
        num_photos: that both were asked about.
        difference: the largest between two probabilities, 0..1.
        latency_s: see Answers.
    """

    signature: str
    num_photos: int
    difference: float
    latency_s: float


def compare(
    target: Target, held: heldout_photos.HeldOut, spec: preprocess.InputSpec
) -> list[Agreement]:
    """Asks a file about held-out photos that the run has answered.

    Photos come as the format takes them: SavedModel's `serving_default` as files,
    its other signature and ONNX as pixels of any size, the others as the network sees
    them.

    Returns:
        One for each signature.

    Raises:
        errors.ExportError: the file cannot be used, or knows other classes.
        DataError: a record is damaged.
    """
    indices = held.sample(NUM_PHOTOS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        inputs = []
        for signature in target.signatures:
            if target.kind in ("litert", "keras"):
                inputs.append([_write_views(held, indices, spec, folder)])
            else:
                as_files = signature == "serving_default"
                photos = held.encoded(indices)
                inputs.append(_write_photos(photos, folder, as_files=as_files))
        answers = ask(target, inputs, folder, len(indices))
    return [
        Agreement(
            signature=signature,
            num_photos=len(indices),
            difference=answer.difference(held.probabilities[indices]),
            latency_s=answer.latency_s,
        )
        for signature, answer in zip(target.signatures, answers, strict=True)
    ]


def accuracy(
    target: Target, held: heldout_photos.HeldOut, spec: preprocess.InputSpec
) -> float:
    """Of a file that takes views, on the whole test split.

    Raises:
        errors.ExportError: the file cannot be used, or knows other classes.
        DataError: a record is damaged.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        everything = np.arange(len(held.rows))
        inputs = [_write_views(held, everything, spec, folder)]
        (answers,) = ask(target, [inputs], folder, len(everything))
    return heldout_photos.accuracy(answers.probabilities, held.labels)


def _write_photos(
    photos: Sequence[bytes], folder: Path, *, as_files: bool
) -> list[Path]:
    paths = []
    for number, encoded in enumerate(photos):
        path = folder / f"{number:05d}{'' if as_files else '.npy'}"
        if as_files:
            path.write_bytes(encoded)
        else:
            np.save(path, heldout_photos.upright_pixels(encoded)[None])
        paths.append(path)
    return paths


def _write_views(
    held: heldout_photos.HeldOut,
    indices: np.ndarray,
    spec: preprocess.InputSpec,
    folder: Path,
) -> Path:
    path = folder / "views.npy"
    shape = (len(indices), spec.size_px, spec.size_px, 3)
    out = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    heldout_photos.views(held.found, [held.rows[n] for n in indices], spec, out)
    out.flush()
    return path


def ask(
    target: Target, inputs: Sequence[Sequence[Path]], folder: Path, num_photos: int
) -> list[Answers]:
    """Lets a file answer in a fresh process that knows nothing of this project.

    Args:
        target: the file.
        inputs: files of photos for each signature, see replay.
        folder: to work in.
        num_photos: of each signature.

    Raises:
        errors.ExportError: the file cannot be used there, takes too long, or knows
            other classes.
    """
    calls = [
        {
            "signature": signature,
            "inputs": [str(path) for path in paths],
            "answers": str(folder / f"answers{number}.npz"),
        }
        for number, (signature, paths) in enumerate(
            zip(target.signatures, inputs, strict=True)
        )
    ]
    request = {
        "kind": target.kind,
        "model": str(target.path.absolute()),
        "labels": str(target.labels.absolute()) if target.labels else "",
        "calls": calls,
        "timed": NUM_TIMED,
    }
    asked = folder / "request.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    limit_s = _START_S + _EACH_S * num_photos * len(calls)
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(Path(replay.__file__).absolute()), str(asked)],
            cwd=folder,
            env=os.environ | _ENVIRONMENT,
            capture_output=True,
            check=False,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as error:
        raise errors.ExportError(
            f"{target.path.name}: gave no answer about {num_photos} photos within "
            f"{limit_s:g} s in a fresh process; expected one; nothing was written, "
            "try again on a machine with less to do, or another format"
        ) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["killed"]
        raise errors.ExportError(
            f"{target.path.name}: cannot be used in a fresh process (exit code "
            f"{done.returncode}): {lines[-1][:_WORDS]}"
        )
    return [_read(target, Path(str(call["answers"]))) for call in calls]


def _read(target: Target, path: Path) -> Answers:
    with np.load(path) as answers:
        names = tuple(map(json.loads, answers["class_names"].tolist()))
        found, batch = answers["probabilities"], answers["batch"]
        together = answers["together"]
        latency_s = float(np.median(answers["seconds"]))
    if names != target.class_names:
        raise errors.ExportError(
            f"{target.path.name}: says that its classes are {', '.join(names)[:_WORDS]}"
            f"; expected {', '.join(target.class_names)[:_WORDS]}"
        )
    if found.ndim != 2 or found.shape[1] != len(names):
        raise errors.ExportError(
            f"{target.path.name}: answers are {list(found.shape)}; expected "
            f"{len(names)} probabilities for each photo"
        )
    if batch.shape != (len(together), len(names)):
        raise errors.ExportError(
            f"{target.path.name}: answers about {len(together)} photos at once are "
            f"{list(batch.shape)}; expected [{len(together)}, {len(names)}]; nothing "
            "was written"
        )
    return Answers(
        probabilities=found, together=together, batch=batch, latency_s=latency_s
    )
