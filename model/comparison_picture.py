"""Runs that are compared -> compare-<split>.png."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import command

_LONGEST_NAME = 40

Curve = Sequence[tuple[int, float]]  # epoch, accuracy on the validation split


def draw(runs: Sequence[dict[str, Any]], curves: Sequence[Curve], path: Path) -> None:
    """Draws accuracies with their intervals, and validation accuracy over the epochs.

    Args:
        runs: as comparison.compare has them.
        curves: of each of them; an empty one for a run that has none.
        path: of the PNG.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its fonts
    # Deferred, and without pyplot's state: matplotlib takes half a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    height = max(3.5, 1.5 + 0.4 * len(runs))
    figure = Figure(figsize=(11, height), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, (one, curve) in enumerate(zip(runs, curves, strict=True)):
        colour, accuracy = f"C{number % 10}", one["accuracy"]
        low, high = one["accuracy_ci95"]
        ends = [[max(0.0, accuracy - low)], [max(0.0, high - accuracy)]]
        left.errorbar(accuracy, number, xerr=ends, fmt="o", color=colour, capsize=4)
        epochs = [epoch for epoch, _ in curve]
        values = [value for _, value in curve]
        marker = "o" if len(curve) == 1 else None
        right.plot(epochs, values, color=colour, marker=marker)
    left.set_yticks(range(len(runs)), [_label(one["run"]) for one in runs])
    for number, tick in enumerate(left.get_yticklabels()):
        tick.set(color=f"C{number % 10}", parse_math=False)  # $ is a name's own
    left.set_ylim(len(runs) - 0.5, -0.5)  # the first run on top
    left.set(title="accuracy with 95 % interval")
    right.set(title="validation accuracy", xlabel="epoch")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks are boxes
        figure.savefig(path, dpi=100, format="png")


def _label(name: str) -> str:
    """A run's name as a font can draw it, and not too long."""
    text = command.as_utf8(command.one_line(command.shown(name)))
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."
