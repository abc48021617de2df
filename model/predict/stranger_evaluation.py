"""Evaluate how well a run recognises photos that show none of its classes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import evaluation_settings, stored_logits, strangers
from model.loop import metrics
from model.predict import classifier, predict_settings, predicting
from pipeline.batches import image_batches
from pipeline.system import command_line
from pipeline.system.errors import DataError


def evaluate(config: evaluation_settings.Config) -> dict[str, Any]:
    """Compare a folder's photos with a run's test photos; return figures and path."""
    folder, batch_size = config.strangers, config.batch_size
    known = classifier.load_run(config.run_dir)
    run = known.run
    if run is None or known.stranger_scorer is None:
        raise DataError(f"--strangers: {known.describe().splitlines()[-1]}")
    records = run.read_records(config.data)
    rows = records.included("test")
    if not rows:
        raise DataError(
            f"{records.directory}: the test split has no photos. Expected photos of "
            "the classes to compare strangers with."
        )
    step, parts = known.predict_step(), []
    images = image_batches.Images(records, rows, run.spec, batch_size=batch_size)
    with command_line.progress(len(rows), "photo", "test") as progress:
        for batch in images:
            logits, score = step(np.float32(batch["image"]))
            parts.append((score, known.probabilities(logits).max(axis=1)))
            progress.update(len(logits))
    inside = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    options = predict_settings.Config(photos=(folder,), batch_size=batch_size, top=1)
    predictions = list(predicting.predict(options, known))
    readable = [p for p in predictions if not p.problem]
    for bad in (p for p in predictions if p.problem):
        command_line.log(f"skipped {command_line.one_line(bad.photo)}: {bad.problem}")
    if not readable:
        raise DataError(f"--strangers={folder}: no photo can be read.")
    own = {row.sha256 for row in records.rows} | run.seen_photos()
    contents = (Path(p.photo).read_bytes() for p in readable)
    if num_own := sum(hashlib.sha256(data).hexdigest() in own for data in contents):
        command_line.log(
            f"warning: --strangers={folder}: {num_own} of {len(readable)} photos are "
            "the run's own, so they are not strangers. Expected other photos."
        )
    scores, probabilities = zip(
        *((p.stranger_score, p.probability) for p in readable), strict=True
    )
    outside = [np.array(scores, np.float64), np.array(probabilities, np.float64)]
    groups = np.array([row.group or row.sha256 for row in rows])
    figures = {
        "run": run.directory.name,
        "folder": folder,
        "num_strangers": len(readable),
        "num_unreadable": len(predictions) - len(readable),
        "num_test": len(rows),
        "false_alarms_aimed_at": strangers.FALSE_ALARMS,
        **compare(inside, outside, groups),
        "model_sha256": run.model_digest(),
    }
    path = run.evaluation_path("strangers", records.digest)
    path.parent.mkdir(exist_ok=True)
    stored_logits.write_figures(path, figures)
    return figures | {"written": str(path)}


def compare(
    inside: Sequence[np.ndarray], outside: Sequence[np.ndarray], groups: np.ndarray
) -> dict[str, Any]:
    """Compare test photos and strangers by score, and by softmax alone.

    `inside` (test photos) and `outside` are stranger scores, and probabilities of the
    best class. Softmax gets the threshold with as many false alarms.
    """
    alarms = inside[0] >= strangers.THRESHOLD
    unsure, unsure_outside = 1 - inside[1], 1 - outside[1]
    limit = np.append(np.sort(unsure)[::-1], -1)[alarms.sum()]
    compared = (
        ("score", inside[0], outside[0], alarms, outside[0] >= strangers.THRESHOLD),
        ("softmax", unsure, unsure_outside, unsure > limit, unsure_outside > limit),
    )
    figures = {}
    for name, known_scores, stranger_scores, is_alarm, is_found in compared:
        area, *interval = strangers.auroc(known_scores, stranger_scores)
        found = metrics.wilson_interval(is_found.sum(), len(is_found))
        figures[name] = {
            "auroc": area,
            "auroc_ci95": interval,
            "recognised": float(is_found.mean()),
            "recognised_ci95": list(found),
            "false_alarms": float(is_alarm.mean()),
            "false_alarms_ci95": metrics.accuracy_interval(is_alarm, groups),
        }
    return figures


def as_text(figures: dict[str, Any]) -> str:
    """Return a result of `evaluate` as text."""
    header = ("", "AUROC", "strangers found", "test photos taken for strangers")
    rows = []
    for name, label in (("score", "stranger score"), ("softmax", "softmax alone")):
        rows.append([label])
        for kind in ("auroc", "recognised", "false_alarms"):
            low, high = figures[name][f"{kind}_ci95"]
            rows[-1].append(f"{figures[name][kind]:.4f} ({low:.4f}..{high:.4f})")
    aim = f"{100 * figures['false_alarms_aimed_at']:.0f} %"
    lines = [
        f"{figures['run']}, {figures['num_strangers']:,} photos of {figures['folder']} "
        f"(strangers), {figures['num_test']:,} test photos",
        "",
        *command_line.table(header, rows, left=len(header)),
        "",
        f"In brackets: 95 % intervals. The threshold of the score is 1, which {aim} of "
        "validation photos reach; that of softmax has as many false alarms here.",
    ]
    unread = figures["num_unreadable"]
    lines += [f"not readable, and listed above: {unread:,}"] * bool(unread)
    return "\n".join([*lines, f"written: {figures['written']}"])
