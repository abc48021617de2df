"""Export the weights of a run, or its whole classifier with proof that it agrees."""

from pathlib import Path

from model.evaluation import run_evaluation
from model.export import job
from model.export.export_settings import Config
from model.networks import registry
from model.runs import finished_run
from model.weights import model_variables, weight_file
from pipeline.system import command_line, file_system


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
