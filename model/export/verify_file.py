"""Measure how far an exported file and its run differ on photos never trained on."""

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

from model.export import heldout_photos, replay
from pipeline.batches.input_spec import InputSpec
from pipeline.images import opencv
from pipeline.system.errors import DataError

NUM_PHOTOS = 32
NUM_TIMED = 30  # calls
_MAX_MESSAGE = 400  # characters of the other process's own message
# The other process prints no greetings, and computes in float32 on a GPU too.
_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "NVIDIA_TF32_OVERRIDE": "0",
}
_SCRIPT = Path(replay.__file__).absolute()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """An exported file to verify.

    Attributes:
        kind: format of the file, one of those of replay.
        path: file or folder.
        class_names: class names that the file should have.
        signatures: signatures to call; ("",) for a file with only one.
        labels: file of class names beside a .keras file; None for other formats.
    """

    kind: str
    path: Path
    class_names: tuple[str, ...]
    signatures: tuple[str, ...] = ("",)
    labels: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilePredictions:
    """Predictions of an exported file in a process without Graft.

    Attributes:
        probabilities: float64 [num_photos, num_classes], each photo classified alone.
        batch_indices: int64 [2 to 4], photos that were also classified as a batch.
        batch_probabilities: float64 [2 to 4, num_classes], those of the batch.
        latency_s: median duration of a call with one photo, in seconds.
    """

    probabilities: np.ndarray
    batch_indices: np.ndarray
    batch_probabilities: np.ndarray
    latency_s: float

    def difference(self, expected: np.ndarray) -> float:
        """Return the largest difference from expected probabilities; infinite for NaN.

        Args:
            expected: float64 [num_photos, num_classes], probabilities of the run.
        """
        differences = (
            self.probabilities - expected,
            self.batch_probabilities - expected[self.batch_indices],
        )
        largest = [float(np.abs(array).max()) for array in differences]
        return math.inf if any(map(math.isnan, largest)) else max(largest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far an exported file and its run differ.

    Attributes:
        signature: signature that was called; "" for a file with only one.
        num_photos: number of photos that both classified.
        difference: largest difference between two probabilities, 0..1.
        latency_s: median duration of a call with one photo, in seconds.
    """

    signature: str
    num_photos: int
    difference: float
    latency_s: float


def compare(
    target: Target, heldout: heldout_photos.HeldoutPhotos, spec: InputSpec
) -> list[Agreement]:
    """Compare a file's probabilities with those of its run, for each signature.

    Each format gets its own input: SavedModel's `serving_default` takes photo files,
    its other signature and ONNX take pixels of any size, and the others take photos as
    the network sees them.

    Raises:
        DataError: the file cannot be used, has other classes, or a record is damaged.
    """
    indices = heldout.sample(NUM_PHOTOS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        inputs = []
        for signature in target.signatures:
            if target.kind in ("litert", "keras"):
                inputs.append([_write_views(heldout, indices, spec, folder)])
            else:
                as_files = signature == "serving_default"
                photos = heldout.encoded(indices)
                inputs.append(_write_photos(photos, folder, as_files=as_files))
        outputs = predict(target, inputs, folder, len(indices))
    return [
        Agreement(
            signature=signature,
            num_photos=len(indices),
            difference=predictions.difference(heldout.probabilities[indices]),
            latency_s=predictions.latency_s,
        )
        for signature, predictions in zip(target.signatures, outputs, strict=True)
    ]


def accuracy(
    target: Target, heldout: heldout_photos.HeldoutPhotos, spec: InputSpec
) -> float:
    """Return the accuracy of a file that takes views, on all test photos, 0..1.

    Raises:
        DataError: the file cannot be used, has other classes, or a record is damaged.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        indices = np.arange(len(heldout.rows))
        inputs = [_write_views(heldout, indices, spec, folder)]
        (predictions,) = predict(target, [inputs], folder, len(indices))
    return heldout_photos.accuracy(predictions.probabilities, heldout.labels)


def _write_photos(
    photos: Sequence[bytes], folder: Path, *, as_files: bool
) -> list[Path]:
    paths = []
    for number, encoded in enumerate(photos):
        path = folder / f"{number:05d}{'' if as_files else '.npy'}"
        if as_files:
            path.write_bytes(encoded)
        else:
            np.save(path, opencv.decode_rgb(encoded)[None])
        paths.append(path)
    return paths


def _write_views(
    heldout: heldout_photos.HeldoutPhotos,
    indices: np.ndarray,
    spec: InputSpec,
    folder: Path,
) -> Path:
    path = folder / "views.npy"
    shape = (len(indices), spec.size_px, spec.size_px, 3)
    views = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    rows = [heldout.rows[n] for n in indices]
    heldout_photos.fill_views(heldout.records, rows, spec, views)
    views.flush()
    return path


def predict(
    target: Target,
    inputs: Sequence[Sequence[Path]],
    folder: Path,
    num_photos: int,
    *,
    script: Path = _SCRIPT,
    start_s: float = 600.0,
    photo_s: float = 10.0,
) -> list[FilePredictions]:
    """Classify photos with a file in a fresh process that does not import Graft.

    Args:
        target: file to use.
        inputs: files of photos for each signature, as replay takes them.
        folder: folder for temporary files.
        num_photos: number of photos of each signature.
        script: program to run.
        start_s: time limit for imports and timed calls, in seconds.
        photo_s: time limit for each photo, in seconds.

    Raises:
        DataError: the file cannot be used there, takes too long, or has other classes.
    """
    calls = [
        {
            "signature": signature,
            "inputs": [str(path) for path in paths],
            "outputs": str(folder / f"outputs{number}.npz"),
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
    request_path = folder / "request.json"
    request_path.write_text(json.dumps(request), encoding="utf-8")
    limit_s = start_s + photo_s * num_photos * len(calls)
    _run(script, request_path, target.path.name, limit_s)
    return [_read(target, Path(str(call["outputs"]))) for call in calls]


def _run(script: Path, request_path: Path, name: str, limit_s: float) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(script), str(request_path)],
            cwd=request_path.parent,
            env=os.environ | _ENVIRONMENT,
            capture_output=True,
            check=False,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{name}: did not classify the photos within {limit_s:g} s in a fresh "
            "process. Nothing was written. Try again on a machine with less load, or "
            "export to another format."
        ) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["killed"]
        raise DataError(
            f"{name}: cannot be used in a fresh process (exit code "
            f"{done.returncode}): {lines[-1][:_MAX_MESSAGE]}"
        )


def _read(target: Target, path: Path) -> FilePredictions:
    with np.load(path) as outputs:
        names = tuple(map(json.loads, outputs["class_names"].tolist()))
        predictions = FilePredictions(
            probabilities=outputs["probabilities"],
            batch_indices=outputs["batch_indices"],
            batch_probabilities=outputs["batch_probabilities"],
            latency_s=float(np.median(outputs["seconds"])),
        )
    if names != target.class_names:
        raise DataError(
            f"{target.path.name}: has the classes {', '.join(names)[:_MAX_MESSAGE]}. "
            f"Expected {', '.join(target.class_names)[:_MAX_MESSAGE]}."
        )
    shape = predictions.probabilities.shape
    if len(shape) != 2 or shape[1] != len(names):
        raise DataError(
            f"{target.path.name}: returns {list(shape)}. Expected {len(names)} "
            "probabilities for each photo."
        )
    num_batch = len(predictions.batch_indices)
    shape = predictions.batch_probabilities.shape
    if shape != (num_batch, len(names)):
        raise DataError(
            f"{target.path.name}: returns {list(shape)} for {num_batch} photos in one "
            f"call. Expected [{num_batch}, {len(names)}]. Nothing was written."
        )
    return predictions
