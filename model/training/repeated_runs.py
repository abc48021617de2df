"""Train several times: with other seeds, or each time with another fold for testing."""

import dataclasses
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import run_evaluation
from model.evaluation.split_evaluation import EvaluationData
from model.loop import metrics
from model.runs import finished_run, run_folder
from model.training import settings, train_run
from pipeline import split
from pipeline.records import manifest, staging
from pipeline.system import command_line, file_system

_RECORDS_NAME = "records"  # folder of the records of all folds


def repeat(config: settings.Config) -> Path:
    """Train and test with several seeds or folds; return the folder of all runs.

    The folder's repeats.json holds settings and results.
    """
    config = dataclasses.replace(config, data=str(Path(config.data).resolve()))
    records = train_run.read_records(config.data)
    with run_folder.reserved(config.run_dir, config.ckpt) as directory:
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory, config, records, {})
        return _run_all(config, records, directory)


def resume(directory: Path) -> Path:
    """Continue runs of several seeds or folds; return the folder of all runs."""
    path = directory / run_folder.REPEATS
    facts = operator.itemgetter("settings", "manifest_digest")
    values, manifest_digest = finished_run.read_json(path, facts)
    config = settings.from_run(path, values)
    records = train_run.read_records(config.data)
    run_folder.check_records(directory, str(manifest_digest), records)
    return _run_all(config, records, directory.resolve())


def _run_all(
    config: settings.Config, records: manifest.Manifest, directory: Path
) -> Path:
    """Train and test all runs that are not complete, and write their summary."""
    try:
        figures = _test_all(config, records, directory)
    finally:
        if not any(map(run_folder.is_run, directory.iterdir())):
            run_folder.RunFolder(directory=directory).discard()
    summaries = {
        network: summarise(runs, folds=bool(config.folds))
        for network, runs in figures.items()
    }
    others = {network: summary for network, summary in summaries.items() if network}
    _write(directory, config, records, summaries[""] | others)
    for network, summary in summaries.items():
        command_line.say(as_text(summary, network))
    return directory


def _test_all(
    config: settings.Config, records: manifest.Manifest, directory: Path
) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Return {network: {run: figures on its test photos}}."""
    networks = ["", train_run.SCRATCH] if config.compare == "scratch" else [""]
    figures: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in networks}
    features = ""
    for name, member in _prepare_runs(config, records, directory).items():
        run_dir = directory / name
        file_system.refuse_link(run_dir)
        command_line.log(f"{name}:")
        # A summary without a run that diverged would be too good.
        if not finished_run.is_complete(run_dir) and run_folder.is_run(run_dir):
            train_run.resume(run_dir)
        elif not run_folder.is_run(run_dir):
            # All heads sit on the same layers.
            member = dataclasses.replace(member, features=features or member.features)
            train_run.train(member)
        features = finished_run.read(str(run_dir)).config["features"]
        photos = EvaluationData(records=manifest.read(Path(member.data)), split="test")
        for network in networks:
            run = finished_run.read(str(run_dir / network))
            evaluation = run_evaluation.evaluate_run(run, photos)
            figures[network][name] = evaluation.figures
    return figures


def _prepare_runs(
    config: settings.Config, records: manifest.Manifest, directory: Path
) -> dict[str, settings.Config]:
    """Write the records of folds; return {name of a run and its folder: settings}."""
    single = dataclasses.replace(config, seeds=1, folds=0, data=str(records.directory))
    if not config.folds:
        return {
            f"seed-{seed}": dataclasses.replace(
                single, seed=seed, run_dir=str(directory / f"seed-{seed}")
            )
            for seed in range(config.seed, config.seed + config.seeds)
        }
    runs = {}
    for fold in range(config.folds):
        name = f"fold-{fold}"
        folder = file_system.make_inside(directory, _RECORDS_NAME, name)
        _write_fold(records, folder, config, fold)
        runs[name] = dataclasses.replace(
            single, data=str(folder), run_dir=str(directory / name)
        )
    return runs


def _write_fold(
    records: manifest.Manifest, folder: Path, config: settings.Config, fold: int
) -> None:
    """Write the records in another split: a manifest, and links to the files.

    Where the file system has hard links, a later conversion leaves these files as they
    are.
    """
    if (folder / manifest.HEAD_NAME).exists():
        return  # written before the runs were stopped
    for name in {row.file for row in records.included()}:
        link = folder / name
        record_file = (records.directory / name).resolve()
        link.unlink(missing_ok=True)  # of runs that were stopped here
        try:
            link.hardlink_to(record_file)
        except OSError:  # on another file system
            link.symlink_to(record_file)
    options = split.Config(seed=config.seed, folds=config.folds, fold=fold)
    changed = split.split_rows(options, records)
    with staging.staged(folder) as partial:
        dataclasses.replace(changed, directory=folder).stage(partial)
        staging.commit(folder)


def is_repeated(directory: Path) -> bool:
    """Return whether a folder holds runs of several seeds or folds."""
    return (directory / run_folder.REPEATS).exists()


def _write(
    directory: Path,
    config: settings.Config,
    records: manifest.Manifest,
    results: Mapping[str, Any],
) -> None:
    """Write repeats.json: what is to be trained, and the results so far."""
    content = {
        "settings": dataclasses.asdict(config),
        "manifest_digest": records.digest,
        **results,
    }
    folder = run_folder.RunFolder(directory=directory)
    folder.write_json(run_folder.REPEATS, content)


def summarise(
    figures: Mapping[str, Mapping[str, Any]], *, folds: bool
) -> dict[str, Any]:
    """Return accuracies, mean and sample standard deviation, as in repeats.json.

    With folds, which test each photo once, "all_photos" counts them together.

    Args:
        figures: {run: content of its evaluation/test.json}.
        folds: Whether the runs are those of --folds.
    """
    accuracy = {run: float(values["accuracy"]) for run, values in figures.items()}
    values = np.array(list(accuracy.values()))
    summary = {
        "accuracy": accuracy,
        "mean": float(values.mean()),
        "standard_deviation": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
    }
    if folds:
        counts = {run: int(values["num_examples"]) for run, values in figures.items()}
        total = sum(counts.values())
        # A group of photos lies within one fold.
        effective = sum(run["effective_examples"] for run in figures.values())
        hits = sum(round(accuracy[run] * count) for run, count in counts.items())
        summary["all_photos"] = {
            "num_examples": total,
            "accuracy": hits / total,
            "accuracy_ci95": list(
                metrics.wilson_interval(hits * (effective / total), effective)
            ),
        }
    return summary


def as_text(summary: Mapping[str, Any], network: str = "") -> str:
    """Return a summary as lines; `network` is its name, "" for one network alone."""
    label = f"{network}, " * bool(network)
    width = max(map(len, summary["accuracy"]))
    lines = [
        f"{label}{run:{width}}  test accuracy {accuracy:.4f}"
        for run, accuracy in summary["accuracy"].items()
    ]
    mean, deviation = summary["mean"], summary["standard_deviation"]
    lines.append(f"{label}mean {mean:.4f}, standard deviation {deviation:.4f}")
    if photos := summary.get("all_photos"):
        low, high = photos["accuracy_ci95"]
        lines.append(
            f"{label}each of {photos['num_examples']} photos tested once: accuracy "
            f"{photos['accuracy']:.4f}, 95 % interval {low:.4f} to {high:.4f}"
        )
    return "\n".join(lines)
