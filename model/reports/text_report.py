"""Format the figures of an evaluation or a comparison as text."""

from typing import Any

from model.loop import metrics
from pipeline.system import command_line

_MAX_ERRORS = 10


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
        f"{figures['run']}, {figures['split']} split, "
        f"{figures['num_examples']} photos{views}"
        + (
            f", {num_seen} of them used in training: not a measure for new photos"
            if num_seen
            else ""
        ),
        "",
        f"top-1 accuracy  {figures['accuracy']:.4f}   95 % interval "
        f"{low:.4f} to {high:.4f}",
        f"top-5 accuracy  {top5}",
        f"calibration error  {calibration['ece']:.4f}, before temperature "
        f"{calibration['ece_before']:.4f}"
        + temperature_at_bound(figures["temperature"]),
        f"always predicting the largest class: {figures['largest_class_share']:.4f}",
        "",
        *_class_table(figures),
        "",
        *_confusion_table(figures),
    ]
    errors = figures["errors"]
    if errors:
        lines += ["", f"the most confident of {len(errors)} mistakes:"]
        lines += [
            f"  {error['probability']:.3f}  {error['true']} predicted as "
            f"{error['predicted']}: {error['path']}"
            for error in errors[:_MAX_ERRORS]
        ]
    if "written" in figures:
        lines += ["", f"written: {figures['written']}"]
    if "report" in figures:
        lines.append(f"report:  {figures['report']}")
    return "\n".join(lines)


def temperature_at_bound(temperature: float) -> str:
    """Return a remark about a temperature at a bound of the search; "" for others."""
    if not metrics.at_bound(temperature):
        return ""
    return (
        f" (the temperature, {temperature:.4g}, is at a bound of the search: "
        "probabilities are not calibrated)"
    )


def _class_table(figures: dict[str, Any]) -> list[str]:
    rows = figures["per_class"]
    width = max(map(len, ("class", *(row["class_name"] for row in rows))))
    lines = [
        f"{'class':{width}} {'precision':>9} {'recall':>7} {'f1':>7} {'photos':>7}"
    ]
    for row in rows:
        values = [row[name] for name in ("precision", "recall", "f1")]
        cells = ["-" if value is None else f"{value:.3f}" for value in values]
        lines.append(
            f"{row['class_name']:{width}} {cells[0]:>9} {cells[1]:>7} {cells[2]:>7} "
            f"{row['support']:>7}"
        )
    return lines


def _confusion_table(figures: dict[str, Any]) -> list[str]:
    """Return the confusion matrix; of many classes the most frequent confusions."""
    names, confusion = figures["class_names"], figures["confusion_matrix"]
    if len(names) > 15:
        mixed = [
            (count, true, predicted)
            for true, row in enumerate(confusion)
            for predicted, count in enumerate(row)
            if count and true != predicted
        ]
        mixed.sort(reverse=True)
        return ["most frequent confusions:"] + [
            f"  {count:5}  {names[true]} predicted as {names[predicted]}"
            for count, true, predicted in mixed[:10]
        ]
    corner = "true, predicted:"
    width = max(map(len, (corner, *names)))
    widths = [max(6, len(name)) for name in names]
    header = " ".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True))
    lines = [f"{corner:{width}} {header}"]
    for name, row in zip(names, confusion, strict=True):
        cells = " ".join(f"{count:>{w}}" for count, w in zip(row, widths, strict=True))
        lines.append(f"{name:{width}} {cells}")
    return lines


def comparison(figures: dict[str, Any]) -> str:
    """Return the figures of evaluation/compare-<split>.json as text.

    The log loss is that of the calibrated probabilities.
    """
    copies, pairs = figures["num_copies"], figures["pairs"]
    lines = [
        f"{figures['split']} split, {figures['num_examples']} photos that none of the "
        "runs was trained on"
        + (f"; {copies} more are identical copies of these" if copies else ""),
        "",
        *_run_table(figures),
    ]
    for pair in pairs:
        first, second = (
            command_line.one_line(pair[name]) for name in ("first", "second")
        )
        low, high = pair["difference_ci95"]
        p = f"{pair['p']:.3g}" + (
            f", corrected {pair['p_holm']:.3g}" if len(pairs) > 1 else ""
        )
        lines += [
            "",
            f"{second} compared with {first}",
            f"  only this run right: {pair['only_second']} photos; only the other: "
            f"{pair['only_first']}; McNemar's exact p {p}",
            f"  accuracy {pair['difference']:+.4f}, 95 % interval {low:+.4f} to "
            f"{high:+.4f}",
            f"  {command_line.one_line(pair['verdict'])}",
        ]
    if len(pairs) > 1:
        lines += ["", f"p values are corrected for {len(pairs)} comparisons by Holm"]
    if "written" in figures:
        lines += ["", f"written: {figures['written']}"]
    return "\n".join(lines)


def _run_table(figures: dict[str, Any]) -> list[str]:
    rows = figures["runs"]
    names = [command_line.one_line(row["run"]) for row in rows]
    width = max(map(len, ("run", *names)))
    lines = [
        f"{'run':{width}} {'accuracy':>8}  {'95 % interval':16} {'top-5':>6} "
        f"{'log loss':>8} {'MB':>6} {'photos/s':>8}"
    ]
    for name, row in zip(names, rows, strict=True):
        low, high = row["accuracy_ci95"]
        few, rate = len(figures["class_names"]) <= 5, row["images_per_s"]
        top5 = "-" if few else f"{row['top5_accuracy']:.4f}"
        speed = "-" if rate is None else f"{rate:,.0f}"
        lines.append(
            f"{name:{width}} {row['accuracy']:8.4f}  {low:.4f} to {high:.4f} "
            f"{top5:>6} {row['calibrated_loss']:8.4f} "
            f"{row['model_bytes'] / 1e6:6.1f} {speed:>8}"
        )
    return lines
