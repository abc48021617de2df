"""A training of one network, or of several in lockstep, into run folders.

Networks in lockstep see the same batches: these are a function of seed and epoch. One
of them trains for an epoch, then the next.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from model.loop import distributed, training_loop
from model.runs import learning_curves, run_folder, tensorboard_log
from model.training import settings, snapshots, staged_training
from pipeline.system import command_line, file_system

# Between two writings of the best model so far.
_SAVE_EVERY_S = 60.0


class Session:
    """Trains to the end, with snapshots on the way."""

    def __init__(
        self,
        config: settings.Config,
        trainees: Sequence[staged_training.Trainee],
        *,
        resumed: bool = False,
    ) -> None:
        """Takes over networks that have not begun.

        Args:
            config: of all of them.
            trainees: the first one's run folder keeps the snapshots.
            resumed: the run was stopped before, and is expected to go on.
        """
        self._resumed = resumed
        self._trainees = trainees
        self._config = config
        self._directory: Path = trainees[0].record.directory
        self._clock = snapshots.Clock(
            minutes=config.snapshot_minutes, steps=config.snapshot_steps
        )
        self._is_chief = trainees[0].record.writes
        self._boards = {
            one.name: tensorboard_log.Board(one.record.directory / "tensorboard")
            for one in trainees
            if self._is_chief
        }
        self._saved = {one.name: (time.monotonic(), 0) for one in trainees}

    @property
    def _step(self) -> int:
        return sum(one.steps for one in self._trainees)

    def run(self) -> None:
        """Trains from the beginning, or from the last snapshot.

        Raises:
            loop.NonFiniteLoss: training ran away.
            run.RunError: another process trains this run, or a snapshot is of another.
            command.Stopped: by a signal; what was reached is a usable run, and there is
                a snapshot.
        """
        with self._locked() as folder:
            try:
                with command_line.graceful(), self._clock.listening():
                    try:
                        self._begin(folder)
                        self._run_epochs(folder)
                    finally:  # also when stopped
                        self._write()
            except command_line.Stopped as stopped:
                if stopped.in_order and all(one.begun for one in self._trainees):
                    self._snapshot(folder)
                raise
            except training_loop.NonFiniteLoss as error:
                self._remove_snapshots()  # the next time would come to the same
                self._trainees[0].record.write_text(run_folder.DIVERGED, f"{error}\n")
                raise
            except distributed.LOST as error:
                raise distributed.WorkerLost(
                    f"{self._directory}: another process of this training has gone "
                    f"({str(error)[:200]}); start all of them again with --resume"
                ) from error
            else:
                self._remove_snapshots()
            finally:
                for one in self._boards.values():
                    one.close()
                self._leave(folder)

    def _locked(self) -> contextlib.AbstractContextManager[Path]:
        """The folder of snapshots, which the chief has for itself."""
        if self._is_chief:
            return snapshots.locked(self._directory)
        return contextlib.nullcontext(self._directory / run_folder.CHECKPOINTS)

    def _remove_snapshots(self) -> None:
        if self._is_chief:
            snapshots.remove(self._directory / run_folder.CHECKPOINTS)

    def _begin(self, folder: Path) -> None:
        state = snapshots.latest(folder)
        if state is None and self._resumed:
            command_line.log("no snapshot was written yet: training begins anew")
        for number, one in enumerate(self._trainees):
            if state is None:
                one.begin()
            else:
                self._restore(one, state, f"{number}/")
            one.record.write_metrics(one.results)
        self._draw_first_batch(self._trainees[0])
        if state is not None:
            command_line.log(f"going on after step {self._step}")
        self._clock.begin(self._step)

    def _draw_first_batch(self, one: staged_training.Trainee) -> None:
        """Shows what the network sees in a stage."""
        if self._is_chief:
            name = f"first_batch-{one.number + 1}.png"
            path = one.record.directory / ("first_batch.png" * (not one.number) or name)
            with file_system.replacing(path) as partial:
                picture = one.draw_first_batch(partial)
            self._boards[one.name].first_batch(picture, one.number)

    def _restore(
        self, one: staged_training.Trainee, state: Mapping[str, np.ndarray], prefix: str
    ) -> None:
        try:
            one.restore(staged_training.part(state, prefix))
        except (KeyError, ValueError, TypeError) as error:
            raise run_folder.RunError(
                f"{one.record.directory}: its snapshots are of another training "
                f"({error!r:.200}); train anew, with another --run_dir"
            ) from error

    def _run_epochs(self, folder: Path) -> None:
        total = sum(one.num_photos for one in self._trainees)
        done = sum(one.num_photos_done for one in self._trainees)
        with command_line.progress(
            total, "photo", "train", scale=True, initial=done
        ) as progress:

            def on_batch(size: int) -> None:
                if self._clock.due(self._step):
                    self._snapshot(folder)
                progress.update(size)

            latest: dict[str, training_loop.EpochResult] = {}  # of this epoch
            while not all(one.done for one in self._trainees):
                waiting = [one for one in self._trainees if not one.done]
                one = min(waiting, key=lambda one: len(one.results))
                if one.training.done:
                    one.begin_next()
                    self._draw_first_batch(one)
                result = one.run_epoch(on_batch)
                one.record.append_metrics(result)
                if self._is_chief:
                    self._boards[one.name].write(result, one.details())
                latest[one.name] = result
                if not any(
                    len(other.results) < result.epoch and not other.done
                    for other in self._trainees
                ):
                    progress.log(self._line(latest))
                    latest.clear()
                self._save_best(one)
                if one.training.done and not one.done:  # a stage's end
                    self._snapshot(folder)

    def _line(self, latest: Mapping[str, training_loop.EpochResult]) -> str:
        """An epoch of all networks, in columns."""
        first = next(iter(latest.values()))
        epochs = max(one.epochs for one in self._trainees)
        words = [f"epoch {first.epoch:{len(str(epochs))}}/{epochs}"]
        for name, result in latest.items():
            words += filter(
                None,
                (
                    name and f"| {name}:",
                    result.stage,
                    f"loss {result.loss:.4f}",
                    f"accuracy {result.accuracy:.4f}",
                    f"validation loss {result.validation_loss:.4f}",
                    f"accuracy {result.validation_accuracy:.4f}",
                    f"{result.images_per_s:,.0f} photos/s",
                ),
            )
        return "  ".join(words)

    def _save_best(self, one: staged_training.Trainee) -> None:
        saved_s, saved_epoch = self._saved[one.name]
        if one.best.epoch > saved_epoch and time.monotonic() - saved_s > _SAVE_EVERY_S:
            one.write()
            one.record.point_latest()
            self._saved[one.name] = (time.monotonic(), one.best.epoch)

    def _snapshot(self, folder: Path) -> None:
        if not self._is_chief:
            return
        state = {
            f"{number}/{name}": value
            for number, one in enumerate(self._trainees)
            for name, value in one.state().items()
        }
        kept = self._config.snapshots_kept
        snapshots.write(folder, self._step, state, keep=kept)
        self._trainees[0].record.point_latest()

    def _write(self) -> None:
        """Makes run folders of what was reached."""
        for one in self._trainees:
            if one.best.epoch:
                one.write()
        if self._trainees[0].best.epoch:
            self._trainees[0].record.point_latest()
        results = {one.name: one.results for one in self._trainees if one.results}
        if results and self._is_chief:
            with file_system.replacing(self._directory / "curves.png") as partial:
                learning_curves.draw(results, partial)

    def _leave(self, folder: Path) -> None:
        """Says what there is; removes run folders with nothing to show."""
        if not self._is_chief:
            return
        if folder.exists() and any(folder.iterdir()):
            parent = self._directory.parent  # perhaps of several trainings
            whole = parent if run_folder.is_run(parent) else self._directory
            command_line.log(f"python train.py --resume={whole} goes on")
        elif not any(one.best.epoch for one in self._trainees):
            for one in reversed(self._trainees):
                one.record.discard()
            return
        elif folder.exists():
            command_line.log(f"run: {self._directory}, as far as it came")
