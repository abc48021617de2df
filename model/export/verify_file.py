"""Measure how far an exported file and its run differ on photos never trained on."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from model.export import exportable, run_exported_file
from model.export.exportable import Exportable, HeldoutPhotos
from model.export.formats import saved_model
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.images import opencv
from pipeline.records import stored_photo
from pipeline.system import file_system
from pipeline.system.errors import DataError

NUM_PHOTOS = 32
NUM_TIMED = 30  # calls
SCORE_TOLERANCE = 0.01  # of stranger scores, whose threshold is 1
_MAX_MESSAGE = 400  # characters of the other process's own message
# The other process prints no greetings, and computes in float32 on a GPU too.
_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "NVIDIA_TF32_OVERRIDE": "0",
}
_SCRIPT = Path(run_exported_file.__file__).absolute()
# Seconds allowed for imports and timed calls, and for each photo.
_START_S, _PHOTO_S = 600.0, 10.0
# Format -> signature, "" for the only one -> kind of input: photo files, images of any
# size, or views, which are images as the network sees them.
_INPUTS = {
    "saved_model": {saved_model.PHOTOS: "files", saved_model.IMAGES: "images"},
    "onnx": {"": "images"},
    "litert": {"": "views"},
    "keras": {"": "views"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """An exported file or folder to verify."""

    kind: str  # a format
    path: Path  # of the file now; it may be temporary
    name: str  # in tables and messages
    class_names: tuple[str, ...]  # expected in the file
    labels: Path | None = None  # file of class names beside a .keras file
    scorer: Path | None = None  # file of stranger scores beside it, if there is one


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Size, speed and exactness of a model, one row of the printed table."""

    name: str  # file name, with the signature if there are several
    takes: str  # "files", "images" or "views"
    size_bytes: int  # of the file, or of all files of a folder
    latency_s: float  # median of calls with one photo, in seconds
    difference: float | None = None  # largest, from the run's probabilities, if known
    score_difference: float | None = None  # from its stranger scores, if it has any


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationCost:
    """Accuracies, 0..1, of a run and of its quantized file on the test split."""

    num_photos: int
    run_accuracy: float
    file_accuracy: float
    allowed_loss: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported file that agrees with its run."""

    path: Path  # of the file or folder
    card: Path  # the model card, README.md or another name
    kind: str  # a format
    quantize: str = "none"  # kind of quantization
    models: tuple[ModelFacts, ...]  # the run's own model, then the exported one
    num_photos: int  # that the run and the file both classified
    tolerance: float  # largest difference allowed between two probabilities
    cost: QuantizationCost | None = None  # None without quantization


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilePredictions:
    """Predictions of an exported file in a process without Graft."""

    # float64 [n, num_classes]: of each photo alone, then of a batch. A last column has
    # the stranger scores if the file gives any.
    probabilities: np.ndarray
    indices: np.ndarray  # int64 [n], the photos that these belong to
    latency_s: float  # median duration of a call with one photo, in seconds

    def differences(self, expected: np.ndarray) -> np.ndarray:
        """Return the largest difference in each column; infinite for NaN."""
        if self.probabilities.shape[1] != expected.shape[1]:  # in stranger scores
            return np.full(expected.shape[1], math.inf)
        largest = np.abs(self.probabilities - expected[self.indices]).max(axis=0)
        return np.nan_to_num(largest, nan=math.inf)


def compare(
    target: Target,
    heldout: HeldoutPhotos,
    source: Exportable,
    tolerance: float,
    score_tolerance: float = SCORE_TOLERANCE,
) -> list[ModelFacts]:
    """Compare a file with its run; return the facts of each signature.

    Raises DataError if a probability differs by more than `tolerance`, or a stranger
    score by more than `score_tolerance`.
    """
    spec = source.spec
    indices = image_batches.evenly_spread(range(len(heldout.rows)), NUM_PHOTOS)
    signatures = _INPUTS[target.kind]
    with file_system.scratch_folder() as folder:
        inputs = {
            signature: _write_inputs(kind, heldout, indices, spec, folder)
            for signature, kind in signatures.items()
        }
        outputs = predict(target, inputs, folder, len(indices))
    views = np.zeros((len(indices), spec.size_px, spec.size_px, 3), np.float32)
    rows = [heldout.rows[n] for n in indices]
    exportable.fill_views(heldout.records, rows, spec, views)
    expected = heldout.probabilities[indices]
    _, scores = source.original.predict_step()(views)
    if scores is not None:
        expected = np.c_[expected, scores]
    models = []
    for signature, predictions in outputs.items():
        name = f"{target.name} {signature}".strip()
        differences = predictions.differences(expected)
        difference = float(differences[: len(source.class_names)].max())
        score_difference = float(max(differences[len(source.class_names) :], default=0))
        for what, largest, limit in (
            ("probability", difference, tolerance),
            ("stranger score", score_difference, score_tolerance),
        ):
            if largest > limit:
                raise DataError(
                    f"{name}: a {what} in a fresh process differs from the run's by "
                    f"{largest:.2g} on {len(indices)} held-out photos, alone or in a "
                    f"batch. Expected at most {limit:.2g}. Nothing was written. Export "
                    "to another format."
                )
        files = target.path.rglob("*") if target.path.is_dir() else [target.path]
        models.append(
            ModelFacts(
                name=name,
                takes=signatures[signature],
                size_bytes=sum(file.stat().st_size for file in files if file.is_file()),
                latency_s=predictions.latency_s,
                difference=difference,
                score_difference=score_difference if source.score_model else None,
            )
        )
    return models


def accuracy(target: Target, heldout: HeldoutPhotos, spec: InputSpec) -> float:
    """Return the accuracy of a file that takes views, on all test photos, 0..1."""
    count = len(heldout.rows)
    with file_system.scratch_folder() as folder:
        inputs = {"": _write_inputs("views", heldout, range(count), spec, folder)}
        predictions = predict(target, inputs, folder, count)[""]
    probabilities = predictions.probabilities[:count, : len(target.class_names)]
    return heldout.accuracy(probabilities)


def _write_inputs(
    kind: str,
    heldout: HeldoutPhotos,
    indices: Sequence[int],
    spec: InputSpec,
    folder: Path,
) -> list[Path]:
    """Write photos as files, images or views, for run_exported_file to read."""
    rows = [heldout.rows[n] for n in indices]
    if kind == "views":
        path = folder / "views.npy"
        shape = (len(rows), spec.size_px, spec.size_px, 3)
        views = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        exportable.fill_views(heldout.records, rows, spec, views)
        views.flush()
        return [path]
    stored = stored_photo.StoredPhotos(heldout.records.directory)
    ending = "" if kind == "files" else ".npy"
    paths = [folder / f"{number:05d}{ending}" for number in range(len(rows))]
    for path, row in zip(paths, rows, strict=True):
        encoded = stored.image(row)
        if kind == "files":
            path.write_bytes(encoded)
        else:
            np.save(path, decode_as_run(encoded, row.format == "png", spec)[None])
    return paths


def decode_as_run(encoded: bytes, is_png: bool, spec: InputSpec) -> np.ndarray:
    """Decode a whole image, its central window with the pixels that the run sees.

    The run decodes only the window. At its edges, the colours of a JPEG are then
    interpolated from other neighbours, which can change a probability by 4e-4.
    """
    image = opencv.decode_rgb(encoded)
    window = crop_and_resize.central_views(np.array([image.shape[:2]]), spec).windows[0]
    inside = crop_and_resize.inside_of(window, image.shape[:2]).numpy()
    top, left, height, width = inside
    seen = crop_and_resize.decode_window(encoded, is_png, inside)
    image[top : top + height, left : left + width] = seen
    return image


def predict(
    target: Target, inputs: Mapping[str, Sequence[Path]], folder: Path, num_photos: int
) -> dict[str, FilePredictions]:
    """Classify photos with a file in a fresh process that does not import Graft.

    The inputs are files of photos for each signature, as run_exported_file takes them.
    """
    outputs = {signature: folder / f"outputs{signature}.npz" for signature in inputs}
    request = {
        "kind": target.kind,
        "model": str(target.path.absolute()),
        "labels": str(target.labels.absolute()) if target.labels else "",
        "scorer": str(target.scorer.absolute()) if target.scorer else "",
        "calls": [
            {
                "signature": signature,
                "inputs": list(map(str, paths)),
                "outputs": str(outputs[signature]),
            }
            for signature, paths in inputs.items()
        ],
        "timed": NUM_TIMED,
    }
    request_path = folder / "request.json"
    request_path.write_text(json.dumps(request), encoding="utf-8")
    _run(request_path, target.name, _START_S + _PHOTO_S * num_photos * len(inputs))
    return {signature: _read(target, path) for signature, path in outputs.items()}


def _run(request_path: Path, name: str, limit_s: float) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_SCRIPT), str(request_path)],
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
            indices=outputs["indices"],
            latency_s=float(np.median(outputs["seconds"])),
        )
    if names != target.class_names:
        raise DataError(
            f"{target.name}: has the classes {', '.join(names)[:_MAX_MESSAGE]}. "
            f"Expected {', '.join(target.class_names)[:_MAX_MESSAGE]}."
        )
    shape = predictions.probabilities.shape
    expected = (len(predictions.indices), len(names))
    if shape not in (expected, (expected[0], expected[1] + 1)):
        raise DataError(
            f"{target.name}: returns {list(shape)} probabilities. Expected "
            f"{list(expected)}. Nothing was written."
        )
    return predictions
