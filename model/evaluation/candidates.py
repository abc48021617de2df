"""Runs that are to be compared -> what each said of the photos."""

from collections.abc import Callable

from model.evaluation import comparison, stored_logits
from model.runs import finished_run, run_folder
from pipeline.system import command_line
from pipeline.system.errors import DataError


def read(
    name: str,
    finished: finished_run.FinishedRun,
    split: str,
    manifest_digest: str,
    judge_now: Callable[[], object],
) -> comparison.Candidate:
    """A run's judgement of the photos, from its folder or made now.

    Args:
        name: of the run.
        finished: the run.
        split: of the records; "all" for all photos.
        manifest_digest: of the records.
        judge_now: judges the run on them; called if its folder has no judgement by the
            model as it is.

    Raises:
        DataError: the judgement is damaged, or the run has trained on a photo.
    """
    path = finished.evaluation_path(split, manifest_digest).with_suffix(".npz")
    model_sha256 = finished.model_digest()
    if not stored_logits.is_of(
        path, model_sha256=model_sha256, manifest_digest=manifest_digest
    ):
        command_line.log(f"{name}: not judged on these photos yet; judging it now")
        judge_now()
    examples = stored_logits.read(path, len(finished.class_names))
    refuse_seen(name, finished, set(examples.sha256.tolist()))
    return comparison.Candidate(
        name=name,
        class_names=finished.class_names,
        examples=examples,
        temperature=finished.temperature,
        model_bytes=(finished.directory / run_folder.MODEL_NAME).stat().st_size,
        images_per_s=stored_logits.images_per_s(path.with_suffix(".json")),
    )


def refuse_seen(
    name: str, finished: finished_run.FinishedRun, photos: set[str]
) -> None:
    """Refuses a comparison on photos that a run was trained on.

    Args:
        name: of the run.
        finished: the run.
        photos: SHA-256 of each.

    Raises:
        DataError: there are some.
    """
    seen = len(finished.seen_photos() & photos)
    if seen:
        raise DataError(
            f"--runs: {name} was trained on, or chosen by, {seen} of these "
            f"{len(photos)} photos, so that they say nothing of new ones; expected the "
            "test split, or photos that none has seen: --data=FOLDER --another_dataset"
        )
