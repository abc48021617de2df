"""Format the figures of an evaluation as text, and as tables for the HTML report."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from model.evaluation import calibration
from model.evaluation.compare import comparison
from model.evaluation.held_out import label_errors
from model.loop import metrics
from model.loop.inputs import near_copies
from pipeline.grouping import near_duplicates
from pipeline.system import command_line

_MAX_ERRORS = 10
_MAX_CLASSES = 40  # in the confusion matrix
_MAX_CONFUSIONS = 30
_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.5)
_ACCURACIES = (0.9, 0.95, 0.99)
_UNREACHED = {"threshold": None}


def evaluation(figures: dict[str, Any]) -> str:
    """Return the figures of evaluation/<split>.json as text."""
    low, high = figures["accuracy_ci95"]
    classes = len(figures["class_names"])
    top5 = (
        f"{figures['top5_accuracy']:.4f}" if classes > 5 else "- (5 classes or fewer)"
    )
    num_seen, calibration = figures.get("photos_seen"), figures["calibration"]
    views = "" if figures["tta"] == "none" else f", {figures['tta']} views averaged"
    lines = [
        f"{figures['run']}, {split_in_words(figures)}, "
        f"{figures['num_examples']} photos{views}"
        + f", {num_seen} of them used in training: not a measure for new photos"
        * bool(num_seen),
        "",
        f"top-1 accuracy  {figures['accuracy']:.4f}   95 % interval "
        f"{low:.4f} to {high:.4f}",
        *comparison.groups_in_words(figures),
        *folds_in_words(figures),
        f"balanced accuracy  {figures['balanced_accuracy']:.4f}   macro F1 "
        f"{figures['macro_f1']:.4f}",
        f"top-5 accuracy  {top5}",
        f"calibration error  {calibration['ece']:.4f}, by chance alone "
        f"{calibration['ece_by_chance']:.4f}, before temperature "
        f"{calibration['ece_before']:.4f}"
        + temperature_at_bound(figures["temperature"]),
        f"always predicting the largest class: {figures['largest_class_share']:.4f}"
        + no_better_in_words(figures),
        *precision_in_words(figures),
        *near_copies_in_words(figures),
        "",
        *_class_table(figures),
        "",
        *_confusion_table(figures),
    ]
    if errors := figures["errors"]:
        lines += ["", f"mistakes: {len(errors)}, the most confident first:"]
        lines += [
            f"  {error['probability']:.3f}  {error['true']} predicted as "
            f"{error['predicted']}: {error['path']}"
            for error in errors[:_MAX_ERRORS]
        ]
    doubts = figures.get("label_doubts")
    if doubts and doubts["num_examples"]:
        lines += ["", label_errors.in_words(doubts)]
    if "written" in figures:
        lines += ["", f"written: {figures['written']}"]
    if "report" in figures:
        lines.append(f"report:  {figures['report']}")
    return "\n".join(lines)


def split_in_words(figures: dict[str, Any]) -> str:
    """Return which part of the records was evaluated."""
    names = {"all": "all splits", "folds": "all folds"}
    return names.get(figures["split"], f"{figures['split']} split")


def folds_in_words(figures: dict[str, Any]) -> list[str]:
    """Return lines about the interval of all folds, and the accuracy of each fold."""
    if "folds" not in figures:
        return []
    differ = "more than by chance, so that the interval is wider"
    if not figures["folds_differ"]:
        differ = "no more than by chance"
    return [
        "Each photo was predicted by the run of the fold that was not trained on it. "
        f"The accuracies of the folds differ {differ}. The interval is approximate, "
        "because the runs share most of their training photos.",
        *(
            f"{fold['run']}  accuracy {fold['accuracy']:.4f}   95 % interval "
            f"{fold['accuracy_ci95'][0]:.4f} to {fold['accuracy_ci95'][1]:.4f}, "
            f"{fold['num_examples']:,} photos"
            for fold in figures["folds"]
        ),
    ]


def no_better_in_words(figures: dict[str, Any]) -> str:
    """Return a remark if the accuracy may be no better than this baseline, or ""."""
    if not figures["accuracy_ci95"][0] <= figures["largest_class_share"] < 1:
        return ""
    return ". The accuracy is not clearly above that: look at the balanced accuracy"


def precision_in_words(figures: dict[str, Any]) -> list[str]:
    """Return a line if the training validated in another precision than float32."""
    trained = figures.get("training_precision") or "float32"
    return [
        f"The evaluation computes in float32. Accuracies in the training log were "
        f"computed in {trained}, which may change the result for a few photos."
    ] * (trained != "float32")


def near_copies_in_words(figures: dict[str, Any]) -> list[str]:
    """Return a line on photos that look like copies of training photos.

    [] stands for a network without training, and for the training photos.
    """
    content, what = figures.get("near_copies"), "near-copies of training photos: "
    if content is None or figures["split"] == "train":
        return []
    if "not_searched" in content:
        return [
            f"{what}not searched, because {content['not_searched']}. Conversion keeps "
            f"copies in one split only if they are {near_duplicates.LIMIT}."
        ]
    photos = content["photos"]
    compared, total = content["num_training"], content["num_training_in_all"]
    text = f"{what}{len(photos):,} of {figures['num_examples']:,} photos"
    for photo in photos[:1]:
        text += f", first {photo['path']} and {photo['similar_to']}"
    text += f", compared with {compared:,} of {total:,}" * (compared < total)
    limit = (
        f". Of training photos cropped by {near_copies.CUT:.0%} on each side, "
        f"{near_copies.FOUND_SHARE:.0%} are found; {content['chance']:.1%} of training "
        "photos look as much like another training photo."
    )
    return [command_line.one_line(text) + limit.replace("%", " %")]


def temperature_at_bound(temperature: float) -> str:
    """Return a remark about a temperature at a bound of the search; "" for others."""
    if not metrics.at_bound(temperature):
        return ""
    return (
        f" (the temperature, {temperature:.4g}, is at a bound of the search: "
        "probabilities are not calibrated)"
    )


def _class_table(figures: dict[str, Any]) -> list[str]:
    rows = []
    for row in figures["per_class"]:
        scores = [row[name] for name in ("precision", "recall", "f1")]
        cells = [None if score is None else f"{score:.3f}" for score in scores]
        rows.append((row["class_name"], *cells, row["support"]))
    return command_line.table(("class", "precision", "recall", "f1", "photos"), rows)


def _confusion_table(figures: dict[str, Any]) -> list[str]:
    """Return the confusion matrix; of many classes the most frequent confusions."""
    names, confusion = figures["class_names"], figures["confusion_matrix"]
    if len(names) > 15:
        confused = class_matrix(confusion)["mixed_up"]
        return ["most frequent confusions:"] + [
            f"  {c['count']:5}  {names[c['true']]} predicted as {names[c['predicted']]}"
            for c in confused[:10]
        ]
    rows = ((name, *row) for name, row in zip(names, confusion, strict=True))
    return command_line.table(("true, predicted:", *names), rows)


def class_matrix(confusion_matrix: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the confusion matrix for display; of many classes the most confused.

    `labels` are the classes shown, and `rows`, of true classes, have cells {true,
    predicted, count, share}; `left_out` is the number of classes not shown, `mixed_up`
    has the most frequent confusions among all classes.
    """
    confusion = np.array(confusion_matrix)
    num_classes = len(confusion)
    labels = np.arange(num_classes)
    wrong = confusion * (1 - np.eye(num_classes, dtype=np.int64))
    if num_classes > _MAX_CLASSES:
        mistakes = wrong.sum(axis=0) + wrong.sum(axis=1)
        most_confused = np.argsort(-mistakes, kind="stable")[:_MAX_CLASSES]
        labels = np.sort(most_confused)
    largest = max(1, int(confusion.max()))
    rows = [
        [
            {
                "true": int(true),
                "predicted": int(predicted),
                "count": int(confusion[true, predicted]),
                # The root makes a single mistake among hundreds of hits visible.
                "share": round(float(np.sqrt(confusion[true, predicted] / largest)), 3),
            }
            for predicted in labels
        ]
        for true in labels
    ]
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return {
        "labels": labels.tolist(),
        "rows": rows,
        "left_out": num_classes - len(labels),
        "mixed_up": [
            {"true": int(t), "predicted": int(p), "count": int(wrong[t, p])}
            for t, p in pairs
            if wrong[t, p]
        ],
    }


def coverage_table(
    points: Sequence[dict[str, float]],
    confidence: np.ndarray,
    effective_share: float = 1,
) -> list[dict[str, Any]]:
    """Return what abstaining on uncertain photos is worth.

    There is a row per goal (a share of photos to classify, or an accuracy): {goal,
    threshold, coverage, answered, accuracy, low, high}. `threshold` is text, `answered`
    the number of photos, `low` and `high` the 95 % interval of `accuracy`. If no
    threshold reaches the goal, `threshold` is None and the rest is missing.

    The points are those of `calibration.coverage`, `confidence` the probability of each
    photo's predicted class; `effective_share` is the number of independent photos that
    one photo counts as, 0..1, below 1 for photos in groups.
    """
    goals: list[tuple[str, dict[str, float] | None]] = []
    for share in _COVERAGES:
        nearest = min(points, key=lambda point: abs(point["coverage"] - share))
        goals.append((f"classify {100 * share:.0f} % of the photos", nearest))
    for accuracy in _ACCURACIES:
        reaching = [point for point in points if point["accuracy"] >= accuracy]
        widest = max(reaching, key=lambda point: point["coverage"], default=None)
        goals.append((f"be right for {100 * accuracy:.0f} % of them", widest))
    return [
        {"goal": goal}
        | (_coverage_row(point, confidence, effective_share) if point else _UNREACHED)
        for goal, point in goals
    ]


def _coverage_row(
    point: dict[str, float], confidence: np.ndarray, effective_share: float
) -> dict[str, Any]:
    num_classified = round(point["coverage"] * len(confidence))
    num_correct = round(point["accuracy"] * num_classified)
    low, high = metrics.wilson_interval(
        num_correct * effective_share, num_classified * effective_share
    )
    return {
        **point,
        "threshold": calibration.threshold_text(point["threshold"], confidence),
        "answered": num_classified,
        "low": low,
        "high": high,
    }
