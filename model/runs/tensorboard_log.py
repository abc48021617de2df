"""Write the figures of each epoch for TensorBoard."""

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
from tensorboard.summary.writer import record_writer
from tensorboard.util import tensor_util

from model.loop.training_loop import EpochResult
from pipeline.system import file_system

_FIGURES = ("loss", "accuracy", "learning_rate", "images_per_s", "l2", "iterations")
_SIDE_PX = 256  # least side of a confusion matrix


class EventFile:
    """Write a file for TensorBoard, whose own writer has a thread that logs errors."""

    def __init__(self, folder: Path) -> None:
        """Create the file in a folder, which need not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{time.time_ns()}"
        file = tf.io.gfile.GFile(str(path), "wb")
        self._writer = record_writer.RecordWriter(file)
        self.flush, self.close = self._writer.flush, self._writer.close
        self.add(0, file_version="brain.Event:2")

    def add(self, step: int, summary: Any = None, **fields: Any) -> None:
        """Append figures or pictures of a step."""
        fields |= {"wall_time": time.time(), "step": step, "summary": summary}
        self._writer.write(event_pb2.Event(**fields).SerializeToString())


class Board:
    """Write figures of both splits, which TensorBoard draws in one diagram.

    The messages are made by TensorBoard's own functions in NumPy: TensorFlow's
    operations for them took 40 ms an epoch.
    """

    def __init__(self, run_directory: Path) -> None:
        """Open one event file per split in a run folder."""
        self._files = {
            split: EventFile(
                file_system.make_inside(run_directory, "tensorboard", split)
            )
            for split in ("training", "validation")
        }

    def write_epoch(
        self,
        result: EpochResult,
        *,
        rates: Mapping[float, float],
        weights: Mapping[str, np.ndarray],
        confusion: np.ndarray,
    ) -> None:
        """Write the figures of an epoch.

        `rates` are {lr_mult: last learning rate of the variables that have it},
        `weights` {name: array} of the new head, and `confusion` is int [num_classes,
        num_classes], validation photos of true class i that are predicted as class j.
        """
        training, validation = self._files["training"], self._files["validation"]
        values = result.as_dict()
        figures = {name: values[name] for name in _FIGURES if name in values}
        if len(rates) > 1:
            for lr_mult, rate in rates.items():
                figures[f"learning_rate_of_lr_mult/{lr_mult:g}"] = rate
        for name, value in figures.items():
            training.add(result.epoch, scalars.scalar_pb(name, value))
        for name, array in weights.items():
            training.add(result.epoch, histograms.histogram_pb(name, array))
        for message in (
            scalars.scalar_pb("loss", result.validation_loss),
            scalars.scalar_pb("accuracy", result.validation_accuracy),
            image_pb("confusion_matrix", picture(confusion)),
        ):
            validation.add(result.epoch, message)
        training.flush()
        validation.flush()

    def write_first_batch(self, grid: np.ndarray, stage: int) -> None:
        """Write the photos of a stage's first batch, uint8 [height, width, 3]."""
        self._files["training"].add(stage, image_pb("first_batch", grid))
        self._files["training"].flush()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


def image_pb(name: str, pixels: np.ndarray) -> Any:
    """Return the message that shows a picture, uint8 [height, width, 3]."""
    height, width, _ = pixels.shape
    content = [str(width), str(height), tf.io.encode_png(pixels).numpy()]
    metadata = image_metadata.create_summary_metadata(display_name="", description="")
    summary = summary_pb2.Summary()
    tensor = tensor_util.make_tensor_proto(content, dtype="string")
    summary.value.add(tag=name, metadata=metadata, tensor=tensor)
    return summary


def picture(confusion: np.ndarray) -> np.ndarray:
    """Draw a confusion matrix, uint8 [side, side, 3], true classes from top to bottom.

    The darker a cell, the larger its share of the true class's photos: blue for correct
    predictions, red for mistakes.
    """
    num_classes = len(confusion)
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    colour = np.where(np.eye(num_classes, dtype=bool)[..., None], (1, 1, 0), (0, 1, 1))
    levels = np.rint(255 * (1 - shares[..., None] * colour)).astype(np.uint8)
    cell = -(-_SIDE_PX // num_classes)
    return levels.repeat(cell, axis=0).repeat(cell, axis=1)
