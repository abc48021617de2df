"""Snapshots of a training: all that it needs to go on, as if it had never stopped.

One uncompressed .npz file each, in the run's checkpoints folder. It is written under
another name and renamed when it is on disk; the last few are kept, so that one that is
damaged nevertheless is made up for by the one before.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

import numpy as np

from model.runs import run_folder
from pipeline.system import command_line, file_system

Arrays = Mapping[str, np.ndarray]
_NAME = re.compile(r"step-(\d{8})\.npz")
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def write(folder: Path, step: int, arrays: Arrays, *, keep: int) -> Path:
    """Writes a snapshot and removes those that are too old.

    Args:
        folder: of all snapshots of a run.
        step: that it was taken after, over all stages.
        arrays: {name: array}.
        keep: how many of the last stay.
    """
    path = folder / f"step-{step:08d}.npz"
    with file_system.replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    for old in _all(folder)[keep:]:
        old.unlink()
    return path


def latest(folder: Path) -> dict[str, np.ndarray] | None:
    """The last snapshot that is whole; None if there is none.

    Those that are damaged are told of, and renamed, so that `write` does not take them
    for the last ones.
    """
    damaged = False
    for path in _all(folder) if folder.exists() else ():
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}  # checks every CRC
        except _UNREADABLE as error:
            command_line.log(
                f"warning: {path} is damaged ({str(error)[:200]}); taking the one "
                "before"
            )
            path.rename(path.with_suffix(".damaged"))
            damaged = True
    if damaged:
        command_line.log("warning: no snapshot is whole; training begins anew")
    return None


def _all(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(
        (path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True
    )


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[Path]:
    """Makes a run's folder of snapshots, for this process alone.

    Raises:
        run.RunError: another process trains the run.
    """
    folder = directory / run_folder.CHECKPOINTS
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise run_folder.RunError(
                f"{directory}: another process is training this run"
            ) from None
        # What a process that was killed had begun to write.
        for place in (folder, directory):
            for path in place.glob(".*.partial*"):
                path.unlink()
        yield folder
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Removes all: the training is done."""
    shutil.rmtree(folder)


class Clock:
    """Says when a snapshot is due: by time, by steps, or because SIGUSR1 asked."""

    def __init__(self, *, minutes: float, steps: int) -> None:
        """Starts counting.

        Args:
            minutes: between two snapshots.
            steps: likewise; 0: by time alone.
        """
        self._seconds = 60 * minutes
        self._steps = steps
        self._asked = False
        self._last_s = time.monotonic()
        self._last_step = 0

    def due(self, step: int) -> bool:
        """Whether one is due after a step; if so, counting starts anew."""
        passed_s = time.monotonic() - self._last_s
        enough = self._steps and step - self._last_step >= self._steps
        if not (self._asked or passed_s >= self._seconds or enough):
            return False
        self.begin(step)
        return True

    def begin(self, step: int) -> None:
        """Starts counting from a step."""
        self._asked, self._last_s, self._last_step = False, time.monotonic(), step

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within it, SIGUSR1 asks for a snapshot."""

        def ask(_: int, __: FrameType | None) -> None:
            self._asked = True

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: Callable[..., object] | int | None = signal.signal(signal.SIGUSR1, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGUSR1, before)
