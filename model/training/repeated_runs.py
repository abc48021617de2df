"""A training several times: with other seeds, or each time another fold for testing."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.loop import metrics
from model.runs import run_folder
from model.training import settings
from pipeline import split
from pipeline.records import manifest

_RECORDS_NAME = "records"
_CACHE_NAME = "cache"


def cache_dir(directory: Path) -> Path:
    """Features are shared by all runs beside each other, repeated ones among them.

    Args:
        directory: of a run.
    """
    parent = directory.absolute().parent
    if (parent / run_folder.REPEATS).exists():
        parent = parent.parent
    return parent / _CACHE_NAME


def members(
    config: settings.Config, found: manifest.Manifest, directory: Path
) -> dict[str, settings.Config]:
    """{name: settings} of the trainings; each has a folder of that name.

    Args:
        config: with `seeds` or `folds`.
        found: the data set.
        directory: of all of them; records split into folds are written there.
    """
    one = dataclasses.replace(config, seeds=1, folds=0, data=str(found.directory))
    if not config.folds:
        return {
            f"seed-{seed}": dataclasses.replace(
                one, seed=seed, run_dir=str(directory / f"seed-{seed}")
            )
            for seed in range(config.seed, config.seed + config.seeds)
        }
    chosen = {}
    for fold in range(config.folds):
        name = f"fold-{fold}"
        folder = directory / _RECORDS_NAME / name
        _write_fold(found, folder, config, fold)
        chosen[name] = dataclasses.replace(
            one, data=str(folder), run_dir=str(directory / name)
        )
    return chosen


def _write_fold(
    found: manifest.Manifest, folder: Path, config: settings.Config, fold: int
) -> None:
    """The records in another split: a manifest, and links to the files."""
    how = split.Config(seed=config.seed, folds=config.folds, fold=fold)
    if (folder / manifest.HEAD_NAME).exists():
        return  # written before it was stopped
    folder.mkdir(parents=True, exist_ok=True)
    for name in {row.file for row in found.included()}:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to((found.directory / name).resolve())
    changed = split.split_rows(how, found)
    dataclasses.replace(changed, directory=folder).stage(folder)


def is_done(directory: Path) -> bool:
    """Whether a member's training has come to its end.

    Raises:
        run.RunError: it ran away; without it the mean would be too good.
    """
    if (why := directory / run_folder.DIVERGED).exists():
        raise run_folder.RunError(
            f"{directory}: {why.read_text(encoding='utf-8').strip()}; so this one of "
            "the trainings cannot count: train all anew, with other settings"
        )
    ended = (directory / run_folder.MODEL_NAME).exists()
    return ended and not (directory / run_folder.CHECKPOINTS).exists()


def write_plan(
    directory: Path, config: settings.Config, found: manifest.Manifest, **more: Any
) -> None:
    """Writes what shall be trained, and what has come of it."""
    about = {
        "settings": dataclasses.asdict(config),
        "manifest_digest": found.digest,
        **more,
    }
    run_folder.RunFolder(directory=directory).write_json(run_folder.REPEATS, about)


def read_plan(directory: Path) -> tuple[settings.Config, str] | None:
    """Trainings that were stopped; None if the folder is one training's.

    Returns:
        Their settings and the digest of their records' manifest.

    Raises:
        DataError: it is damaged, or of another version of Graft.
    """
    path = directory / run_folder.REPEATS
    if not path.exists():
        return None
    try:
        about = dict(json.loads(path.read_text(encoding="utf-8")))
        values = {"settings": about["settings"]}
        digest = str(about["manifest_digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise run_folder.RunError(
            f"{path}: damaged ({error!r:.200}); train anew"
        ) from error
    return settings.from_run(path, values), digest


def summary(figures: Mapping[str, Mapping[str, Any]], *, folds: bool) -> dict[str, Any]:
    """What the trainings came to.

    Args:
        figures: {name: what evaluation/test.json holds}.
        folds: each photo is tested once, so that they can be counted together.

    Returns:
        Accuracies, their mean and standard deviation (of a sample); with folds also
        the accuracy over all photos with its 95 % interval.
    """
    accuracies = {name: float(one["accuracy"]) for name, one in figures.items()}
    values = np.array(list(accuracies.values()))
    found: dict[str, Any] = {
        "accuracy": accuracies,
        "mean": float(values.mean()),
        "standard_deviation": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
    }
    if folds:
        total = sum(int(one["num_examples"]) for one in figures.values())
        hits = sum(
            round(one["accuracy"] * one["num_examples"]) for one in figures.values()
        )
        found["all_photos"] = {
            "num_examples": total,
            "accuracy": hits / total,
            "accuracy_ci95": list(metrics.wilson_interval(hits, total)),
        }
    return found


def as_text(found: Mapping[str, Any], what: str = "") -> str:
    """The summary as lines.

    Args:
        found: of `summary`.
        what: was trained; "" for what is trained first of all.
    """
    width = max(map(len, found["accuracy"]))
    label = f"{what}, " * bool(what)
    lines: Sequence[str] = [
        f"{label}{name:{width}}  test accuracy {accuracy:.4f}"
        for name, accuracy in found["accuracy"].items()
    ]
    mean = f"{label}mean {found['mean']:.4f}, standard deviation "
    mean += f"{found['standard_deviation']:.4f}"
    lines = [*lines, mean]
    if whole := found.get("all_photos"):
        low, high = whole["accuracy_ci95"]
        lines.append(
            f"{label}each of {whole['num_examples']} photos tested once: accuracy "
            f"{whole['accuracy']:.4f}, 95 % interval {low:.4f} to {high:.4f}"
        )
    return "\n".join(lines)
