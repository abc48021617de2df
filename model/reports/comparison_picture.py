"""Draw compare-<split>.png: the runs of a comparison with their curves."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.evaluation.compare import comparison
from model.runs import pictures
from pipeline.system import command_line

_LONGEST_NAME = 40

Curve = Sequence[tuple[int, float]]  # epoch, accuracy on the validation split


def draw(figures: dict[str, Any], curves: Sequence[Curve], path: Path) -> None:
    """Draw the table of runs, and their validation accuracy over the epochs, as a PNG.

    The row of a run has its accuracy with interval, model size, speed, and the p value
    against the first run. `figures` are those of `comparison.compare`; the curve of a
    run may be empty.
    """
    from matplotlib.ticker import MaxNLocator

    runs = figures["runs"]
    texts = _table(runs, figures["pairs"])
    height = max(3.5, 1.5 + 0.5 * len(runs))
    figure = pictures.empty_figure(11, height, layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (run, curve) in enumerate(zip(runs, curves, strict=True)):
        colour, accuracy = f"C{number % 10}", run["accuracy"]
        low, high = run["accuracy_ci95"]
        ends = [[max(0.0, accuracy - low)], [max(0.0, high - accuracy)]]
        left.errorbar(accuracy, number, xerr=ends, fmt="o", color=colour, capsize=4)
        style = {"transform": left.get_yaxis_transform(), "va": "center", "size": 8}
        left.text(0.02, number + 0.32, texts[number], **style)
        epochs, values = zip(*curve, strict=True) if curve else ((), ())
        marker = "o" if len(curve) == 1 else None
        right.plot(epochs, values, color=colour, marker=marker)
    names = [command_line.as_label(run["run"]) for run in runs]
    names = [pictures.shorten(name, "", _LONGEST_NAME) for name in names]
    left.set_yticks(range(len(runs)), names)
    for number, tick in enumerate(left.get_yticklabels()):
        tick.set(color=f"C{number % 10}", parse_math=False)  # names may contain $
    left.set_ylim(len(runs) - 0.5, -0.5)  # the first run on top
    left.set(title="accuracy with 95 % interval")
    right.set(title="validation accuracy", xlabel="epoch or L2 penalty")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about missing glyphs
        figure.savefig(path, dpi=100, format="png")


def _table(
    runs: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]
) -> list[str]:
    lines = []
    for number, run in enumerate(runs):
        words = [f"{run['accuracy']:.4f}", f"{run['model_bytes'] / 1e6:.1f} MB"]
        if run["images_per_s"] is not None:
            words.append(f"{run['images_per_s']:,.0f} photos/s")
        if number:  # the others are compared with the first
            words.append(comparison.describe_p(pairs[number - 1]["p_holm"]))
        lines.append("   ".join(words))
    return lines
