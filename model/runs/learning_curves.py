"""Draw losses and accuracies over the epochs: curves.png."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.loop.training_loop import EpochResult

_SMOOTHING = 0.8  # weight of the average so far in the next one


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the exponential moving average of a curve."""
    return list(
        itertools.accumulate(
            values,
            lambda average, value: _SMOOTHING * average + (1 - _SMOOTHING) * value,
        )
    )


def empty_figure(width_inches: float, height_inches: float, **options: Any) -> Any:
    """Return a figure for a PNG; `options` are other arguments of matplotlib's."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it reports fonts
    # Deferred, and without pyplot's state: matplotlib takes half a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), **options)
    FigureCanvasAgg(figure)
    return figure


def figure(columns: int) -> tuple[Any, list[Any]]:
    """Return an empty figure with diagrams side by side, and their axes."""
    figure = empty_figure(4.5 * columns, 3.5, layout="constrained")
    all_axes = [figure.add_subplot(1, columns, n + 1) for n in range(columns)]
    for axes in all_axes:
        axes.grid(alpha=0.3)
    return figure, all_axes


def draw(results: Mapping[str, Sequence[EpochResult]], path: Path) -> None:
    """Draw losses and accuracies of both splits over the epochs as a PNG.

    `results` holds the epochs of each network by its name, "" if it trains alone.
    """
    titles = {"loss": "loss (nats)", "accuracy": "accuracy"}
    picture, both_axes = figure(len(titles))
    for axes, (field, title) in zip(both_axes, titles.items(), strict=True):
        for number, (name, epochs) in enumerate(results.items()):
            _draw_lines(axes, name, number, epochs, field)
        axes.set(xlabel="epoch", title=title)
        axes.locator_params("x", integer=True)
        axes.legend(fontsize="small")
    picture.savefig(path, dpi=100, format="png")


def _draw_lines(
    axes: Any, name: str, number: int, epochs: Sequence[EpochResult], field: str
) -> None:
    """Draw both splits of one network: the values pale, their average strong."""
    numbers = [result.epoch for result in epochs]
    marker = "o" if len(epochs) == 1 else None
    for split, prefix in (("training", ""), ("validation", "validation_")):
        values = [getattr(result, prefix + field) for result in epochs]
        color = f"C{2 * number + bool(prefix)}"
        style = "-" if prefix else "--"
        label = " ".join(filter(None, (name, split)))
        axes.plot(numbers, values, style, color=color, alpha=0.35, marker=marker)
        axes.plot(numbers, smoothed(values), style, color=color, label=label)
    if number == 0:
        for before, after in itertools.pairwise(epochs):
            if before.stage != after.stage:
                axes.axvline(after.epoch - 0.5, color="0.5", linestyle=":")
                axes.annotate(
                    f" {after.stage}",
                    (after.epoch - 0.5, 1),
                    xycoords=("data", "axes fraction"),
                    va="top",
                    fontsize="x-small",
                )
