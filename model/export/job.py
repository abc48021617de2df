"""Write a run's model in a format, and keep the file only if it agrees with the run."""

import contextlib
import dataclasses
import itertools
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from model.evaluation import run_evaluation
from model.export import converters, exportable, heldout_photos, replay, verify_file
from model.export.formats import litert, onnx_file, saved_model
from model.loop import training_loop
from model.runs import finished_run, run_folder
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

# The largest difference allowed between two probabilities. Another library adds in
# another order. Where it also resizes (ONNX), a pixel halfway between two levels may be
# rounded to the other one. A float16 weight has 11 bits. The probabilities of int8
# differ by design, so its cost is measured as accuracy.
_EXACT = 1e-4
TOLERANCE = {"saved_model": _EXACT, "onnx": 1e-3, "litert": _EXACT, "keras": _EXACT}
QUANTIZED = {"float16": 1e-2, "int8": 1.0}
_INPUT_KINDS = {
    saved_model.PHOTOS: "files",
    saved_model.IMAGES: "images",
    "onnx": "images",
    "litert": "views",
    "keras": "views",
}
_FOLDER = "exported"  # in the run's folder
# Format -> default name; {} is filled with the kind of quantization.
_NAMES = {
    "saved_model": "saved_model",
    "onnx": "model.onnx",
    "litert": "model{}.tflite",
    "keras": "model.keras",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Size, speed and exactness of a model, one row of the printed table.

    Attributes:
        name: file name of the model, with the signature if it has several.
        takes: kind of input: "files", "images" of any size, or "views", which are
            images as the network sees them.
        size_bytes: size of the file, or of all files of a folder.
        latency_s: median duration of a call with one photo, in seconds.
        difference: largest difference from a probability of the run; None where the
            two were not compared.
    """

    name: str
    takes: str
    size_bytes: int
    latency_s: float
    difference: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationCost:
    """Accuracy that quantization costs on the test split.

    Attributes:
        num_photos: number of test photos.
        run_accuracy: accuracy of the run, 0..1.
        file_accuracy: accuracy of the exported file, 0..1.
        allowed_loss: largest loss allowed, 0..1.
    """

    num_photos: int
    run_accuracy: float
    file_accuracy: float
    allowed_loss: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported file that agrees with its run.

    Attributes:
        path: file or folder that was written.
        models: facts of the run's own model, then of the exported one.
        num_photos: number of photos that the run and the file both classified.
        tolerance: largest difference allowed between two probabilities.
        cost: cost of quantization; None without quantization.
    """

    path: Path
    models: tuple[ModelFacts, ...]
    num_photos: int
    tolerance: float
    cost: QuantizationCost | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """What every step of an export uses."""

    source: exportable.Exportable
    heldout: heldout_photos.HeldoutPhotos
    tolerance: float

    def verify(
        self, path: Path, kind: str, name: str, labels: Path | None = None
    ) -> tuple[ModelFacts, ...]:
        """Compare a file with the run; return facts for each signature of the file.

        Raises:
            DataError: they differ by more than the tolerance.
        """
        several = (saved_model.PHOTOS, saved_model.IMAGES)
        target = verify_file.Target(
            kind=kind,
            path=path,
            class_names=self.source.class_names,
            signatures=several if kind == "saved_model" else ("",),
            labels=labels,
        )
        agreements = verify_file.compare(target, self.heldout, self.source.spec)
        return tuple(self._facts(target, name, agreement) for agreement in agreements)

    def _facts(
        self, target: verify_file.Target, name: str, agreement: verify_file.Agreement
    ) -> ModelFacts:
        full_name = f"{name} {agreement.signature}".strip()
        if not agreement.difference <= self.tolerance:
            raise DataError(
                f"{full_name}: a probability in a fresh process differs from the run's "
                f"by {agreement.difference:.2g} on {agreement.num_photos} held-out "
                f"photos, alone or in a batch. Expected at most {self.tolerance:.2g}. "
                "Nothing was written. Export to another format."
            )
        return ModelFacts(
            name=full_name,
            takes=_INPUT_KINDS[agreement.signature or target.kind],
            size_bytes=_size_bytes(target.path),
            latency_s=agreement.latency_s,
            difference=agreement.difference,
        )


def export(
    run: finished_run.FinishedRun,
    format_name: str,
    *,
    data: str = "",
    out: str = "",
    quantize: str = "none",
    max_accuracy_loss: float = 0.0,
) -> Exported:
    """Write a run's model in a format, if the file agrees with the run.

    Args:
        run: run to export.
        format_name: format, one of export_settings.FORMATS.
        data: folder of the run's records, if they were moved; "" otherwise.
        out: name of the file or folder; "" for one in the run's folder.
        quantize: quantization of a LiteRT file, none, float16 or int8.
        max_accuracy_loss: accuracy that quantization may cost on the test split, 0..1.

    Raises:
        DataError: the run or its records are not as expected, a package is missing, a
            layer cannot be converted, or the file does not agree with the run. No file
            is left under the name then.
    """
    if format_name == "onnx":
        converters.require_packages(onnx_file.FORMAT, *onnx_file.PACKAGES)
    if format_name == "litert":
        converters.require_packages(litert.FORMAT, *litert.PACKAGES)
    path = choose_path(run, format_name, out, quantize)
    job = _Job(
        source=exportable.load_run(run),
        heldout=heldout_photos.load(run, data),
        tolerance=QUANTIZED.get(quantize, TOLERANCE[format_name]),
    )
    command_line.log(run_evaluation.describe(run))  # evaluated by load
    path.parent.mkdir(parents=True, exist_ok=True)
    models = [_measure_run(run, job)]
    cost = None
    with _written(job, path, format_name, quantize) as (partial, labels):
        if quantize != "none":
            models += _verify_in_float32(job, path.name)
        models += job.verify(partial, format_name, path.name, labels)
        if quantize != "none":
            cost = _measure_cost(job, partial, path.name, max_accuracy_loss)
    return Exported(
        path=path,
        models=tuple(models),
        num_photos=len(job.heldout.sample(verify_file.NUM_PHOTOS)),
        tolerance=job.tolerance,
        cost=cost,
    )


def choose_path(
    run: finished_run.FinishedRun, format_name: str, out: str, quantize: str
) -> Path:
    """Return the path that was asked for, or the format's default in the run's folder.

    Raises:
        DataError: the name does not suit the format, or belongs to something else.
    """
    kind = "" if quantize == "none" else f"-{quantize}"
    default = run.directory / _FOLDER / _NAMES[format_name].format(kind)
    path = Path(out) if out else default
    if format_name == "keras" and path.suffix != ".keras":
        raise DataError(f"--out={path}: expected a name that ends in .keras.")
    if format_name != "saved_model":
        if path.is_dir():
            raise DataError(f"--out={path}: is a folder. Expected the name of a file.")
        return path
    is_free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not is_free and not (path / "saved_model.pb").is_file():
        raise DataError(
            f"--out={path}: exists and is not a SavedModel. Choose a new folder."
        )
    return path


@contextlib.contextmanager
def _written(
    job: _Job, path: Path, format_name: str, quantize: str
) -> Iterator[tuple[Path, Path | None]]:
    """Write under a temporary name; yield it and the labels file, if any."""
    source = job.source
    if format_name == "saved_model":
        with file_system.replacing_folder(path) as partial:
            saved_model.write(source, partial)
            yield partial, None
    elif format_name == "keras":
        with (
            file_system.replacing(path, suffix=".partial.keras") as partial,
            replacing_labels(path.with_name("labels.txt"), source.labels) as labels,
        ):
            source.model.save(partial)
            yield partial, labels
    else:
        with file_system.replacing(path) as partial:
            if format_name == "onnx":
                onnx_file.write(source, partial)
            else:
                samples = (
                    heldout_photos.calibration_views(job.heldout.records, source.spec)
                    if quantize == "int8"
                    else []
                )
                litert.write(source, partial, quantize, samples)
            yield partial, None


@contextlib.contextmanager
def replacing_labels(path: Path, content: bytes) -> Iterator[Path]:
    """Write class names under a temporary name, which replaces `path` at the end.

    Raises:
        DataError: `path` has other class names.
    """
    if path.exists() and path.read_bytes() != content:
        raise DataError(
            f"{path}: has other class names than the run. Choose another --out, or "
            "remove the file."
        )
    with file_system.replacing(path) as partial:
        partial.write_bytes(content)
        yield partial


def _verify_in_float32(job: _Job, name: str) -> tuple[ModelFacts, ...]:
    """Verify the same LiteRT file without quantization, for comparison."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "float32.tflite"
        litert.write(job.source, path)
        exact = dataclasses.replace(job, tolerance=_EXACT)
        return exact.verify(path, "litert", f"{name} in float32")


def _measure_cost(job: _Job, path: Path, name: str, allowed: float) -> QuantizationCost:
    target = verify_file.Target(
        kind="litert", path=path, class_names=job.source.class_names
    )
    cost = QuantizationCost(
        num_photos=len(job.heldout.rows),
        run_accuracy=job.heldout.accuracy,
        file_accuracy=verify_file.accuracy(target, job.heldout, job.source.spec),
        allowed_loss=allowed,
    )
    if cost.run_accuracy - cost.file_accuracy > allowed:
        raise DataError(
            f"{name}: accuracy is {cost.file_accuracy:.4f} on {cost.num_photos} test "
            f"photos, and {cost.run_accuracy:.4f} without quantization. Expected a "
            f"loss of at most --max_accuracy_loss={allowed:g}. Nothing was written."
        )
    return cost


def _measure_run(run: finished_run.FinishedRun, job: _Job) -> ModelFacts:
    """Measure the run's own model in this process."""
    path = run.directory / run_folder.MODEL_NAME
    step = training_loop.make_predict_step(job.source.model)
    size_px = job.source.spec.size_px
    view = np.full((1, size_px, size_px, 3), 128, np.float32)
    calls = itertools.repeat(lambda: step(view).numpy())
    seconds = replay.time_calls(calls, verify_file.NUM_TIMED)
    return ModelFacts(
        name=f"{run_folder.MODEL_NAME} of the run",
        takes="views",
        size_bytes=path.stat().st_size,
        latency_s=statistics.median(seconds),
    )


def _size_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
