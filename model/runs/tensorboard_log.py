"""What TensorBoard shows of a training."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.histogram import summary_v2 as histograms
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import summary_v2 as scalars
from tensorboard.summary.writer import event_file_writer
from tensorboard.util import tensor_util

from model.loop import training_loop

_SIDE_PX = 256  # of a confusion matrix; or more, if there are so many classes


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
    """Writes an epoch's figures, both splits side by side.

    The messages are made by TensorBoard's own functions in NumPy: TensorFlow's
    operations for them took 40 ms an epoch.
    """

    def __init__(self, directory: Path) -> None:
        """Opens one event file per split."""
        self._writers = {
            split: event_file_writer.EventFileWriter(str(directory / split))
            for split in ("training", "validation")
        }

    def write(self, result: training_loop.EpochResult, details: Details) -> None:
        """Adds one epoch."""
        training = {
            "loss": result.loss,
            "accuracy": result.accuracy,
            "learning_rate": result.learning_rate,
            "images_per_s": result.images_per_s,
            **{
                f"learning_rate_of_lr_mult/{lr_mult:g}": rate
                for lr_mult, rate in details.rates.items()
                if len(details.rates) > 1
            },
        }
        validation = {
            "loss": result.validation_loss,
            "accuracy": result.validation_accuracy,
        }
        step = result.epoch
        for name, value in training.items():
            self._add("training", step, scalars.scalar_pb(name, value))
        for name, array in details.weights.items():
            self._add("training", step, histograms.histogram_pb(name, array))
        for name, value in validation.items():
            self._add("validation", step, scalars.scalar_pb(name, value))
        confusion = image_pb("confusion_matrix", picture(details.confusion))
        self._add("validation", step, confusion)
        for writer in self._writers.values():
            writer.flush()

    def first_batch(self, sheet: np.ndarray, stage: int) -> None:
        """Adds what the network sees.

        Args:
            sheet: uint8 [height, width, 3], the photos of a batch side by side.
            stage: number of it, from 0.
        """
        self._add("training", stage, image_pb("first_batch", sheet))
        self._writers["training"].flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()

    def _add(self, split: str, step: int, summary: Any) -> None:
        self._writers[split].add_event(
            event_pb2.Event(wall_time=time.time(), step=step, summary=summary)
        )


def image_pb(name: str, pixels: np.ndarray) -> Any:
    """The message that shows a picture, uint8 [height, width, 3]."""
    height, width, _ = pixels.shape
    content = [str(width), str(height), tf.io.encode_png(pixels).numpy()]
    about = image_metadata.create_summary_metadata(display_name="", description="")
    found = summary_pb2.Summary()
    tensor = tensor_util.make_tensor_proto(content, dtype="string")
    found.value.add(tag=name, metadata=about, tensor=tensor)
    return found


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
