"""Write the figures of each epoch for TensorBoard."""

import time
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.scalar import summary_v2 as scalars
from tensorboard.summary.writer import record_writer

from model.loop.training_loop import EpochResult
from pipeline.system import file_system

_FIGURES = ("loss", "accuracy", "learning_rate", "images_per_s", "l2", "iterations")


class Board:
    """Write figures of both splits, which TensorBoard draws in one diagram.

    TensorBoard's own writer has a thread that logs errors, and TensorFlow's operations
    for these messages took 40 ms an epoch.
    """

    def __init__(self, run_directory: Path) -> None:
        """Open one event file per split in a run folder."""
        self._files = {}
        for split in ("training", "validation"):
            folder = file_system.make_inside(run_directory, "tensorboard", split)
            path = folder / f"events.out.tfevents.{time.time_ns()}"
            file = tf.io.gfile.GFile(str(path), "wb")
            self._files[split] = record_writer.RecordWriter(file)
            self._write(split, 0, file_version="brain.Event:2")
            self._files[split].flush()

    def _write(self, split: str, step: int, **fields: Any) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=step, **fields)
        self._files[split].write(event.SerializeToString())

    def write_epoch(self, result: EpochResult) -> None:
        """Write the figures of an epoch."""
        values = result.as_dict()
        for split, prefix in (("training", ""), ("validation", "validation_")):
            for name in _FIGURES:
                if (value := values.get(prefix + name)) is not None:
                    summary = scalars.scalar_pb(name, value)
                    self._write(split, result.epoch, summary=summary)
            self._files[split].flush()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
