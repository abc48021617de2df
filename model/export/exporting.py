"""Export the weights of a run, or its whole classifier with proof that it agrees."""

import dataclasses
from pathlib import Path
from typing import Literal

from model.evaluation import run_evaluation
from model.export import job
from model.networks import registry
from model.runs import finished_run
from model.weights import model_variables, weight_file
from pipeline.system import command_line, file_system


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
    """Write the weights of a run; return {"layer/variable": shape} of the file.

    Raises:
        DataError: the run is not as expected.
        errors.UnknownFormat: no weight format has this file ending.
    """
    path = Path(config.weights)
    weight_file.check_ending(path)
    run = finished_run.read(config.run_dir)
    command_line.log(run_evaluation.describe(run))
    model = run.load_model()
    arrays = model_variables.gather(model)
    network_name = run.config["network"]
    metadata = weight_file.describe(network_name, run.spec) | {
        "run": run.directory.name,
        "class_names": command_line.as_utf8("\n".join(run.class_names)),
    }
    if network_name not in registry.NETWORKS:  # it was built from a configuration
        metadata["keras_config"] = model.to_json()
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_system.replacing(path, suffix=f".partial{path.name}") as partial:
        if path.name.endswith(".weights.h5"):  # the layout that Keras 3 reads
            model.save_weights(partial)
            weight_file.mark_h5(partial, metadata)
        else:
            weight_file.write(partial, arrays, metadata)
    return {name: array.shape for name, array in arrays.items()}


def export_classifier(config: Config) -> job.Exported:
    """Write the whole classifier, if the file agrees with the run.

    Raises:
        DataError: the run cannot be exported in this format, or the file does not
            agree with it.
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
    """Format sizes, latencies and differences as a table, then what was compared."""
    width = max(len(facts.name) for facts in exported.models)
    lines = [
        f"{'model':{width}}  takes        MB  ms a photo  difference",
        *(
            f"{facts.name:{width}}  {facts.takes:6}  {facts.size_bytes / 1e6:7.1f}  "
            f"{facts.latency_s * 1000:10.1f}  {_difference(facts):>10}"
            for facts in exported.models
        ),
        "",
    ]
    cost = exported.cost
    if cost is None or exported.tolerance < 1:
        lines.append(
            "difference: the largest between a probability of the file, in a process "
            f"without Graft, and the run's, on {exported.num_photos} held-out photos; "
            f"at most {exported.tolerance:g} is allowed"
        )
    else:
        lines.append(
            "difference: not limited, because int8 changes probabilities; its accuracy "
            "is limited instead"
        )
    if cost is not None:
        lines.append(
            f"accuracy on {cost.num_photos} test photos: {cost.file_accuracy:.4f} "
            f"(run: {cost.run_accuracy:.4f}, change "
            f"{cost.file_accuracy - cost.run_accuracy:+.4f}); a loss of "
            f"{cost.allowed_loss:g} is allowed"
        )
    return "\n".join([*lines, f"written: {exported.path}"])


def _difference(facts: job.ModelFacts) -> str:
    return "-" if facts.difference is None else f"{facts.difference:.1e}"
