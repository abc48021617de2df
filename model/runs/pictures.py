"""Draw pictures of a training: curves over the epochs, and grids of named images."""

import itertools
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model.loop.training_loop import EpochResult
from pipeline.system import command_line

PENALTY_AXIS = "L2 penalty of the head"
_SMOOTHING = 0.8  # weight of the average so far in the next one
MOST_IMAGES = 24
_COLUMNS = 8
_TILE_PX = 112  # images are scaled by whole factors to about this side
_GAP_PX = 6
_LINE_PX = 12
_FONT_PX = 9
_CHARACTER_PX = 0.602 * _FONT_PX  # of DejaVu Sans Mono, which comes with matplotlib


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the exponential moving average of a curve."""
    return list(
        itertools.accumulate(values, lambda a, b: _SMOOTHING * a + (1 - _SMOOTHING) * b)
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


def draw_curves(results: Mapping[str, Sequence[EpochResult]], path: Path) -> None:
    """Draw losses and accuracies of both splits over the epochs as a PNG.

    For a head that was solved, draw them over its L2 penalties. `results` holds the
    epochs of each network by its name, "" if it trains alone.
    """
    is_solved = all(r.l2 is not None for epochs in results.values() for r in epochs)
    titles = {"loss": "loss (nats)", "accuracy": "accuracy"}
    picture, both_axes = figure(len(titles))
    for axes, (field, title) in zip(both_axes, titles.items(), strict=True):
        for number, (name, epochs) in enumerate(results.items()):
            _draw_lines(axes, name, number, epochs, field, is_solved)
        axes.set_title(title)
        if is_solved:
            axes.set(xscale="log", xlabel=PENALTY_AXIS)
            axes.invert_xaxis()  # the strongest on the left
        else:
            axes.set_xlabel("epoch")
            axes.locator_params("x", integer=True)
        axes.legend(fontsize="small")
    picture.savefig(path, dpi=100, format="png")


def _draw_lines(
    axes: Any,
    name: str,
    number: int,
    epochs: Sequence[EpochResult],
    field: str,
    is_solved: bool,
) -> None:
    """Draw both splits of one network, and where its stages meet.

    Over epochs, a curve is pale, and its moving average is strong.
    """
    places = [result.l2 if is_solved else result.epoch for result in epochs]
    marker = "o" if is_solved or len(epochs) == 1 else None
    for split, prefix in (("training", ""), ("validation", "validation_")):
        values = [getattr(result, prefix + field) for result in epochs]
        line = {"color": f"C{2 * number + bool(prefix)}", "marker": marker}
        style = "-" if prefix else "--"
        if not is_solved:
            axes.plot(places, values, style, alpha=0.35, **line)
            values = smoothed(values)
        label = " ".join(filter(None, (name, split)))
        axes.plot(places, values, style, label=label, **line)
    for before, after in itertools.pairwise(epochs if number == 0 else ()):
        if before.stage != after.stage:
            place = after.epoch - 0.5
            axes.axvline(place, color="0.5", linestyle=":")
            look = {"va": "top", "fontsize": "x-small"}
            top = {"xycoords": ("data", "axes fraction")}
            axes.annotate(f" {after.stage}", (place, 1), **top, **look)


def draw_grid(
    images: Any, labels: Any, class_names: Sequence[str], path: Path
) -> np.ndarray:
    """Draw the first images of a batch as a PNG, with class names below them.

    Images are uint8 [batch, height, width, 3], RGB, labels int [batch], or float
    [batch, num_classes]: the share of each class, of which the two largest are named.
    Returns the same picture without the names, uint8 [height, width, 3].
    """
    tiles = _scale(np.asarray(images)[:MOST_IMAGES])
    count, height, width, _ = tiles.shape
    most = int((width + _GAP_PX // 2) / _CHARACTER_PX)
    texts = [caption(x, class_names, most) for x in np.asarray(labels)[:MOST_IMAGES]]
    text_px = (1 + max(text.count("\n") for text in texts)) * _LINE_PX
    columns = min(count, _COLUMNS)
    step = np.array([height + text_px + _GAP_PX, width + _GAP_PX])
    size = step * (-(-count // columns), columns) + (0, _GAP_PX)
    sheet = np.full((*size, 3), 255, np.uint8)
    places = [np.array(divmod(n, columns)) * step + _GAP_PX for n in range(count)]
    for tile, (top, left) in zip(tiles, places, strict=True):
        sheet[top : top + height, left : left + width] = tile
    below = [(left, top + height + 2) for top, left in places]
    _save(sheet, below, texts, path)
    return sheet


def _scale(images: np.ndarray) -> np.ndarray:
    """Return the images scaled by a whole factor, by means or by repeated pixels."""
    sides = np.array(images.shape[1:3])
    if sides.max() <= _TILE_PX:
        by = _TILE_PX // sides.max()
        return images.repeat(by, axis=1).repeat(by, axis=2)
    by = -(-sides.max() // _TILE_PX)
    tall, wide = np.maximum(1, sides // by).tolist()
    images = images[:, : tall * by, : wide * by]
    means = tf.image.resize(images, (tall, wide), tf.image.ResizeMethod.AREA)
    return np.rint(means).astype(np.uint8)


def caption(label: Any, class_names: Sequence[str], most: int) -> str:
    """Return the text below an image, in lines of at most `most` characters.

    It names the class; of a mixed image, the two largest with their shares.
    """
    shares = label if label.ndim else np.eye(1, len(class_names), int(label))[0]
    largest = np.argsort(-shares, kind="stable")[:2]
    names = [command_line.as_label(class_names[number]) for number in largest]
    percent = [round(100 * float(shares[number])) for number in largest]
    if percent[0] == 100:
        return shorten(names[0], "", most)
    named = zip(names, percent, strict=True)
    return "\n".join(shorten(name, f" {share} %", most) for name, share in named)


def shorten(name: str, share: str, most: int) -> str:
    """Return a name and its share in at most `most` characters."""
    room = max(1, most - len(share))
    return (name if len(name) <= room else name[: room - 1] + "…") + share


def _save(
    sheet: np.ndarray, places: Sequence[Any], texts: Sequence[str], path: Path
) -> None:
    """Write the picture, pixel by pixel, with a text below and right of each place."""
    height, width, _ = sheet.shape
    dpi = 100
    # A hundredth more: 29 / 100 * 100 is below 29, and the canvas rounds down.
    figure = empty_figure((width + 0.01) / dpi, (height + 0.01) / dpi, dpi=dpi)
    # Not an axes' imshow, which resamples and draws axes.
    figure.figimage(sheet)
    style = {"family": "DejaVu Sans Mono", "fontsize": _FONT_PX * 72 / dpi}
    style |= {"va": "top", "linespacing": 1.1, "parse_math": False}
    for (left, top), text in zip(places, texts, strict=True):
        figure.text(left / width, 1 - top / height, text, **style)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # characters without a glyph
        # Level 6, the default, takes twice as long for 7 % less.
        figure.savefig(path, dpi=dpi, format="png", pil_kwargs={"compress_level": 1})
