"""Export the weights of a run, or its whole classifier with proof that it agrees."""

import contextlib
import itertools
import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from model.evaluation import run_evaluation
from model.export import (
    converters,
    exportable,
    model_card,
    run_exported_file,
    verify_file,
)
from model.export.export_settings import Config
from model.export.exportable import Exportable, HeldoutPhotos
from model.export.formats import litert, onnx_file, saved_model
from model.export.verify_file import Exported, ModelFacts, QuantizationCost, Target
from model.loop import training_loop
from model.networks import registry
from model.runs import finished_run, run_folder, run_list
from model.weights import model_variables, weight_file
from pipeline.batches import image_batches
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError
from pipeline.system.remote import mirror

# The largest difference allowed between two probabilities. Another library adds in
# another order. Where it also resizes (ONNX), a pixel halfway between two levels may be
# rounded to the other one. A float16 weight has 11 bits. The probabilities of int8
# differ by design, so its cost is measured as accuracy.
_EXACT = 1e-4
TOLERANCE = {"saved_model": _EXACT, "onnx": 1e-3, "litert": _EXACT, "keras": _EXACT}
QUANTIZED = {"float16": 1e-2, "int8": 1.0}
_CALIBRATION_PHOTOS = 128  # of int8; TensorFlow's guides recommend 100 to 500
PACKAGES = {"onnx": ("onnx", "onnxruntime", "tf2onnx"), "litert": ("ai_edge_litert",)}
# Format -> default name; {} is filled with the kind of quantization.
_NAMES = {
    "saved_model": "saved_model",
    "onnx": "model.onnx",
    "litert": "model{}.tflite",
    "keras": "model.keras",
}


def export_weights(config: Config) -> dict[str, tuple[int, ...]]:
    """Write the weights of a run; return {"layer/variable": shape} of the file."""
    path = Path(config.weights)
    weight_file.writer_of(path)  # refuses any other ending
    run = run_list.read(config.run_dir)
    command_line.log(run_evaluation.describe(run))
    model = run.load_model()
    arrays = model_variables.gather(model)
    metadata = exportable.describe(run)
    if metadata["network"] not in registry.NETWORKS:  # built from a configuration
        metadata["keras_config"] = model.to_json()
    file_system.prepare_folder(path.parent)
    with file_system.replacing(path, suffix=f".partial{path.name}") as partial:
        if path.name.endswith(".weights.h5"):  # the layout that Keras 3 reads
            model.save_weights(partial)
            weight_file.mark_h5(partial, metadata)
        else:
            weight_file.write(partial, arrays, metadata)
    return {name: array.shape for name, array in arrays.items()}


def export_classifier(config: Config) -> Exported:
    """Write a run's classifier in a format, if the file agrees with the run.

    Raises:
        DataError: the classifier cannot be exported, or the file does not agree. No
            file is left under the name then.
    """
    packages = PACKAGES.get(config.format, ())
    converters.require_packages(f"--format={config.format}", *packages)
    run = run_list.read(config.run_dir)
    path = choose_path(run.directory, config)
    card = model_card.choose(path, config.format)
    source = exportable.load_run(run)
    heldout = exportable.load_heldout(run, config.data)
    tolerance = QUANTIZED.get(config.quantize, TOLERANCE[config.format])
    command_line.log(run_evaluation.describe(run))  # now that it has been evaluated
    file_system.prepare_folder(path.parent)
    models = [_measure_run(run, source)]
    cost = None
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(_written(config, source, heldout, path))
        if config.quantize != "none":
            models += _compare_in_float32(source, heldout, path.name)
        # Quantization changes stranger scores a little; the output says how much.
        limit = verify_file.SCORE_TOLERANCE if config.quantize == "none" else math.inf
        models += verify_file.compare(target, heldout, source, tolerance, limit)
        if config.quantize != "none":
            cost = _measure_cost(target, heldout, source, config.max_accuracy_loss)
        exported = Exported(
            path=path,
            card=card,
            kind=config.format,
            quantize=config.quantize,
            models=tuple(models),
            num_photos=min(len(heldout.rows), verify_file.NUM_PHOTOS),
            tolerance=tolerance,
            cost=cost,
        )
        text = model_card.render(run, source, heldout, exported)
        partial = target.path / card.name
        if card.parent != path:
            partial = stack.enter_context(file_system.replacing(card))
        partial.write_bytes(text.encode())
    return exported


def choose_path(run_dir: Path, config: Config) -> Path:
    """Return --out or the default in the run's folder, if it may be replaced."""
    kind = "" if config.quantize == "none" else f"-{config.quantize}"
    place = file_system.path(config.out)  # with other files beside it
    path = mirror.local(str(place.parent)) / place.name
    if not config.out:
        path = run_dir / "exported" / _NAMES[config.format].format(kind)
        file_system.refuse_link(path.parent)
    if config.format == "saved_model":
        is_free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        if not is_free and not (path / "saved_model.pb").is_file():
            raise DataError(
                f"--out={path}: exists and is not a SavedModel. Choose a new folder."
            )
    elif config.format == "keras" and path.suffix != ".keras":
        raise DataError(f"--out={path}: expected a name that ends in .keras.")
    elif path.is_dir() or config.out.endswith("/"):
        name = _NAMES[config.format].format(kind)
        raise DataError(
            f"--out={config.out}: is a folder. Expected a file, such as {path / name}"
        )
    return path


@contextlib.contextmanager
def _written(
    config: Config, source: Exportable, heldout: HeldoutPhotos, path: Path
) -> Iterator[Target]:
    """Write under a temporary name, which replaces `path` at the end; yield it."""
    with contextlib.ExitStack() as stack:
        labels = scorer = None
        if config.format == "saved_model":
            partial = stack.enter_context(file_system.replacing_folder(path))
            saved_model.write(source, partial)
        else:
            suffix = f".partial{path.suffix}"
            partial = stack.enter_context(file_system.replacing(path, suffix))
        if config.format == "keras":
            source.model.save(partial)
            weight_file.mark_keras(partial, source.metadata)
            labels = stack.enter_context(
                replacing_labels(path.with_name("labels.txt"), source.labels)
            )
            if source.score_model:
                beside = path.with_name(path.stem + exportable.SCORES_ENDING)
                scorer = stack.enter_context(
                    file_system.replacing(beside, ".partial.keras")
                )
                source.score_model.save(scorer)
        elif config.format == "onnx":
            onnx_file.write(source, partial)
        elif config.format == "litert":
            samples: list[np.ndarray] = []
            if config.quantize == "int8":
                records, count = heldout.records, _CALIBRATION_PHOTOS
                rows = records.included("train")
                samples = [*image_batches.sample(records, rows, source.spec, count)]
            litert.write(source, partial, config.quantize, samples)
        yield Target(
            kind=config.format,
            path=partial,
            name=path.name,
            class_names=source.class_names,
            labels=labels,
            scorer=scorer,
        )
        if config.format == "keras" and not scorer:  # one of an earlier export
            path.with_name(path.stem + exportable.SCORES_ENDING).unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_labels(path: Path, content: bytes) -> Iterator[Path]:
    """Write class names under a temporary name, which replaces `path` at the end."""
    if path.exists() and path.read_bytes() != content:
        raise DataError(
            f"{path}: has other class names than the run. Choose another --out, or "
            "remove the file."
        )
    with file_system.replacing(path) as partial:
        partial.write_bytes(content)
        yield partial


def _compare_in_float32(
    source: Exportable, heldout: HeldoutPhotos, name: str
) -> list[ModelFacts]:
    """Write and compare the same LiteRT file without quantization."""
    with file_system.scratch_folder() as scratch:
        target = Target(
            kind="litert",
            path=scratch / "float32.tflite",
            name=f"{name} in float32",
            class_names=source.class_names,
        )
        litert.write(source, target.path)
        return verify_file.compare(target, heldout, source, _EXACT)


def _measure_cost(
    target: Target, heldout: HeldoutPhotos, source: Exportable, allowed_loss: float
) -> QuantizationCost:
    cost = QuantizationCost(
        num_photos=len(heldout.rows),
        run_accuracy=heldout.accuracy(heldout.probabilities),
        file_accuracy=verify_file.accuracy(target, heldout, source.spec),
        allowed_loss=allowed_loss,
    )
    if cost.run_accuracy - cost.file_accuracy > allowed_loss:
        raise DataError(
            f"{target.name}: accuracy is {cost.file_accuracy:.4f} on {cost.num_photos} "
            f"test photos, and {cost.run_accuracy:.4f} without quantization. Expected "
            f"a loss of at most --max_accuracy_loss={allowed_loss:g}. Nothing was "
            "written."
        )
    return cost


def _measure_run(run: finished_run.FinishedRun, source: Exportable) -> ModelFacts:
    """Measure the run's own model in this process."""
    step = training_loop.make_predict_step(source.model)
    size_px = source.spec.size_px
    view = np.full((1, size_px, size_px, 3), 128, np.float32)
    calls = itertools.repeat(lambda: step(view).numpy())
    return ModelFacts(
        name=f"{run_folder.MODEL_NAME} of the run",
        takes="views",
        size_bytes=(run.directory / run_folder.MODEL_NAME).stat().st_size,
        latency_s=statistics.median(
            run_exported_file.time_calls(calls, verify_file.NUM_TIMED)
        ),
    )


def as_text(exported: Exported) -> str:
    """Format sizes, latencies and differences as a table, then what was compared."""
    lines = command_line.table(
        ("model", "takes", "MB", "ms a photo", "difference"),
        (
            (
                facts.name,
                facts.takes,
                f"{facts.size_bytes / 1e6:.1f}",
                f"{facts.latency_s * 1000:.1f}",
                None if facts.difference is None else f"{facts.difference:.1e}",
            )
            for facts in exported.models
        ),
        left=2,
    )
    lines.append("")
    if exported.tolerance < 1:
        lines.append(
            "difference: the largest difference of probabilities between the run and "
            f"the file, in a process without Graft, on {exported.num_photos} held-out "
            f"photos; at most {exported.tolerance:g} is allowed"
        )
    else:
        lines.append(
            "difference: not limited, because int8 changes probabilities; its accuracy "
            "is limited instead"
        )
    if (difference := exported.models[-1].score_difference) is not None:
        lines.append(
            f"stranger scores differ from the run's by at most {difference:.1e}"
        )
    if cost := exported.cost:
        lines.append(
            f"accuracy on {cost.num_photos} test photos: {cost.file_accuracy:.4f} "
            f"(run: {cost.run_accuracy:.4f}, change "
            f"{cost.file_accuracy - cost.run_accuracy:+.4f}); a loss of "
            f"{cost.allowed_loss:g} is allowed"
        )
    lines.append(f"described in: {exported.card}")
    return "\n".join([*lines, f"written: {exported.path}"])
