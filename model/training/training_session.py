"""Run a training to its end: the epochs of one network, or of two in turn."""

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.loop import distributed, training_loop
from model.runs import pictures, run_folder, snapshots, tensorboard_log
from model.training import settings
from model.training.repeats import out_of_fold
from model.training.staged_training import StagedTraining
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError
from pipeline.system.remote import mirror

# Seconds between two writings of the best model so far.
_SAVE_EVERY_S = 60.0


class TrainingSession:
    """Train networks to the end, with snapshots on the way.

    Two networks that are compared take turns, an epoch each. They see the same batches,
    which depend on seed and epoch alone.
    """

    def __init__(
        self,
        config: settings.Config,
        networks: Sequence[StagedTraining],
        *,
        resumed: bool = False,
    ) -> None:
        """Store networks that have not begun: one, or two to compare.

        Their snapshots lie in the run folder of the first; `resumed` expects some.
        """
        self._networks, self._config, self._resumed = networks, config, resumed
        self._directory: Path = networks[0].folder.directory
        self._snapshots_dir = self._directory / run_folder.CHECKPOINTS
        self._clock = snapshots.Clock(
            minutes=config.snapshot_minutes, steps=config.snapshot_steps
        )
        self._is_chief = networks[0].folder.writes
        self._boards = {
            network.name: tensorboard_log.Board(network.folder.directory)
            for network in networks
            if self._is_chief
        }
        self._bar: Any = None  # of the stage that trains
        self._saved = {network.name: (time.monotonic(), 0) for network in networks}

    def run(self) -> None:
        """Train from the beginning or from the last snapshot, to the end.

        If a signal stops it, it leaves a snapshot, and the run so far is usable.
        """
        lock = snapshots.locked if self._is_chief else contextlib.nullcontext
        with lock(self._directory), self._ending():
            if self._is_chief:
                mirror.keep(self._directory)
            self._begin()
            while waiting := [n for n in self._networks if not n.done]:
                network = min(waiting, key=lambda n: len(n.results))
                if network.training.done:
                    self._bar.close()
                    network.begin_next_stage()
                    self._begin_stage(network)
                for num_photos in network.training.train_epoch():
                    if self._clock.is_due(self._steps):
                        self._snapshot()
                    self._bar.update(num_photos)
                network.validate()  # which keeps the best weights
                self._record(network)
                self._save_best(network)
                if network.training.done and not network.done:  # between two stages
                    self._snapshot()
            self._bar.close()
            for network in self._networks if self._is_chief else ():
                network.write_strangers()

    @property
    def _steps(self) -> int:
        return sum(network.steps for network in self._networks)

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Leave a usable run behind, however the training inside ends."""
        try:
            with command_line.graceful(), self._clock.listening():
                try:
                    yield
                finally:
                    if self._bar:
                        self._bar.close()
                    self._write()
                self._find_doubts()
        except command_line.Stopped as stopped:
            if stopped.in_order and all(n.has_begun for n in self._networks):
                self._snapshot()
            raise
        except training_loop.NonFiniteLoss as error:
            self._remove_snapshots()  # a resumed training would diverge again
            self._networks[0].folder.write_text(run_folder.DIVERGED, f"{error}\n")
            raise
        except distributed.LOST as error:
            # A list of places in the code comes first.
            line = str(error).rpartition("\n\n")[2].partition("\n")[0]
            raise DataError(
                f"{self._directory}: another process of this training does not answer "
                f"({line.rpartition('aborted by: ')[2]:.200}). Start all of them again "
                "with --resume."
            ) from error
        else:
            self._remove_snapshots()
        finally:
            try:
                for board in self._boards.values():
                    board.close()
            finally:  # even if the disk is full
                self._leave()

    def _remove_snapshots(self) -> None:
        if self._is_chief:
            shutil.rmtree(self._snapshots_dir)

    def _begin(self) -> None:
        """Begin all networks, or restore them from the last snapshot."""
        state = snapshots.read_latest(self._snapshots_dir)
        if state is None and self._resumed:
            command_line.log("no snapshot exists yet; starting from the beginning")
        for number, network in enumerate(self._networks):
            if state is None:
                network.begin()
            else:
                self._restore(network, snapshots.select(state, f"{number}/"))
            network.folder.write_metrics(network.results)
        if state is not None:
            command_line.log(f"resumed after step {self._steps}")
        self._begin_stage(self._networks[0])
        self._clock.restart(self._steps)

    def _restore(self, network: StagedTraining, state: snapshots.Arrays) -> None:
        try:
            network.restore(state)
        except (KeyError, ValueError, TypeError) as error:
            raise run_folder.RunError(
                f"{network.folder.directory}: its snapshots are of another training or "
                f"version of Graft ({error!r:.200}). Train again, with another "
                "--run_dir."
            ) from error

    def _begin_stage(self, network: StagedTraining) -> None:
        """Draw what a network sees in a stage, and show a progress bar of this stage.

        Stages may differ a thousandfold in speed: one bar for all of them would be
        wrong about the time left.
        """
        number, count = network.number, len(network.stages)
        if self._is_chief:
            name = f"first_batch-{number + 1}.png" if number else "first_batch.png"
            with file_system.replacing(network.folder.directory / name) as partial:
                network.draw_first_batch(partial)
        self._bar = command_line.progress(
            self._photos_of_stage(),
            "photo",
            "train" + f", stage {number + 1} of {count}" * (count > 1),
            unit_scale=True,
            initial=sum(network.photos_done for network in self._networks),
            smoothing=0,  # the mean over training and validation
        )

    def _photos_of_stage(self) -> int:
        """Return the number of photos of a stage, less if it was stopped early."""
        return sum(
            network.photos_done if network.training.done else network.stage.photos
            for network in self._networks
        )

    def _record(self, network: StagedTraining) -> None:
        """Write the figures of an epoch; log them when all networks have them."""
        result = network.results[-1]
        network.folder.append_metrics(result)
        if self._is_chief:
            self._boards[network.name].write_epoch(result)
        self._bar.total = self._photos_of_stage()
        behind = [n for n in self._networks if len(n.results) < result.epoch]
        if all(other.done for other in behind):
            self._bar.log(self._epoch_line(result.epoch))

    def _epoch_line(self, epoch: int) -> str:
        """Return the figures of an epoch of all networks, in columns."""
        epochs = max(network.epochs for network in self._networks)
        columns = [f"epoch {epoch:{len(str(epochs))}}/{epochs}"]
        for network in self._networks:
            if len(network.results) < epoch:
                continue  # it ended earlier
            result = network.results[epoch - 1]
            ending = f"{result.iterations} iterations"
            if result.l2 is None:
                ending = f"{result.images_per_s:,.0f} photos/s"
            else:
                columns = [f"L2 penalty {result.l2:<7.2g}"]
            columns += filter(
                None,
                (
                    network.name and f"| {network.name}:",
                    result.stage,
                    f"loss {result.loss:.4f}",
                    f"accuracy {result.accuracy:.4f}",
                    f"validation loss {result.validation_loss:.4f}",
                    f"accuracy {result.validation_accuracy:.4f}",
                    ending,
                ),
            )
        return "  ".join(columns)

    def _save_best(self, network: StagedTraining) -> None:
        saved_s, saved_epoch = self._saved[network.name]
        is_better = network.best.epoch > saved_epoch
        if is_better and time.monotonic() - saved_s > _SAVE_EVERY_S:
            network.write()
            network.folder.point_latest()
            self._saved[network.name] = (time.monotonic(), network.best.epoch)

    def _snapshot(self) -> None:
        if not self._is_chief:
            return
        state = {
            f"{number}/{name}": value
            for number, network in enumerate(self._networks)
            for name, value in network.state().items()
        }
        kept = self._config.snapshots_kept
        snapshots.write(self._snapshots_dir, self._steps, state, keep=kept)
        self._networks[0].folder.point_latest()

    def _write(self) -> None:
        """Make usable run folders of what was reached."""
        for network in self._networks:
            if network.best.epoch:
                network.write()
        if self._networks[0].best.epoch:
            self._networks[0].folder.point_latest()
        results = {n.name: n.results for n in self._networks if n.results}
        if results and self._is_chief:
            with file_system.replacing(self._directory / "curves.png") as partial:
                pictures.draw_curves(results, partial)

    def _find_doubts(self) -> None:
        """Find doubtful labels of all photos, which ends a training.

        Folds have those of all their runs together, so a fold alone has none.
        """
        network = self._networks[0]
        if self._is_chief and not run_folder.is_fold(self._directory):
            out_of_fold.write_doubts(network)
        # Otherwise the chief's TensorFlow would fail when the other processes leave.
        network.setup.process_group.of_chief(np.zeros(1, np.float32))

    def _leave(self) -> None:
        """Say how to continue a stopped training; remove empty run folders."""
        folder = self._snapshots_dir
        if not self._is_chief:
            return
        if folder.exists() and any(folder.iterdir()):
            parent = self._directory.parent  # of the runs of --seeds or --folds
            resumable = parent if run_folder.is_run(parent) else self._directory
            command_line.log(f"to continue: python train.py --resume={resumable}")
        elif not any(self._directory.glob(f"**/{run_folder.MODEL_NAME}")):
            for network in reversed(self._networks):
                network.folder.discard()
        elif folder.exists():
            command_line.log(f"stopped run: {self._directory}")
