"""List the runs of a folder with their figures, and find the best, without TensorFlow.

A run counts as evaluated if evaluation/test.json is of its own records and its model.
"""

import json
import math
import os
import re
import time
from pathlib import Path
from typing import Any

from model.runs import finished_run, run_folder
from pipeline.system import command_line
from pipeline.system.errors import DataError

BEST = "best"
_TIME_NS = re.compile(r"\.\d{19}\Z", re.ASCII)  # in the name of an event file
_COLUMNS = ("run", "network", "trained", "data", "began", "photos", "test accuracy")


def list_runs(folder: str, sort: str = "time") -> list[dict[str, Any]]:
    """Return what is known of each run, newest or, with "accuracy", best first.

    Runs of --seeds or --folds are one entry. One that cannot be read has a "problem".
    """
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder. Train a run first: python train.py")
    paths = [path for path in Path(folder).iterdir() if run_folder.is_run(path)]
    runs = [describe(path) for path in paths if path.name != run_folder.LATEST]
    runs.sort(key=lambda run: (run["began"], run["run"]), reverse=True)
    if sort == "accuracy":
        runs.sort(key=lambda run: -(run.get("accuracy") or 0))
    return runs


def describe(path: Path) -> dict[str, Any]:
    """Return what is known of a run, as JSON; of a damaged one the problem."""
    is_one = not (path / run_folder.REPEATS).exists()
    files = [Path(top, name) for top, _, names in os.walk(path) for name in names]
    known = {
        "run": str(path),
        "began": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began_s(path))),
        "bytes": sum(file.lstat().st_size for file in files),
    }
    try:
        return known | (_facts_of_run(path) if is_one else _facts_of_repeats(path))
    except (*finished_run.JSON_FAULTS, OSError, DataError) as error:
        return known | {"problem": str(error) or repr(error)}


def began_s(directory: Path) -> float:
    """Return when a run, or the first of several, began, in seconds since 1970."""
    # A copy has new times of files, but the names that TensorBoard's files got.
    files = [*directory.rglob("events.out.tfevents.*")]
    if times := [int(f.suffix[1:]) / 1e9 for f in files if _TIME_NS.match(f.suffix)]:
        return min(times)
    # That of folds or seeds is written again when one of them ends.
    names = (run_folder.CONFIG_NAME, run_folder.REPEATS)
    files = [p for p in directory.rglob("*.json") if p.name in names]
    return min((file.lstat().st_mtime for file in files), default=0.0)


def _facts_of_run(path: Path) -> dict[str, Any]:
    run = finished_run.read(str(path))
    data, digest = run.config["data"], run.manifest_digest
    layers = [str(stage["train_from"]) for stage in run.config.get("stages", ())]
    counts = [sum(splits.values()) for splits in data.get("counts", {}).values()]
    facts = {
        "network": run.config["network"],
        "trained": ", ".join("head" if n == "logits" else f"from {n}" for n in layers),
        "data": data["path"],
        "manifest_digest": digest,
        "photos": sum(counts) if counts else None,
    }
    if (path / "metrics.jsonl").exists():
        losses = [result["validation_loss"] for result in run.results()]
        facts["validation_loss"] = min(filter(math.isfinite, losses), default=None)
    evaluation = run.evaluation_path("test", digest)
    model = path / run_folder.MODEL_NAME
    if evaluation.exists():
        figures = finished_run.read_json(evaluation, dict, "Evaluate the run again.")
        # Copying may reverse these times. Only then is a large model read.
        is_newer = evaluation.stat().st_mtime >= model.stat().st_mtime
        is_of_model = is_newer or figures.get("model_sha256") == run.model_digest()
        if is_of_model and figures["data"]["manifest_digest"] == digest:
            facts |= _accuracy(figures)
    return facts


def _facts_of_repeats(path: Path) -> dict[str, Any]:
    """Return the facts of runs of --seeds or --folds; of folds the pooled accuracy."""
    content = finished_run.read_json(path / run_folder.REPEATS, dict)
    names, facts = sorted(content.get("accuracy", {})), dict[str, Any]()
    if names:
        facts = _facts_of_run(path / Path(names[0]).name)
        facts["accuracy"] = float(content["mean"])
        facts.pop("accuracy_ci95", None)
    # These are not runs that could be the best.
    facts |= {"data": str(content["settings"]["data"]), "validation_loss": None}
    if "all_photos" in content:
        facts |= _accuracy(content["all_photos"])
    return facts | {"repeats": len(names)}


def _accuracy(figures: Any) -> dict[str, Any]:
    low, high = map(float, figures["accuracy_ci95"])
    return {"accuracy": float(figures["accuracy"]), "accuracy_ci95": [low, high]}


def show(folder: str, *, sort: str, as_json: bool) -> str:
    """Return the runs of a folder as JSON, or as a table and lines for damaged runs."""
    runs = list_runs(folder, sort)
    if as_json:
        return json.dumps(runs, indent=2)
    rows, problems = [], []
    for run in runs:
        if "problem" in run:
            problems.append(command_line.one_line(run["problem"]))
            continue
        accuracy, interval = run.get("accuracy"), run.get("accuracy_ci95")
        texts = (run.get(name) for name in ("run", "network", "trained", "data"))
        rows.append(
            (
                *(command_line.one_line(text or "-") for text in texts),
                *(run["began"][:16], run.get("photos")),
                "not evaluated" if accuracy is None else f"{accuracy:.4f}",
                interval and "{:.4f} to {:.4f}".format(*interval),
                f"{run['bytes'] / 1e6:.1f}",
            )
        )
    columns = (*_COLUMNS, "95 % interval", "MB")
    return "\n".join([*command_line.table(columns, rows, left=4), *problems])


def find(run_dir: str | os.PathLike[str]) -> Path:
    """Return the folder of a run; FOLDER/latest is the newest where it is no link."""
    path = Path(run_dir)
    if path.name != run_folder.LATEST or os.path.lexists(path):
        return path
    runs = filter(run_folder.is_run, path.parent.glob("*"))
    return max(runs, key=began_s, default=path)


def read(run_dir: str) -> finished_run.FinishedRun:
    """Open a finished run; "best", or FOLDER/best, is the best run of runs/ or FOLDER.

    That is the one with the lowest validation loss of those that were trained on the
    newest data: the records of the run that began last. It is logged.
    """
    path = find(run_dir)
    if path.name != BEST or path.exists():
        return finished_run.read(str(path))
    folder = "runs" if run_dir == BEST else str(path.parent)
    runs = [r for r in list_runs(folder) if r.get("validation_loss") is not None]
    if not runs:
        raise DataError(f"{run_dir}: {folder} holds no finished run. Train one first")
    same = [r for r in runs if r["manifest_digest"] == runs[0]["manifest_digest"]]
    best = min(same, key=lambda run: float(run["validation_loss"]))
    command_line.log(
        f"best: {best['run']}, with the lowest validation loss "
        f"({best['validation_loss']:.4f}) of {len(same)} runs on the newest data, that "
        f"of {runs[0]['run']}; runs on other data, which were not considered: "
        f"{len(runs) - len(same)}"
    )
    return finished_run.read(str(best["run"]))
