"""Compare finished runs on the same photos, evaluating them first where necessary."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.evaluation import (
    evaluation_data,
    run_evaluation,
    split_evaluation,
    stored_logits,
)
from model.evaluation.compare import comparison
from model.runs import finished_run, run_folder, run_records
from pipeline.records import manifest
from pipeline.system import command_line
from pipeline.system.errors import DataError


def compare_runs(
    runs: Mapping[str, finished_run.FinishedRun],
    split: str,
    *,
    data: str = "",
    another_dataset: bool = False,
    options: split_evaluation.EvaluationOptions = split_evaluation.DEFAULT,
) -> tuple[dict[str, Any], Path]:
    """Compare the first run with each of the others, and write compare-<split>.json.

    A run is evaluated only if its folder has no logits of its present model for these
    records. The photos are those of `data`, or each run's own if that is "".

    Returns:
        The figures of the comparison, and the path of the .json.

    Raises:
        DataError: runs and records do not belong together, or a run was trained on one
            of the photos.
    """
    first = next(iter(runs.values()))
    if data and evaluation_data.is_photo_folder(data):
        _check_resize_min(runs, data)
    with contextlib.ExitStack() as stack:
        records = None
        if data:
            records = stack.enter_context(
                evaluation_data.open_records(data, first.resize_min)
            )
            for run in runs.values():
                evaluation_data.check_records(
                    run, records, split, another_dataset=another_dataset, source=data
                )
        candidates = [
            _candidate(name, run, records, split, options, source=data)
            for name, run in runs.items()
        ]
    digest = records.digest if records is not None else first.manifest_digest
    figures = {
        "split": split,
        **comparison.compare(candidates),
        "manifest_digest": digest,
        "versions": run_folder.versions(),
    }
    path = first.evaluation_path(f"compare-{split}", digest)
    stored_logits.write_figures(path, figures)
    return figures, path


def _candidate(
    name: str,
    run: finished_run.FinishedRun,
    records: manifest.Manifest | None,
    split: str,
    options: split_evaluation.EvaluationOptions,
    *,
    source: str,
) -> comparison.Candidate:
    """Return a run with its logits, from its folder or computed now."""
    digest = records.digest if records is not None else run.manifest_digest
    path = stored_logits.find(run, split, digest)
    if path is None:
        command_line.log(
            f"{name}: not evaluated on these photos yet; evaluating it now"
        )
        records = run_records.read(run) if records is None else records
        photos = evaluation_data.included_photos(records, split)
        _refuse_training_photos(name, run, photos)
        manifest.check_files(records)
        evaluation = run_evaluation.evaluate_run(
            run, records, split, options, source=source
        )
        path = evaluation.path.with_suffix(".npz")
    examples = stored_logits.read(path, len(run.class_names))
    _refuse_training_photos(name, run, set(examples.sha256.tolist()))
    return comparison.Candidate(
        name=name,
        class_names=run.class_names,
        examples=examples,
        temperature=run.temperature,
        model_bytes=(run.directory / run_folder.MODEL_NAME).stat().st_size,
        images_per_s=stored_logits.images_per_s(path.with_suffix(".json")),
    )


def _refuse_training_photos(
    name: str, run: finished_run.FinishedRun, photos: set[str]
) -> None:
    """Raise DataError if a run was trained on, or chosen by, one of the photos."""
    if num_seen := len(run.seen_photos() & photos):
        raise DataError(
            f"--runs: {name} was trained on, or chosen by, {num_seen} of these "
            f"{len(photos)} photos, which would favour it. Compare on the test split, "
            "or on photos that no run has seen: --data=FOLDER --another_dataset"
        )


def _check_resize_min(runs: Mapping[str, finished_run.FinishedRun], data: str) -> None:
    """Raise DataError if the runs expect photos converted with different sizes."""
    if len({run.resize_min for run in runs.values()}) > 1:
        sizes = ", ".join(f"{name}: {run.resize_min}" for name, run in runs.items())
        raise DataError(
            f"--data={data}: the runs were trained on photos converted with different "
            f"--resize_min ({sizes}). Convert the photos once and give the records: "
            f"python -m pipeline.convert {data} --out=FOLDER --resize_min=N"
        )
