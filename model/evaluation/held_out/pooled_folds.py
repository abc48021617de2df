"""Evaluate all folds together: each photo once, by the run that has not seen it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.evaluation import run_evaluation, stored_logits
from model.evaluation.evaluation_settings import Config
from model.evaluation.held_out import label_errors
from model.evaluation.run_evaluation import EvaluationData
from model.evaluation.stored_logits import Predictions, pool
from model.loop import metrics
from model.runs import finished_run, run_folder, run_list
from model.runs.finished_run import FinishedRun
from pipeline.records import manifest
from pipeline.system import command_line

_SHARED = ("precision", "training_precision", "versions", "photos_seen")
_OF_EACH = ("run", "num_examples", "accuracy", "accuracy_ci95")


def num_folds(directory: Path) -> int:
    """Return how many folds a folder holds the runs of; 0 for other folders."""
    path = directory / run_folder.REPEATS

    def check(content: Any) -> int:
        return int(finished_run.expect("folds", content["settings"]["folds"], int))

    return int(finished_run.read_json(path, check)) if path.exists() else 0


def evaluate_folds(config: Config) -> run_evaluation.RunEvaluation:
    """Evaluate all folds together, after each one that is not evaluated yet.

    Writes folds.json, folds.npz and the doubts. The `run` of the result stands for all
    runs: it has their folder, settings and records.
    """
    directory = run_folder.shown(run_list.find(config.run_dir))
    if config.data or config.split != "test":
        raise run_folder.RunError(
            f"--{'data' if config.data else 'split'}: the folds in {directory} are "
            "evaluated on their own test photos. Leave it out, or name a fold: "
            f"--run_dir={directory}/fold-0"
        )
    runs = {f"fold-{n}": directory / f"fold-{n}" for n in range(num_folds(directory))}
    folds, parts, every = {}, {}, []
    for name, path in runs.items():
        if not finished_run.is_complete(path):
            raise run_folder.RunError(
                f"{path}: this training is not complete. Continue it: python train.py "
                f"--resume={directory}"
            )
        folds[name] = finished_run.read(str(path))
        parts[name], figures = _evaluated(folds[name], config)
        every.append(figures)
    predictions, run = pool(parts), _stand_in(directory, folds["fold-0"])
    source = str(run.config["data"]["path"])
    records = folds["fold-0"].read_records()
    data = EvaluationData(records=records, split="all", folder=source)
    if {row.path for row in data.rows} != {row.path for row in predictions.rows}:
        raise run_folder.RunError(f"{directory}: its folds do not test all its photos.")
    doubts = label_errors.figures(predictions, label_errors.OF_FOLDS)
    label_errors.write(directory, doubts)
    name = "folds" + f"-{config.tta}" * (config.tta != "none")
    path = run.evaluation_path(name, run.manifest_digest)
    predictions.save(path.with_suffix(".npz"))
    figures = _pooled_figures(run, predictions, every)
    figures["label_doubts"] = label_errors.listed(doubts)
    stored_logits.write_figures(path, figures)
    return run_evaluation.RunEvaluation(
        run=run,
        data=data,
        model=None,
        predictions=predictions,
        figures=figures,
        path=path,
        folds=folds,
    )


def _evaluated(run: FinishedRun, config: Config) -> tuple[Predictions, dict[str, Any]]:
    """Return predictions and figures of a fold, evaluating it now if necessary."""
    data = EvaluationData(records=run.read_records(), split="test")
    manifest.check_files(data.records)  # links may lead to changed files
    name = "test" + f"-{config.tta}" * (config.tta != "none")
    path = stored_logits.find(run, name, run.manifest_digest)
    if path is None:
        command_line.log(f"{run.directory.name}: not evaluated yet; evaluating it now")
        path = run_evaluation.evaluate_run(run, data, config).path
    examples = stored_logits.read(path.with_suffix(".npz"))
    predictions = Predictions(
        rows=data.rows,
        labels=examples.label,
        logits=examples.logits,
        class_names=run.class_names,
        temperature=run.temperature,
        tta=config.tta,
    )
    return predictions, stored_logits.read_figures(path.with_suffix(".json"))


def _stand_in(directory: Path, fold: FinishedRun) -> FinishedRun:
    """Return a run that stands for all folds, of which one is given."""

    def extract(content: Any) -> dict[str, Any]:
        path = finished_run.expect("data", content["settings"]["data"], str)
        digest = finished_run.expect("digest", content["manifest_digest"], str)
        data = {**fold.config["data"], "path": path, "manifest_digest": digest}
        return {**fold.config, "settings": dict(content["settings"]), "data": data}

    config = finished_run.read_json(directory / run_folder.REPEATS, extract)
    return FinishedRun(directory=directory, config=config)


def _pooled_figures(
    run: FinishedRun, predictions: Predictions, every: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return folds.json without doubts; `every` has the figures of each fold."""
    hits, groups = predictions.predicted == predictions.labels, predictions.groups
    near_copies = every[0]["near_copies"]
    if "photos" in near_copies:
        photos = [p for f in every for p in f["near_copies"].get("photos", ())]
        photos.sort(key=lambda photo: -photo["similarity"])
        near_copies = near_copies | {"photos": photos}
    differ = predictions.effective_examples < metrics.effective_number(hits, groups)
    return {
        **{name: every[0][name] for name in _SHARED},
        **predictions.figures(),
        "run": run.directory.name,
        "split": "folds",
        "folds": [{name: figures[name] for name in _OF_EACH} for figures in every],
        "folds_differ": differ,
        "near_copies": near_copies,
        "data": {k: run.config["data"][k] for k in ("path", "manifest_digest")},
        "model_sha256": ", ".join(figures["model_sha256"][:12] for figures in every),
        "seconds": sum(figures["seconds"] for figures in every),
        "images_per_s": sum(f["images_per_s"] for f in every) / len(every),
    }
