"""Evaluate a run on photos that its training has never seen.

    python evaluate.py --run_dir=runs/latest
    python evaluate.py --runs=runs/A,runs/B

Prints the accuracy with its 95 % interval and writes a report to the run's folder.
--runs says whether one run is better than another on the same photos. --ckpt evaluates
a weight file without any training.
"""

import pipeline.start  # noqa: F401 # isort: skip
import functools
from pathlib import Path
from typing import Any

from model.evaluation.evaluation_settings import GATES, Config
from pipeline.records import manifest
from pipeline.system import command_line, config_flags
from pipeline.system.errors import DataError


def evaluate(config: Config) -> dict[str, Any]:
    """Evaluate a run and write its report, or a pretrained network as it is.

    Returns:
        The figures of evaluation/<split>.json, and the paths of the files written.
    """
    from model.evaluation import evaluation_data, run_evaluation
    from model.evaluation.held_out import pooled_folds
    from model.reports import html_report
    from model.runs import run_list
    from model.weights import weight_settings

    if config.ckpt:
        return _evaluate_pretrained(config)
    if pooled_folds.num_folds(run_list.find(config.run_dir)):
        return html_report.finish(pooled_folds.evaluate_folds(config), config)
    run = run_list.read(config.run_dir)
    weight_settings.log_preprocessing(run.spec)
    with evaluation_data.open_data(config, run) as data:
        data = evaluation_data.check(run, data, config)
        manifest.check_files(data.records)
        if gate := next((name for name in GATES if getattr(config, name)), ""):
            evaluation_data.refuse_seen_photos(
                run,
                data.sha256,
                subject=f"--{gate}: {run.directory.name}",
                advice="Evaluate the test split, or other photos.",
            )
        evaluation = run_evaluation.evaluate_run(run, data, config)
        return html_report.finish(evaluation, config)


def _evaluate_pretrained(config: Config) -> dict[str, Any]:
    from model.evaluation import evaluation_data, weight_evaluation
    from model.weights import pretrained_classifier
    from pipeline.batches import image_batches

    weights = pretrained_classifier.load(
        config.ckpt, arch=config.arch, overrides=config.overrides, labels=config.labels
    )
    with evaluation_data.open_data(config) as data:
        weights = weights.recognise_preprocessing(
            functools.partial(image_batches.sample, data.records, data.rows)
        )
        return weight_evaluation.evaluate_weights(weights, data, config)


def compare(config: Config) -> dict[str, Any]:
    """Compare runs on the same photos; write and return the figures.

    A run that was trained on one of the photos is refused.
    """
    from model.evaluation.compare import run_comparison
    from model.runs import finished_run

    runs = finished_run.read_several(config.runs.split(","))
    figures, path = run_comparison.compare_runs(runs, config)
    return figures | {"written": str(path)}


def main(typed: dict[str, Any]) -> None:
    """Evaluate or compare as the flags say."""
    config = settings(typed)
    if config.list:
        from model.runs import run_list

        text = run_list.show(config.runs_dir, sort=config.sort, as_json=config.json)
        command_line.say(text)
        return
    # Only now, so that wrong flags are refused at once.
    import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
    from model.evaluation.compare import comparison
    from model.reports import text_report

    if config.strangers:
        from model.predict import stranger_evaluation

        figures = stranger_evaluation.evaluate(config)
        command_line.say(stranger_evaluation.as_text(figures))
        return
    if config.runs:
        command_line.say(comparison.as_text(compare(config)))
        return
    figures = evaluate(config)
    command_line.say(text_report.evaluation(figures))
    check_gates(figures, config)


def settings(typed: dict[str, Any]) -> Config:
    """Return the settings of flags; all photos count where none were held out."""
    data = typed.get("data", "")
    is_unsplit = data and not Path(data, manifest.HEAD_NAME).exists()
    default = {"split": "all"} if "ckpt" in typed or is_unsplit else {}
    return config_flags.build(Config, default | typed)


def check_gates(figures: dict[str, Any], config: Config) -> None:
    """Raise DataError if a figure is lower than the settings demand."""
    for gate, name in GATES.items():
        value, least = figures[name.replace(" ", "_")], getattr(config, gate)
        if value < least:
            raise DataError(
                f"{figures['run']}: {name} {value:.6g} on {config.split}, expected "
                f"--{gate}={least:.6g} or more"
            )


if __name__ == "__main__":
    command_line.run(main, Config)
