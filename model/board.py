"""What TensorBoard shows of a training."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from model import loop

_SIDE_PX = 512  # of a confusion matrix; or more, if there are so many classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Details:
    """What an epoch's result does not say.

    Attributes:
        rates: {lr_mult: learning rate of the variables that have it}.
        weights: {name: array} of the new head.
        confusion: int [num_classes, num_classes]: validation photos of true class i
            that are taken for class j.
    """

    rates: Mapping[float, float]
    weights: Mapping[str, np.ndarray]
    confusion: np.ndarray


class Board:
    """Writes an epoch's figures, both splits side by side."""

    def __init__(self, directory: Path) -> None:
        """Opens one event file per split."""
        self._writers = {
            split: tf.summary.create_file_writer(str(directory / split))
            for split in ("training", "validation")
        }

    def write(self, result: loop.EpochResult, details: Details) -> None:
        """Adds one epoch."""
        figures = {
            "training": {
                "loss": result.loss,
                "accuracy": result.accuracy,
                "learning_rate": result.learning_rate,
                "images_per_s": result.images_per_s,
                **{
                    f"learning_rate_of_lr_mult/{lr_mult:g}": rate
                    for lr_mult, rate in details.rates.items()
                    if len(details.rates) > 1
                },
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
        with self._writers["training"].as_default(step=result.epoch):
            for name, array in details.weights.items():
                tf.summary.histogram(name, array)
        with self._writers["validation"].as_default(step=result.epoch):
            tf.summary.image("confusion_matrix", picture(details.confusion)[None])
        for writer in self._writers.values():
            writer.flush()

    def first_batch(self, sheet: np.ndarray, stage: int) -> None:
        """Adds what the network sees.

        Args:
            stage: number of it, from 0.
            sheet: uint8 [height, width, 3], the photos of a batch side by side.
        """
        with self._writers["training"].as_default(step=stage):
            tf.summary.image("first_batch", sheet[None])
        self._writers["training"].flush()


def picture(confusion: np.ndarray) -> np.ndarray:
    """A confusion matrix as uint8 [side, side, 3], true classes down.

    White is none, blue all photos of the true class; mistakes are red.
    """
    num_classes = len(confusion)
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    colour = np.where(np.eye(num_classes, dtype=bool)[..., None], (1, 1, 0), (0, 1, 1))
    levels = np.rint(255 * (1 - shares[..., None] * colour)).astype(np.uint8)
    cell = -(-_SIDE_PX // num_classes)
    return levels.repeat(cell, axis=0).repeat(cell, axis=1)
