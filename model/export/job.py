"""A run and a format -> a file that is proved to say what the run says."""

import contextlib
import dataclasses
import itertools
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from model.export import (
    errors,
    exportable,
    heldout_photos,
    keras_file,
    litert,
    onnx_file,
    places,
    replay,
    saved_model,
    verify_file,
)
from model.loop import training_loop
from model.runs import finished_run, run_folder
from pipeline.system import file_system

FORMATS = ("saved_model", "onnx", "litert", "keras")
QUANTIZE = ("none", "float16", "int8")
# The largest difference allowed between two probabilities. Another library adds up in
# another order; where it also resizes (ONNX), a pixel right between two levels may be
# rounded to the other one; a weight in float16 has 11 bits. What whole numbers cost is
# measured as accuracy, for probabilities that differ are what was asked for.
_EXACT = 1e-4
TOLERANCE = {"saved_model": _EXACT, "onnx": 1e-3, "litert": _EXACT, "keras": _EXACT}
QUANTIZED = {"float16": 1e-2, "int8": 1.0}
_KINDS = {
    saved_model.PHOTOS: "files",
    saved_model.IMAGES: "images",
    "onnx": "images",
    "litert": "views",
    "keras": "views",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """What is told of a model.

    Attributes:
        name: of it.
        takes: "files", "images" of any size, or "views": as the network sees them.
        size_bytes: of the file, or of all files of a folder.
        latency_s: median of single calls with one photo.
        difference: the largest from the run's probabilities; None where not compared.
    """

    name: str
    takes: str
    size_bytes: int
    latency_s: float
    difference: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What quantization costs.

    Attributes:
        num_photos: of the test split.
        of_run: accuracy of the run, 0..1.
        of_file: accuracy of the exported file.
        allowed: largest loss that is taken.
    """

    num_photos: int
    of_run: float
    of_file: float
    allowed: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written.

    Attributes:
        path: of the file or folder.
        lines: the run's own model first.
        num_photos: that the run and the file were both asked about.
        tolerance: largest difference allowed between two probabilities.
        cost: of quantization; None without.
    """

    path: Path
    lines: tuple[Line, ...]
    num_photos: int
    tolerance: float
    cost: Cost | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """What all steps of a job go by."""

    source: exportable.Exportable
    held: heldout_photos.HeldOut
    tolerance: float

    def checked(
        self, path: Path, kind: str, name: str, labels: Path | None = None
    ) -> tuple[Line, ...]:
        """Compares a file with the run; one line for each way to call it.

        Raises:
            errors.ExportError: they differ by more than allowed.
        """
        several = (saved_model.PHOTOS, saved_model.IMAGES)
        target = verify_file.Target(
            kind=kind,
            path=path,
            class_names=self.source.class_names,
            signatures=several if kind == "saved_model" else ("",),
            labels=labels,
        )
        found = verify_file.compare(target, self.held, self.source.spec)
        return tuple(self._line(target, name, one) for one in found)

    def _line(
        self, target: verify_file.Target, name: str, found: verify_file.Agreement
    ) -> Line:
        shown = f"{name} {found.signature}".strip()
        if not found.difference <= self.tolerance:
            raise errors.ExportError(
                f"{shown}: in a fresh process a probability differs from the run's by "
                f"{found.difference:.2g} on {found.num_photos} held-out photos, alone "
                f"or in a batch; expected at most {self.tolerance:.2g}; nothing was "
                "written, export to another format"
            )
        return Line(
            name=shown,
            takes=_KINDS[found.signature or target.kind],
            size_bytes=_size(target.path),
            latency_s=found.latency_s,
            difference=found.difference,
        )


def export(
    finished: finished_run.FinishedRun,
    form: str,
    *,
    data: str = "",
    out: str = "",
    quantize: litert.Quantize = "none",
    max_accuracy_loss: float = 0.0,
) -> Exported:
    """Writes a run's model in a format, if the file then says what the run says.

    Args:
        finished: the run.
        form: one of FORMATS.
        data: folder of the run's records, if they were moved; "" otherwise.
        out: path of the file or folder; "" for one in the run's folder.
        quantize: one of QUANTIZE, of "litert".
        max_accuracy_loss: that quantization may cost on the test split, 0..1.

    Raises:
        DataError: the run or its records are not as they should be.
        errors.ExportError: a package is missing, a layer cannot be exported, or the
            file does not say what the run says; nothing is left under its name.
    """
    if form == "onnx":
        onnx_file.check_packages()
    if form == "litert":
        litert.check_packages()
    path = places.choose(finished, form, out, quantize)
    work = _Work(
        source=exportable.of_run(finished),
        held=heldout_photos.of_run(finished, data),
        tolerance=QUANTIZED.get(quantize, TOLERANCE[form]),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [_of_run(finished, work)]
    cost = None
    with _written(work, path, form, quantize) as (partial, labels):
        if quantize != "none":
            lines += _in_float32(work, path.name)
        lines += work.checked(partial, form, path.name, labels)
        if quantize != "none":
            cost = _cost(work, partial, path.name, max_accuracy_loss)
    return Exported(
        path=path,
        lines=tuple(lines),
        num_photos=len(work.held.sample(verify_file.NUM_PHOTOS)),
        tolerance=work.tolerance,
        cost=cost,
    )


@contextlib.contextmanager
def _written(
    work: _Work, path: Path, form: str, quantize: litert.Quantize
) -> Iterator[tuple[Path, Path | None]]:
    """Gives what was written under a name for the time being, and labels beside it."""
    source = work.source
    if form == "saved_model":
        with places.replacing_folder(path) as partial:
            saved_model.write(source, partial)
            yield partial, None
    elif form == "keras":
        beside = path.with_name("labels.txt")
        content = keras_file.labels(source)
        with (
            file_system.replacing(path, suffix=".partial.keras") as partial,
            places.replacing_labels(beside, content) as labels,
        ):
            keras_file.write(source, partial)
            yield partial, labels
    elif form == "litert":
        samples = (
            heldout_photos.calibration(work.held.found, source.spec)
            if quantize == "int8"
            else []
        )
        with file_system.replacing(path) as partial:
            litert.write(source, partial, quantize, samples)
            yield partial, None
    else:
        with file_system.replacing(path) as partial:
            onnx_file.write(source, partial)
            yield partial, None


def _in_float32(work: _Work, name: str) -> tuple[Line, ...]:
    """The same file without quantization, for comparison."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "float32.tflite"
        litert.write(work.source, path)
        as_exact = dataclasses.replace(work, tolerance=_EXACT)
        return as_exact.checked(path, "litert", f"{name} in float32")


def _cost(work: _Work, path: Path, name: str, allowed: float) -> Cost:
    target = verify_file.Target(
        kind="litert", path=path, class_names=work.source.class_names
    )
    cost = Cost(
        num_photos=len(work.held.rows),
        of_run=work.held.accuracy,
        of_file=verify_file.accuracy(target, work.held, work.source.spec),
        allowed=allowed,
    )
    if cost.of_run - cost.of_file > allowed:
        raise errors.ExportError(
            f"{name}: accuracy {cost.of_file:.4f} on {cost.num_photos} test photos, "
            f"{cost.of_run:.4f} without quantization; expected at most "
            f"--max_accuracy_loss={allowed:g} less; nothing was written"
        )
    return cost


def _of_run(finished: finished_run.FinishedRun, work: _Work) -> Line:
    """The run's own model in this process."""
    path = finished.directory / run_folder.MODEL_NAME
    step = training_loop.make_predict_step(work.source.model)
    size_px = work.source.spec.size_px
    view = np.full((1, size_px, size_px, 3), 128, np.float32)
    calls = itertools.repeat(lambda: step(view).numpy())
    seconds = replay.seconds_of(calls, verify_file.NUM_TIMED)
    return Line(
        name=f"{run_folder.MODEL_NAME} of the run",
        takes="views",
        size_bytes=path.stat().st_size,
        latency_s=statistics.median(seconds),
    )


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    return path.stat().st_size
