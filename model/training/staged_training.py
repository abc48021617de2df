"""A network on its way through the stages of a training."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.loop import (
    device,
    distributed,
    feature_cache,
    losses,
    metrics,
    parameter_update,
    training_data,
    training_loop,
)
from model.networks import architecture, head
from model.runs import image_grid, run_folder, tensorboard_log
from model.training import save_run, settings, stages, starting_point
from model.weights import model_variables
from pipeline.records import manifest
from pipeline.system import command_line

Arrays = dict[str, np.ndarray]


class Trainee:
    """Trains a network stage by stage, epoch by epoch.

    Attributes:
        name: in the log; "" if it trains alone.
        record: its run folder.
        base: what it starts from.
        stages: their settings.
        plans: of all stages.
        machine: what it computes with.
        num_training: photos in an epoch.
        best: by validation, over all stages.
        results: of all epochs so far.
        number: of the stage, from 0.
        begun: whether `state` can be taken.
    """

    def __init__(
        self,
        config: settings.Config,
        found: manifest.Manifest,
        start: starting_point.Base,
        record: run_folder.RunFolder,
        machine: distributed.Machine,
        *,
        name: str = "",
    ) -> None:
        """Plans all stages; `begin` or `restore` begins.

        Args:
            config: of the training.
            found: the data set.
            start: the network.
            record: the run folder.
            precision: of the network's layers.
            machine: what it computes with.
            together: processes and devices that train it.
            name: in the log.

        Raises:
            errors.MismatchedCheckpoint: a stage names layers that are not there.
        """
        self.name = name
        self.record = record
        self._found = found
        self.base = start
        self.machine = machine
        self.stages = config.in_stages()
        classes = len(found.class_names)
        self.plans = [stages.plan(start, stage, classes) for stage in self.stages]
        self.num_training = len(found.included("train"))
        self.best = training_loop.Best()
        self.results: list[training_loop.EpochResult] = []
        self.begun = False
        self._steps_before = 0  # of former stages
        self._moved: set[str] = set()  # variables that have trained

    def begin(self) -> None:
        """Begins the first stage.

        Raises:
            errors.MismatchedCheckpoint: rates of a stage are of no layer that trains
                in it.
        """
        self._check_rates()
        self._begin(0, {})
        variables = [*self._trunk.variables, *self._tail.variables]
        self._digests = model_variables.digests(variables)

    def _check_rates(self) -> None:
        """Before anything has trained, for later it would be in vain."""
        for stage, plan in zip(self.stages, self.plans, strict=True):
            if stage.learning.rates:
                tail = stages.build_tail(
                    plan, stages.build_trunk(plan, "float32"), "float32"
                )
                stage.learning.check_rates(list(model_variables.trainable(tail)))

    def _begin(self, number: int, values: Mapping[str, np.ndarray]) -> None:
        """Builds a stage's network.

        Args:
            number: of the stage, from 0.
            values: {name: array} of variables that former stages have trained.
        """
        self.begun = False
        self.number = number
        stage, plan = self.stages[number], self.plans[number]
        self._trunk, self._tail = self.build(plan)
        for part in (self._trunk, self._tail):
            stages.put(part, values)
        self.best.beneath = stages.values(self._trunk)
        self.best.variables = stages.kept(self._tail)
        self._announce(stage, plan)
        model, source = self._feed(stage, plan)
        learning = self.learning(stage, plan, model)
        self._moved_before = set(self._moved)
        self._moved |= stages.moving(self._tail)
        self.training = training_loop.Training(
            model,
            learning,
            source,
            best=self.best,
            stage=stage.stage,
            first_epoch=len(self.results),
        )
        self.begun = True

    def build(self, plan: stages.Plan) -> tuple[Any, Any]:
        """Frozen trunk and trained tail, with restored weights."""
        policy = device.policy(self.machine.precision)
        trunk = stages.build_trunk(plan, policy)
        tail = stages.build_tail(plan, trunk, policy)
        for part in (trunk, tail):
            if self.base.fit:
                model_variables.assign(part, self.base.fit.values)
        return trunk, tail

    def is_cached(self, stage: settings.Config, plan: stages.Plan) -> bool:
        """Whether a stage trains on cached features."""
        return plan.cut != architecture.INPUT and stage.num_views > 0

    def cache_key(self, trunk: Any, plan: stages.Plan) -> dict[str, Any]:
        """What a stage's features depend on."""
        return feature_cache.key(
            trunk, plan.last, plan.spec, self.machine.precision, self._found
        )

    def _announce(self, stage: settings.Config, plan: stages.Plan) -> None:
        trained = f"training from {plan.train_from}"
        if plan.frozen:
            trained += f"; above {plan.cut} frozen: {', '.join(sorted(plan.frozen))}"
        command_line.log(": ".join(filter(None, (self.name, stage.stage, trained))))
        if (warm := stage.learning.warmup_steps) >= (steps := self._steps_of(stage)):
            command_line.log(
                f"warning: --warmup_steps={warm} of {steps} steps: the learning rate "
                "is not reached"
            )
        if not self.base.fit and plan.cut != architecture.INPUT and not self._moved:
            command_line.log(
                f"warning: layers up to {plan.cut} are random and stay frozen"
            )

    def _feed(
        self, stage: settings.Config, plan: stages.Plan
    ) -> tuple[Any, training_loop.Source]:
        """What is trained, and on what."""
        if self.is_cached(stage, plan):
            cached = training_data.compute_features(
                self._found,
                self._trunk,
                plan.spec,
                stage.num_views,
                cache_dir=self.machine.cache_dir,
                about=self.cache_key(self._trunk, plan),
            )
            return self._tail, training_data.Cached(
                self._found,
                cached,
                num_views=stage.num_views,
                batch_size=stage.batch_size,
                seed=plan.seed,
                together=self.machine.together,
            )
        fresh = training_data.Fresh(
            self._found,
            plan.spec,
            seed=plan.seed,
            batch_size=stage.batch_size,
            augmentation=stage.augmentation,
            together=self.machine.together,
        )
        return stages.join(self._trunk, self._tail), fresh

    def learning(
        self, stage: settings.Config, plan: stages.Plan, model: Any
    ) -> training_loop.Learning:
        """How the model's variables learn."""
        learning = stage.learning
        variables = model_variables.trainable(model)
        learning.check_rates(list(variables))
        labels = [
            self._found.labels[r.class_name] for r in self._found.included("train")
        ]
        on_features = plan.train_from == head.FINAL_LAYER
        kinds = len(plan.features) * head.numbers_per_channel(plan.pooling)
        each = plan.num_features // kinds
        return training_loop.Learning(
            update=parameter_update.Update(
                variables, learning, float16=self.machine.precision == "float16"
            ),
            schedule=learning,
            rate=stage.learning_rate
            or training_loop.suitable_rate(each if on_features else 0),
            epochs=self._epochs(stage),
            total_steps=self._steps_of(stage),
            loss=losses.from_settings(learning, np.bincount(labels)),
            patience=learning.early_stopping,
            together=self.machine.together,
            statistics=stages.statistics(model),
        )

    def _steps_each(self, stage: settings.Config) -> int:
        """Steps of an epoch."""
        batches = math.ceil(self.num_training / stage.batch_size)
        return math.ceil(batches / stage.learning.iter_size)

    def _steps_of(self, stage: settings.Config) -> int:
        """Of a stage, if it does not end before."""
        return stage.steps or stage.epochs * self._steps_each(stage)

    def _epochs(self, stage: settings.Config) -> int:
        """Of a stage, the last one of them perhaps cut short."""
        if stage.steps:
            return math.ceil(stage.steps / self._steps_each(stage))
        return stage.epochs

    @property
    def epochs(self) -> int:
        """Of all stages, if none of them ends before."""
        return sum(map(self._epochs, self.stages))

    def _photos_of(self, stage: settings.Config, steps: int) -> int:
        """How many photos are seen in the first steps of a stage."""
        epochs, more = divmod(steps, self._steps_each(stage))
        begun = more * stage.learning.iter_size * stage.batch_size
        return epochs * self.num_training + begun

    @property
    def num_photos(self) -> int:
        """How many are seen in all stages, if none of them ends before."""
        return sum(
            self._photos_of(stage, self._steps_of(stage)) for stage in self.stages
        )

    @property
    def num_photos_done(self) -> int:
        """How many have been seen; of stages that ended before, as if they had not."""
        *before, now = self.stages[: self.number + 1]
        done = sum(self._photos_of(stage, self._steps_of(stage)) for stage in before)
        return done + self._photos_of(now, self.training.steps)

    @property
    def steps(self) -> int:
        """How often weights were moved, over all stages."""
        return self._steps_before + (self.training.steps if self.begun else 0)

    @property
    def done(self) -> bool:
        """Whether all stages are done."""
        return self.training.done and self.number + 1 == len(self.stages)

    def begin_next(self) -> None:
        """Begins the next stage."""
        values = self.best.values
        if self.stages[self.number + 1].start == "last":
            values = self.training.last()
        self._steps_before += self.training.steps
        self._begin(self.number + 1, values)

    def run_epoch(self, on_batch: Callable[[int], object]) -> training_loop.EpochResult:
        """Trains for an epoch of the stage, which is not done.

        Args:
            on_batch: see loop.Training.run_epoch.

        Raises:
            loop.NonFiniteLoss: training ran away.
        """
        result = self.training.run_epoch(on_batch)
        self.results.append(result)
        return result

    def draw_first_batch(self, path: Path) -> np.ndarray:
        """Draws the photos of a stage's first batch; returns the picture, uint8."""
        spec = self.plans[self.number].spec
        images, labels = self.training.source.first_batch(spec)
        return image_grid.draw(images, labels, self._found.class_names, path)

    def details(self) -> tensorboard_log.Details:
        """What TensorBoard shows of the last epoch beside its result."""
        own = head.weighted_layers(self.stages[self.number].hidden)
        logits, labels = self.training.validated
        return tensorboard_log.Details(
            rates=self.training.rates(),
            weights={
                name: variable.numpy()
                for name, variable in self.best.variables.items()
                if name.split("/")[0] in own
            },
            confusion=metrics.confusion_matrix(
                labels, logits.argmax(axis=1), logits.shape[1]
            ),
        )

    def write(self) -> None:
        """Writes what makes the run folder usable; training may go on."""
        if not self.record.writes:
            return
        frozen = {n: d for n, d in self._digests.items() if n not in self._moved}
        save_run.write(
            self.record,
            self._found,
            self.base,
            self.plans[self.number],
            self.best,
            frozen=frozen,
        )

    def state(self) -> Arrays:
        """All that is needed to go on from here, in a process that has the same data.

        Values of layers that no stage has trained are not in it: they come from the
        weight file.
        """
        about = {
            "stage": self.number,
            "steps_before": self._steps_before,
            "moved_before": sorted(self._moved_before),
            "results": [dataclasses.asdict(result) for result in self.results],
            "best": [self.best.epoch, self.best.validation_loss],
            "digests": self._digests,
        }
        found = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
        for name, value in self.best.current().items():
            if name in self._moved_before or name in self.best.variables:
                found[f"weights/{name}"] = value
        if self.best.validation_logits is not None:
            found["best/logits"] = self.best.validation_logits
        for name, value in self.best.values.items():
            if name in self._moved:
                found[f"best/weights/{name}"] = value
        training = self.training.state().items()
        return found | {f"training/{name}": value for name, value in training}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on where `state` was taken.

        Raises:
            KeyError, ValueError, TypeError: it is of another training.
        """
        about = json.loads(state["about"].tobytes())
        training = part(state, "training/")
        self._digests = about["digests"]
        self._steps_before = about["steps_before"]
        self._moved = set(about["moved_before"])
        results = [training_loop.EpochResult(**result) for result in about["results"]]
        done_here = int(training["counts"][0])
        self.results = results[: len(results) - done_here]
        self._begin(about["stage"], part(state, "weights/"))
        self.results = results
        self.training.restore(training)
        self.best.epoch, self.best.validation_loss = about["best"]
        self.best.validation_logits = state.get("best/logits")
        if self.best.epoch:
            kept = part(state, "best/weights/")
            self.best.values = {**self.best.current(), **kept}


def part(state: Mapping[str, np.ndarray], prefix: str) -> Arrays:
    """Those whose names begin so, without it."""
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
