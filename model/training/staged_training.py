"""Train one network through all stages of a training."""

import collections
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import strangers
from model.loop import device, metrics, train_step, training_loop
from model.loop.inputs import feature_cache, near_copies, training_data
from model.loop.training_loop import EpochResult
from model.runs import pictures, run_folder, snapshots
from model.training import head_solver, starting_point, trunk_and_tail
from model.training.stages import Stage
from model.weights import model_variables, restore, weight_file
from pipeline.records import manifest
from pipeline.system import command_line


class StagedTraining:
    """Train a network stage by stage, epoch by epoch."""

    def __init__(
        self,
        records: manifest.Manifest,
        start: starting_point.StartingPoint,
        planned: list[Stage],
        folder: run_folder.RunFolder,
        setup: device.ComputeSetup,
        *,
        name: str = "",
    ) -> None:
        """Store what was planned; `begin` or `restore` begins the training."""
        self.name = name  # of the network in the log; "" if it trains alone
        self.folder, self.start, self.stages, self.setup = folder, start, planned, setup
        # Of all stages so far.
        self.best = training_loop.BestWeights()
        self.results: list[EpochResult] = []
        self.has_begun = False  # whether `state` can be called
        self.records = records
        self._steps_before = 0  # of earlier stages
        self._trained: set[str] = set()  # variables that have trained in any stage

    def begin(self) -> None:
        """Begin the first stage, after checking the layer rates of all of them."""
        for stage in self.stages:
            if stage.config.learning.rates:
                trunk = trunk_and_tail.build_trunk(stage.plan, "float32")
                tail = trunk_and_tail.build_tail(stage.plan, trunk, "float32")
                stage.config.learning.check_rates(list(model_variables.trainable(tail)))
        self._begin_stage(0, {})
        variables = [*self._trunk.variables, *self._tail.variables]
        self._digests = model_variables.digests(variables)

    def begin_next_stage(self) -> None:
        """Begin the stage that follows."""
        values = self.best.values
        if self.stages[self.number + 1].config.start == "last":
            values = self.training.last()
        self._steps_before += self.training.steps
        self._begin_stage(self.number + 1, values)

    def _begin_stage(self, number: int, values: Mapping[str, np.ndarray]) -> None:
        """Build the network of a stage, with values that trained in earlier stages."""
        self.has_begun = False
        self.number = number  # of the current stage, from 0
        stage = self.stages[number]
        self._trunk, self._tail = self.build(stage)
        for model in (self._trunk, self._tail):
            trunk_and_tail.assign(model, values)
        self.best.frozen_values = trunk_and_tail.values(self._trunk)
        self.best.variables = trunk_and_tail.weights(self._tail)
        if stage.name:
            position = f"stage {number + 1} of {len(self.stages)}"
            own_name = stage.name.removeprefix(f"stage {number + 1}")
            command_line.log(", ".join(filter(None, (self.name, position, own_name))))
        self._trained_before = set(self._trained)
        self._trained |= trunk_and_tail.changing_variables(self._tail)
        self.training = self._prepare_training(stage)
        self.has_begun = True

    def _prepare_training(
        self, stage: Stage
    ) -> training_loop.StepwiseTraining | head_solver.HeadSolver:
        options: dict[str, Any] = {"best": self.best, "stage": stage.name}
        options["first_epoch"] = len(self.results)
        if stage.is_solved:
            return head_solver.HeadSolver(
                *(self._tail, self._loss(stage), self._cached_features(stage)),
                process_group=self.setup.process_group,
                **options,
            )
        source: training_loop.Source
        if stage.is_cached:
            model, source = self._tail, self._cached_features(stage)
        else:
            model = trunk_and_tail.join(self._trunk, self._tail)
            source = self.photos(stage)
        setup = self.learning_setup(stage, model)
        return training_loop.StepwiseTraining(model, setup, source, **options)

    def build(self, stage: Stage) -> tuple[Any, Any]:
        """Build the frozen trunk and the trained tail, with restored weights."""
        trunk = trunk_and_tail.build_trunk(stage.plan, self.setup.frozen_policy)
        tail = trunk_and_tail.build_tail(stage.plan, trunk, self.setup.trained_policy)
        for model in (trunk, tail):
            if self.start.restored:
                model_variables.assign(model, self.start.restored.values)
        return trunk, tail

    def feature_identity(self, stage: Stage, trunk: Any) -> dict[str, Any]:
        """Return all that a stage's cached features depend on."""
        plan, setup = stage.plan, self.setup
        return feature_cache.identity_of(
            trunk, plan.trunk_output, plan.spec, setup.precision
        )

    def _cached_features(self, stage: Stage) -> training_data.CachedFeatures:
        features = training_data.compute_features(
            self.records,
            self._trunk,
            stage.plan.spec,
            stage.config.num_views,
            cache_dir=self.setup.cache_dir,
            identity=self.feature_identity(stage, self._trunk),
        )
        self._list_near_copies(stage, features)
        return training_data.CachedFeatures(
            self.records,
            features,
            num_views=stage.config.num_views,
            batch_size=stage.config.batch_size,
            seed=stage.plan.seed,
            process_group=self.setup.process_group,
        )

    def _list_near_copies(self, stage: Stage, features: feature_cache.Features) -> None:
        """List held-out photos that look like training photos, once for a run."""
        path = self.folder.directory / run_folder.NEAR_COPIES
        is_run = run_folder.is_run(path.parent)  # not yet if --find_rate tests rates
        if path.exists() or not is_run or not self.folder.writes:
            return
        spec = stage.plan.spec
        result = near_copies.search(self.records, features, self._trunk, spec)
        if not result:
            return
        self.folder.write_near_copies(result)
        counts = collections.Counter(photo["split"] for photo in result["photos"])
        if counts:
            numbers = " and ".join(f"{n:,} {split}" for split, n in counts.items())
            look = "photo looks" if counts.total() == 1 else "photos look"
            command_line.log(
                f"warning: {numbers} {look} like copies of training photos, so "
                f"that the accuracy may be too high. {path} lists them. To leave them "
                "out, first delete the lines of photos that are not copies, then "
                f"convert again with --corrections={path}"
            )

    def photos(self, stage: Stage) -> training_loop.Source:
        """Return the photos of a stage that trains without cached features."""
        return training_data.Photos(
            self.records,
            stage.plan.spec,
            batch_size=stage.config.batch_size,
            seed=stage.plan.seed,
            augmentation=stage.config.augmentation,
            process_group=self.setup.process_group,
        )

    def learning_setup(self, stage: Stage, model: Any) -> train_step.LearningSetup:
        """Return what the model of a stage learns with."""
        learning = stage.config.learning
        variables = model_variables.trainable(model)
        learning.check_rates(list(variables))
        return train_step.LearningSetup(
            update=train_step.ParameterUpdate(variables, learning),
            schedule=learning,
            base_rate=stage.base_rate,
            epochs=stage.epochs,
            total_steps=stage.steps,
            loss=self._loss(stage),
            process_group=self.setup.process_group,
            statistics=trunk_and_tail.statistics(model),
        )

    def _loss(self, stage: Stage) -> train_step.Loss:
        counts = np.bincount(self._labels("train"))
        return train_step.loss_from_settings(stage.config.learning, counts)

    def _labels(self, split: str) -> np.ndarray:
        labels, rows = self.records.labels, self.records.included(split)
        return np.array([labels[row.class_name] for row in rows])

    @property
    def stage(self) -> Stage:
        """Plan of the current stage."""
        return self.stages[self.number]

    @property
    def epochs(self) -> int:
        """Number of epochs of all stages, if none of them is stopped early."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def steps(self) -> int:
        """Number of steps so far, over all stages."""
        return self._steps_before + (self.training.steps if self.has_begun else 0)

    @property
    def photos_done(self) -> int:
        """Number of photos trained on in this stage; each counts once per epoch."""
        done = self.training.epoch * self.stage.num_training
        return min(self.stage.photos, done + self.training.photos_in_epoch)

    @property
    def done(self) -> bool:
        """Whether all stages are done."""
        return self.training.done and self.number + 1 == len(self.stages)

    def validate(self) -> None:
        """Validate after an epoch, and keep the weights if they are the best so far."""
        self.results.append(self.training.validate())

    def draw_first_batch(self, path: Path) -> None:
        """Draw the photos of the stage's first batch."""
        images, labels = self.training.source.first_batch(self.stage.plan.spec)
        pictures.draw_grid(images, labels, self.records.class_names, path)

    def write(self) -> None:
        """Write ledger, calibration and the best model, after the first epoch."""
        logits = self.best.validation_logits
        if logits is None or not self.folder.writes:
            return
        plan, restored = self.stage.plan, self.start.restored
        entries = restored.entries if restored else ()
        whole = trunk_and_tail.assemble(plan, self.best.values)
        self.folder.write_ledger(
            restore.complete_ledger(entries, whole),
            self.start.describe_weights() | {"preprocessing": plan.spec.source},
            before={n: d for n, d in self._digests.items() if n not in self._trained},
            after=model_variables.digests(whole.variables),
        )
        calibration = metrics.calibrate(logits, self._labels("validation"))
        calibration |= {"epoch": self.best.epoch, "run": self.folder.identity}
        self.folder.write_json("calibration.json", calibration)
        metadata = weight_file.describe(plan.network.name, plan.spec)
        self.folder.save_model(whole, metadata)

    def write_strangers(self) -> None:
        """Write strangers.npz, by which photos are scored that show no known class."""
        plan, source = self.stage.plan, self.training.source
        if self.stage.is_cached and self.best.epoch > self.training.first_epoch:
            model = trunk_and_tail.build_tail(plan, self._trunk, "float32")
            trunk_and_tail.assign(model, self.best.values)
        else:
            model = trunk_and_tail.assemble(plan, self.best.values)
            source = self.photos(self.stage)
        num_training = len(self.records.included("train"))
        strangers.write(self.folder, model, source, plan.num_classes, num_training)

    def state(self) -> dict[str, np.ndarray]:
        """Return all that another process needs to continue on the same data.

        Layers that have not trained yet are left out: they come from the weight file.
        """
        progress = {
            "stage": self.number,
            "steps_before": self._steps_before,
            "trained_before": sorted(self._trained_before),
            "results": [result.as_dict() for result in self.results],
            "best": [self.best.epoch, self.best.validation_loss],
            "digests": self._digests,
            "run": self.folder.identity,
        }
        state = {"progress": np.frombuffer(json.dumps(progress).encode(), np.uint8)}
        for name, value in self.best.current().items():
            if name in self._trained_before or name in self.best.variables:
                state[f"weights/{name}"] = value
        if self.best.validation_logits is not None:
            state["best/logits"] = self.best.validation_logits
        for name, value in self.best.values.items():
            if name in self._trained:
                state[f"best/weights/{name}"] = value
        training = self.training.state().items()
        return state | {f"training/{name}": value for name, value in training}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a result of `state`; KeyError or ValueError for others."""
        progress = json.loads(state["progress"].tobytes())
        identity = self.folder.identity
        if progress.get("run", identity) != identity:
            raise ValueError("config.json is another run's, or was edited")
        training = snapshots.select(state, "training/")
        self._digests = progress["digests"]
        self._steps_before = progress["steps_before"]
        self._trained = set(progress["trained_before"])
        results = [EpochResult(**values) for values in progress["results"]]
        epochs_in_stage = int(training["counts"][0])
        self.results = results[: len(results) - epochs_in_stage]
        self._begin_stage(progress["stage"], snapshots.select(state, "weights/"))
        self.results = results
        self.training.restore(training)
        self.best.epoch, self.best.validation_loss = progress["best"]
        self.best.validation_logits = state.get("best/logits")
        if self.best.epoch:
            values = snapshots.select(state, "best/weights/")
            self.best.values = {**self.best.current(), **values}
