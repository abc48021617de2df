"""Compare finished runs on the same photos, evaluating them first where necessary."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import evaluation_data, run_evaluation, stored_logits
from model.evaluation.compare import comparison
from model.evaluation.evaluation_settings import Config
from model.evaluation.run_evaluation import EvaluationData
from model.runs import run_folder, run_list
from model.runs.finished_run import FinishedRun
from pipeline.records import manifest
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

_TIMED_PHOTOS = 200  # of fewer, the start of a network takes much of the time


def compare_runs(
    runs: Mapping[str, FinishedRun], config: Config
) -> tuple[dict[str, Any], Path]:
    """Compare the first run with each of the others, and write compare-<split>.json.

    A run is evaluated only if its folder has no logits that this user computed with its
    present model for these records. The photos are those of --data, or else of the
    runs' own records. If the runs have different records, or these have changed since,
    the newest run's present records are used, without photos that any run has seen.
    """
    first, split, folder = next(iter(runs.values())), config.split, config.data
    if not folder and (changed := _records_that_changed(runs)):
        return _compare_on_unseen(runs, changed, config)
    with contextlib.ExitStack() as stack:
        data = None
        if folder:
            if evaluation_data.is_photo_folder(folder):
                _check_conversion(runs, folder)
            data = stack.enter_context(evaluation_data.open_data(config, first))
            for run in runs.values():
                evaluation_data.check(run, data, config)
        candidates = [_candidate(*named, data, config) for named in runs.items()]
    digest = data.records.digest if data else first.manifest_digest
    figures = {
        "split": split,
        **comparison.compare(candidates),
        "manifest_digest": digest,
        "versions": run_folder.versions(),
    }
    path = first.evaluation_path(f"compare-{split}", digest)
    stored_logits.write_figures(path, figures)
    return figures, path


def _records_that_changed(runs: Mapping[str, FinishedRun]) -> manifest.Manifest | None:
    """Return the newest run's present records; None if all runs trained on them."""
    digests = {run.manifest_digest for run in runs.values()}
    newest = max(runs.values(), key=lambda run: run_list.began_s(run.directory))
    folder = Path(newest.config["data"]["path"])
    if len(digests) == 1 and not (folder / manifest.HEAD_NAME).exists():
        return None  # the runs may have been evaluated before the records were moved
    records = manifest.read(newest.records_folder())
    return None if digests == {records.digest} else records


def _compare_on_unseen(
    runs: Mapping[str, FinishedRun], records: manifest.Manifest, config: Config
) -> tuple[dict[str, Any], Path]:
    """Compare runs on the photos of records that none of them has seen.

    Unseen photos of all splits count unless a split other than test is chosen. The
    classes are those of the records and of all runs.
    """
    split = "all" if config.split == "test" else config.split
    every = EvaluationData(records=records, split=split)
    data, reasons = evaluation_data.leave_out_seen(every, runs)
    scope = [
        f"photos of {data.source} as they are now, that no run has seen: "
        f"{len(data.rows):,} of {len(every.rows):,}",
        f"left out: {', '.join(reasons) or 'none'}",
    ]
    if not data.rows:
        advice = "Compare on other photos: --data=FOLDER --another_dataset"
        raise DataError(f"{'; '.join(scope)}. {advice}")
    manifest.check_files(records)
    first = next(iter(runs.values()))
    path = first.evaluation_path(f"compare-{data.name}", records.digest)
    file_system.prepare_folder(path.parent)
    known = [name for run in runs.values() for name in run.class_names]
    names = tuple(dict.fromkeys((*records.class_names, *known)))
    candidates = [
        _candidate_of(name, run, data, names, config) for name, run in runs.items()
    ]
    classes = [row.class_name for row in data.rows]
    for name, run in runs.items():
        if foreign := [c for c in classes if c not in run.class_names]:
            scope.append(
                f"{len(foreign):,} are of classes that {name} does not know "
                f"({', '.join(sorted({*foreign}))}): they count as wrong for it, with "
                f"probability {comparison.UNKNOWN_PROBABILITY:g}"
            )
    figures = {
        "split": data.name,
        "title": "the records as they are now",
        "scope": scope,
        **comparison.compare(candidates),
        "manifest_digest": records.digest,
        "versions": run_folder.versions(),
    }
    shared = np.all([np.isin(classes, r.class_names) for r in runs.values()], axis=0)
    if shared.any() and not shared.all():
        chosen = [candidate.select(shared) for candidate in candidates]
        title = {"title": "classes that all runs know"}
        figures["shared_classes"] = title | comparison.compare(chosen)
    stored_logits.write_figures(path, figures)
    return figures, path


def _candidate_of(
    name: str,
    run: FinishedRun,
    data: EvaluationData,
    class_names: tuple[str, ...],
    config: Config,
) -> comparison.Candidate:
    """Return a run with logits for classes of which it knows some."""
    model, start = run.load_model(), time.perf_counter()
    arrays = run_evaluation.evaluate_split(
        model, data, run.spec, config, class_names=run.class_names
    ).arrays()
    rate = len(data.rows) / (time.perf_counter() - start)
    columns = [class_names.index(name) for name in run.class_names]
    arrays["label"] = np.array([class_names.index(r.class_name) for r in data.rows])
    arrays["logits"] = comparison.with_unknown_classes(
        arrays["logits"], columns, len(class_names), run.temperature
    )
    return comparison.Candidate(
        name=name,
        class_names=class_names,
        examples=stored_logits.Examples(**arrays),
        temperature=run.temperature,
        model_bytes=(run.directory / run_folder.MODEL_NAME).stat().st_size,
        images_per_s=rate if len(data.rows) >= _TIMED_PHOTOS else None,
    )


def _candidate(
    name: str, run: FinishedRun, data: EvaluationData | None, config: Config
) -> comparison.Candidate:
    """Return a run with its logits, from its folder or computed now."""

    def refuse_seen(photos: set[str]) -> None:
        evaluation_data.refuse_seen_photos(
            run,
            photos,
            subject=f"--runs: {name}",
            advice="Compare on the test split, or on photos that no run has seen: "
            "--data=FOLDER --another_dataset",
        )

    digest = data.records.digest if data else run.manifest_digest
    path = stored_logits.find(run, config.split, digest)
    if path is None:
        command_line.log(f"{name}: not evaluated on these photos yet; evaluating now")
        data = data or EvaluationData(records=run.read_records(), split=config.split)
        refuse_seen(data.sha256)
        manifest.check_files(data.records)
        evaluation = run_evaluation.evaluate_run(run, data, config)
        path = evaluation.path.with_suffix(".npz")
    examples = stored_logits.read(path)
    rate = stored_logits.read_figures(path.with_suffix(".json"))["images_per_s"]
    refuse_seen(set(examples.sha256.tolist()))
    return comparison.Candidate(
        name=name,
        class_names=run.class_names,
        examples=examples,
        temperature=run.temperature,
        model_bytes=(run.directory / run_folder.MODEL_NAME).stat().st_size,
        images_per_s=rate if len(examples.label) >= _TIMED_PHOTOS else None,
    )


def _check_conversion(runs: Mapping[str, FinishedRun], folder: str) -> None:
    """Refuse a folder of photos that the runs would convert differently."""
    for flag in ("resize_min", "white_level"):
        values = {name: getattr(run, flag) for name, run in runs.items()}
        if len(set(values.values())) > 1:
            text = ", ".join(f"{name}: {value}" for name, value in values.items())
            raise DataError(
                f"--data={folder}: the runs were trained on photos converted with "
                f"different --{flag} ({text}). Convert the photos once and give the "
                f"records: python -m pipeline.convert {folder} --out=FOLDER --{flag}=N"
            )
