"""Write and read snapshots: all that a stopped training needs to continue exactly.

Each is an uncompressed .npz file in the run's checkpoints folder. It gets its name when
it is complete on disk; the last few are kept, so that a damaged one can be replaced by
the one before.
"""

import contextlib
import os
import signal
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

import numpy as np

from model.runs import run_folder
from pipeline.system import command_line, file_system

Arrays = Mapping[str, np.ndarray]
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def write(folder: Path, step: int, arrays: Arrays, *, keep: int) -> Path:
    """Write a snapshot after a number of steps over all stages; return its path.

    The newest `keep` snapshots remain, at least 1; older ones are removed.
    """
    path = folder / f"step-{step:08d}.npz"
    with file_system.replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    for old in _newest_first(folder)[keep:]:
        old.unlink()
    return path


def read_latest(folder: Path) -> dict[str, np.ndarray] | None:
    """Read the newest undamaged snapshot; None without one.

    Damaged snapshots are logged and renamed, so that `write` does not count them.
    """
    paths = _newest_first(folder)
    for path in paths:
        try:
            file_system.regular(path)
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}  # checks each CRC
        except PermissionError:
            raise
        except _UNREADABLE as error:
            command_line.log(
                f"warning: {path} is damaged ({error!s:.200}); using the snapshot "
                "before it"
            )
            path.rename(path.with_suffix(".damaged"))
    if paths:
        command_line.log(
            "warning: all snapshots are damaged; training starts from the beginning"
        )
    return None


def _newest_first(folder: Path) -> list[Path]:
    """Return the snapshots in a folder, which need not exist."""
    return sorted(folder.glob(f"step-{'[0-9]' * 8}.npz"), reverse=True)


def select(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with a prefix, under the rest of the name."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Create a run's folder of snapshots, and lock it for this process."""
    folder = file_system.make_inside(directory, run_folder.CHECKPOINTS)
    with file_system.locked(folder) as is_free:
        if not is_free:
            raise run_folder.RunError(
                f"{directory}: another process is training this run. Wait for it, or "
                "choose another --run_dir."
            )
        # Incomplete files of a process that was killed.
        for place in (folder, directory):
            for path in place.glob(".*.partial*"):
                path.unlink()
        yield


class Clock:
    """Decide when a snapshot is due: by time, by steps, or on SIGUSR1."""

    def __init__(self, *, minutes: float, steps: int) -> None:
        """Start counting; with 0 steps snapshots are due by time alone."""
        self._seconds = 60 * minutes
        self._steps = steps
        self._requested = False
        self._last_s = time.monotonic()
        self._last_step = 0

    def is_due(self, step: int) -> bool:
        """Return whether a snapshot is due after a step; if so, restart counting."""
        is_due = (
            self._requested
            or time.monotonic() - self._last_s >= self._seconds
            or 0 < self._steps <= step - self._last_step
        )
        if is_due:
            self.restart(step)
        return is_due

    def restart(self, step: int) -> None:
        """Count from a step."""
        self._requested = False
        self._last_s, self._last_step = time.monotonic(), step

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Let SIGUSR1 request a snapshot inside the block; Windows does not have it."""

        def request(_: int, __: FrameType | None) -> None:
            self._requested = True

        is_main = threading.current_thread() is threading.main_thread()
        if not (is_main and hasattr(signal, "SIGUSR1")):
            yield
            return
        before = signal.signal(signal.SIGUSR1, request)
        try:
            yield
        finally:
            signal.signal(signal.SIGUSR1, before)
