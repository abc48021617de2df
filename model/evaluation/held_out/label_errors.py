"""Find photos that are probably filed under the wrong class.

The probabilities must come from a network that was not trained on the photo. Training
ends with a search of all photos: evaluation/doubts.csv and doubts.json of the run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.evaluation.stored_logits import Predictions
from model.runs import finished_run, run_folder
from pipeline.records import manifest
from pipeline.system import file_system

CSV_NAME, JSON_NAME = "doubts.csv", "doubts.json"
OF_FOLDS = "out-of-fold probabilities of all photos, by the runs of all folds"
_MAX_LISTED = 200  # doubts in JSON, the most doubtful; the CSV file has all
_COLUMNS = {
    **dict.fromkeys(("path", "label", "suggested"), str),
    **dict.fromkeys(("label_probability", "suggested_probability"), float),
    "sha256": str,
}


def find_doubts(
    probabilities: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Find photos for which another class is more probable than their label.

    They are ordered by the probability of the label minus that of the suggestion. Of
    30 labels planted wrong in 1,127 flowers, all 30 are among the first 90
    (benchmarks/planted_labels.py).

    Confident learning names fewer photos, of which more are wrong: those for which
    another class is at least as probable as on average for the photos labelled as that
    class, and is the most probable of such classes.

    Probabilities are float [num_examples, num_classes]. Returns the indices of the
    photos, the label that each may rather have, and the number that confident learning
    names.

    Source: Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating
    Uncertainty in Dataset Labels", sections 3.1 and 3.2.
    """
    num_classes = probabilities.shape[1]
    of_label = probabilities[np.arange(len(labels)), labels]
    totals = np.bincount(labels, weights=of_label, minlength=num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    # No photo is confidently assigned to a class without photos.
    thresholds = np.where(counts > 0, totals / np.maximum(1, counts), np.inf)
    # The mean of equal numbers may be a rounding error above them.
    confident = probabilities >= thresholds - 1e-9
    assigned = np.where(confident, probabilities, -1.0).argmax(axis=1)
    num_probable = int((confident.any(axis=1) & (assigned != labels)).sum())
    suggested = probabilities.argmax(axis=1)
    order = np.argsort(of_label - probabilities.max(axis=1), kind="stable")
    order = order[suggested[order] != labels[order]]
    return order, suggested[order], num_probable


def figures(
    predictions: Predictions, source: str, chosen: npt.ArrayLike | None = None
) -> dict[str, Any]:
    """Return all doubts, of which evaluation/<split>.json lists the first.

    `source` says in words where the probabilities come from. `chosen` are the indices
    of the photos to search, by default all.
    """
    every = range(len(predictions.rows))
    numbers = np.array(every if chosen is None else chosen, np.int64)
    rows = [predictions.rows[n] for n in numbers]
    names, labels = predictions.class_names, predictions.labels[numbers]
    probabilities = predictions.probabilities().astype(np.float32)[numbers]
    doubtful, suggested, num_probable = find_doubts(probabilities, labels)
    return {
        "source": source,
        "num_examples": len(labels),
        "num_doubts": len(doubtful),
        "num_probable": num_probable,
        "photos": [
            {
                "path": rows[n].path,
                "label": names[labels[n]],
                "suggested": names[label],
                "label_probability": round(float(probabilities[n, labels[n]]), 6),
                "suggested_probability": round(float(probabilities[n, label]), 6),
                "sha256": rows[n].sha256,
            }
            for n, label in zip(doubtful, suggested, strict=True)
        ],
    }


def write(directory: Path, doubts: Mapping[str, Any]) -> Path:
    """Write doubts.csv and doubts.json from `figures`; return the path of the first."""
    folder = file_system.make_inside(directory, "evaluation")
    written = run_folder.RunFolder(directory=folder)
    written.write_csv(CSV_NAME, [*_COLUMNS], doubts["photos"])
    written.write_json(JSON_NAME, listed(doubts))
    return folder / CSV_NAME


def in_words(doubts: Mapping[str, Any], path: Path | None = None) -> str:
    """Return the number of doubts and the path of their file, as a line."""
    if not doubts["num_doubts"]:
        return f"no label of {doubts['num_examples']:,} photos is doubtful"
    ending = f": {path}" if path else ""
    probable = f"{doubts['num_probable']:,} of them probably wrong"
    if doubts["num_doubts"] > doubts["num_examples"] / 2:
        probable = "too many to be wrong: the network tells these classes apart poorly"
    return (
        f"doubtful labels: {doubts['num_doubts']:,} of {doubts['num_examples']:,} "
        f"photos, {probable}{ending}"
    )


def of_run(
    run: finished_run.FinishedRun,
    records: manifest.Manifest,
    predictions: Predictions,
    training_photos: set[str],
) -> dict[str, Any]:
    """Return the first doubts of all photos of a run, or of the evaluated split.

    The doubts of one of several runs, or of a network compared with the run's, are in
    the folder around it. `training_photos` has the SHA-256 of the photos that training
    and validation used.
    """
    if run.manifest_digest == records.digest:
        around = run.directory.parent
        for directory in (run.directory, *[around] * run_folder.is_run(around)):
            path = directory / "evaluation" / JSON_NAME
            if path.exists():
                return _read(path, records)
    unseen = [
        n for n, row in enumerate(predictions.rows) if row.sha256 not in training_photos
    ]
    source = "held-out probabilities of the photos evaluated here"
    return listed(figures(predictions, source, unseen))


def listed(doubts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the doubts with only the most doubtful photos; the numbers are of all."""
    return {**doubts, "photos": doubts["photos"][:_MAX_LISTED]}


def _read(path: Path, records: manifest.Manifest) -> dict[str, Any]:
    """Read doubts.json, which may be untrusted, without photos that are not here."""
    file_system.refuse_link(path.parent)
    rows = {row.path: row for row in records.included()}

    def is_known(photo: Mapping[str, Any]) -> bool:
        row = rows.get(photo["path"])
        expected = (photo["sha256"], photo["label"])
        return row is not None and (row.sha256, row.class_name) == expected

    def check(content: Any) -> dict[str, Any]:
        total = finished_run.expect("num_examples", content["num_examples"], int)
        for name, least in (
            ("num_doubts", len(content["photos"])),
            ("num_probable", 0),
        ):
            number = finished_run.expect(name, content[name], int)
            if not least <= number <= total <= len(rows):
                raise ValueError(f"{name}: {number} of {total} photos is not possible")
        finished_run.expect("source", content["source"], str)
        for photo in content["photos"]:
            for name, kind in _COLUMNS.items():
                finished_run.expect(name, photo[name], kind)
            if photo["suggested"] not in records.labels:
                raise ValueError(f"suggested: no class {photo['suggested']!r:.40}")
            low, high = photo["label_probability"], photo["suggested_probability"]
            if not 0 <= low <= high <= 1:
                raise ValueError(f"impossible probabilities {low} and {high}")
        return {**content, "photos": list(filter(is_known, content["photos"]))}

    advice = "Remove it to search only the evaluated photos for wrong labels."
    return dict(finished_run.read_json(path, check, advice))
