"""Compare finished runs on the same photos, evaluating them first where necessary."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.evaluation import evaluation_data, run_evaluation, stored_logits
from model.evaluation.compare import comparison
from model.evaluation.evaluation_settings import EvaluationOptions
from model.evaluation.split_evaluation import EvaluationData
from model.runs import finished_run, run_folder
from pipeline.records import manifest
from pipeline.system import command_line
from pipeline.system.errors import DataError


def compare_runs(
    runs: Mapping[str, finished_run.FinishedRun],
    split: str,
    *,
    folder: str,
    layout: str,
    another_dataset: bool,
    options: EvaluationOptions,
) -> tuple[dict[str, Any], Path]:
    """Compare the first run with each of the others, and write compare-<split>.json.

    A run is evaluated only if its folder has no logits that this user computed with its
    present model for these records. The photos are those of `folder`, whose subfolders
    mean what `layout` says, or each run's own photos if `folder` is "".
    """
    first = next(iter(runs.values()))
    with contextlib.ExitStack() as stack:
        data = None
        if folder:
            if evaluation_data.is_photo_folder(folder):
                _check_conversion(runs, folder)
            opened = evaluation_data.open_data(
                folder, split, first.resize_min, first.white_level, layout
            )
            data = stack.enter_context(opened)
            for run in runs.values():
                evaluation_data.check(run, data, another_dataset=another_dataset)
        candidates = [
            _candidate(name, run, split, data, options) for name, run in runs.items()
        ]
    for name, run in runs.items():
        if not folder and run.manifest_digest != first.manifest_digest:
            command_line.log(
                f"note: {name} was trained on other records than {next(iter(runs))}: "
                "the test photos are the same, other photos or settings are not"
            )
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


def _candidate(
    name: str,
    run: finished_run.FinishedRun,
    split: str,
    data: EvaluationData | None,
    options: EvaluationOptions,
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
    path = stored_logits.find(run, split, digest)
    if path is None:
        command_line.log(
            f"{name}: not evaluated on these photos yet; evaluating it now"
        )
        data = data or EvaluationData(records=run.read_records(), split=split)
        refuse_seen(data.sha256)
        manifest.check_files(data.records)
        evaluation = run_evaluation.evaluate_run(run, data, options)
        path = evaluation.path.with_suffix(".npz")
    examples = stored_logits.read(path)
    figures = stored_logits.read_figures(path.with_suffix(".json"))
    refuse_seen(set(examples.sha256.tolist()))
    return comparison.Candidate(
        name=name,
        class_names=run.class_names,
        examples=examples,
        temperature=run.temperature,
        model_bytes=(run.directory / run_folder.MODEL_NAME).stat().st_size,
        images_per_s=figures["images_per_s"],
    )


def _check_conversion(
    runs: Mapping[str, finished_run.FinishedRun], folder: str
) -> None:
    """Refuse photos that the runs expect to be converted otherwise than the others'."""
    for flag in ("resize_min", "white_level"):
        values = {name: getattr(run, flag) for name, run in runs.items()}
        if len(set(values.values())) > 1:
            text = ", ".join(f"{name}: {value}" for name, value in values.items())
            raise DataError(
                f"--data={folder}: the runs were trained on photos converted with "
                f"different --{flag} ({text}). Convert the photos once and give the "
                f"records: python -m pipeline.convert {folder} --out=FOLDER --{flag}=N"
            )
