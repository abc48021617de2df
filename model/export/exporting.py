"""Export the weights of a run, or the whole classifier with a proof."""

import dataclasses
from pathlib import Path
from typing import Literal

from model.export import job
from model.networks import registry
from model.runs import finished_run
from model.weights import restore, weight_file
from pipeline.system import command_line, file_system

_NONE = "-"  # in a table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of an export.

    Attributes:
        run_dir: the run.
        data: folder of its records, if they were moved; "" otherwise.
        weights: file to write the weights alone to; "" for none.
        format: of the whole classifier, one of job.FORMATS; "" for none.
        out: file or folder of the classifier; "" for one in the run's folder.
        quantize: how a LiteRT file is made smaller, one of job.QUANTIZE.
        max_accuracy_loss: that quantization may cost on the test split, 0..1.
    """

    run_dir: str = "runs/latest"
    data: str = ""
    weights: str = ""
    format: str = ""
    out: str = ""
    quantize: Literal["none", "float16", "int8"] = "none"
    max_accuracy_loss: float = 0.02

    def __post_init__(self) -> None:
        if self.weights and self.format:
            raise ValueError("--weights: does not go together with --format")
        if self.quantize != "none" and self.format != "litert":
            raise ValueError(
                f"--quantize={self.quantize}: expected --format=litert beside it"
            )
        for name in ("out", "data"):
            if getattr(self, name) and not self.format:
                raise ValueError(f"--{name}: expected --format beside it")
        if not 0 <= self.max_accuracy_loss <= 1:
            raise ValueError(
                f"--max_accuracy_loss={self.max_accuracy_loss}: expected 0 to 1"
            )


def export(config: Config) -> dict[str, tuple[int, ...]]:
    """Exports weights; returns {"layer/variable": shape} of what was written.

    Raises:
        DataError: the run is not as it should be.
        errors.UnknownFormat: no format has such an ending.
    """
    path = Path(config.weights)
    weight_file.check_ending(path)
    finished = finished_run.read(config.run_dir)
    model = finished.load_model()
    arrays = restore.gather(model)
    network_name = finished.config["network"]
    about = weight_file.describe(network_name, finished.spec) | {
        "run": finished.directory.name,
        "class_names": command_line.as_utf8("\n".join(finished.class_names)),
    }
    if network_name not in registry.NETWORKS:  # it was made of a configuration
        about["keras_config"] = model.to_json()
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_system.replacing(path, suffix=f".partial{path.name}") as partial:
        if path.name.endswith(".weights.h5"):  # as Keras 3 itself reads it
            model.save_weights(partial)
            weight_file.mark_h5(partial, about)
        else:
            weight_file.write(partial, arrays, about)
    return {name: array.shape for name, array in arrays.items()}


def export_classifier(config: Config) -> job.Exported:
    """Exports the whole classifier and proves it.

    Raises:
        DataError: the run cannot be exported so, or the file does not say what
            the run says.
    """
    return job.export(
        finished_run.read(config.run_dir),
        config.format,
        data=config.data,
        out=config.out,
        quantize=config.quantize,
        max_accuracy_loss=config.max_accuracy_loss,
    )


def as_text(exported: job.Exported) -> str:
    """Sizes, latencies and differences as a table, and what quantization costs."""
    width = max(len(line.name) for line in exported.lines)
    rows = [
        f"{'model':{width}}  takes        MB  ms a photo  difference",
        *(
            f"{line.name:{width}}  {line.takes:6}  {line.size_bytes / 1e6:7.1f}  "
            f"{line.latency_s * 1000:10.1f}  {_difference(line):>10}"
            for line in exported.lines
        ),
        "",
    ]
    cost = exported.cost
    if cost is None or exported.tolerance < 1:
        rows.append(
            "difference: the largest between a probability of the file, in a process "
            f"without Graft, and the run's, on {exported.num_photos} held-out photos; "
            f"allowed {exported.tolerance:g}"
        )
    else:
        rows.append(
            "difference: as found; int8 is judged by the accuracy that it costs, its "
            "probabilities are others"
        )
    if cost is not None:
        rows.append(
            f"accuracy on {cost.num_photos} test photos: {cost.of_file:.4f}, of the "
            f"run {cost.of_run:.4f}: {cost.of_file - cost.of_run:+.4f}; a loss of "
            f"{cost.allowed:g} is allowed"
        )
    return "\n".join([*rows, f"written: {exported.path}"])


def _difference(line: job.Line) -> str:
    return _NONE if line.difference is None else f"{line.difference:.1e}"
