"""Epoch results -> curves.png and TensorBoard scalars."""

import logging
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from model import loop


def draw(results: Sequence[loop.EpochResult], path: Path) -> None:
    """Draws losses and accuracies of both splits over the epochs as a PNG."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its fonts
    # Deferred, and without pyplot's state: matplotlib takes half a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [result.epoch for result in results]
    marker = "o" if len(results) == 1 else None
    for axes, name, train, validation in (
        (
            figure.add_subplot(1, 2, 1),
            "loss (nats)",
            [result.loss for result in results],
            [result.validation_loss for result in results],
        ),
        (
            figure.add_subplot(1, 2, 2),
            "accuracy",
            [result.accuracy for result in results],
            [result.validation_accuracy for result in results],
        ),
    ):
        axes.plot(epochs, train, label="training", marker=marker)
        axes.plot(epochs, validation, label="validation", marker=marker)
        axes.set(xlabel="epoch", title=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=100, format="png")


class Scalars:
    """Writes an epoch's figures for TensorBoard, both splits side by side."""

    def __init__(self, directory: Path) -> None:
        """Opens one event file per split."""
        self._writers = {
            split: tf.summary.create_file_writer(str(directory / split))
            for split in ("training", "validation")
        }

    def write(self, result: loop.EpochResult) -> None:
        """Adds one epoch."""
        figures = {
            "training": {
                "loss": result.loss,
                "accuracy": result.accuracy,
                "learning_rate": result.learning_rate,
                "images_per_s": result.images_per_s,
            },
            "validation": {
                "loss": result.validation_loss,
                "accuracy": result.validation_accuracy,
            },
        }
        for split, values in figures.items():
            with self._writers[split].as_default(step=result.epoch):
                for name, value in values.items():
                    tf.summary.scalar(name, value)
            self._writers[split].flush()
