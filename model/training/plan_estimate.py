"""Estimate time and memory of a training from a few batches of each stage."""

import dataclasses
import itertools
import json
import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from model.loop import train_step, training_loop
from model.loop.inputs import (
    cache_key,
    feature_cache,
    feature_store,
    training_data,
)
from model.runs import run_folder
from model.training import (
    head_solver,
    settings,
    staged_training,
    stages,
    train_run,
    trunk_and_tail,
)
from model.training.repeats import repeated_runs
from pipeline.batches import crop_and_resize, image_batches
from pipeline.records import manifest
from pipeline.system import command_line

# Batches are timed, after a first one that compiles, until there are 4 of them and a
# second has passed, or a quarter of those that the training will have.
_BATCHES, LEAST_S, _MOST_SHARE = 4, 1.0, 0.25
_BOUND_IN_WORDS = {
    "input": "input-bound: it waits for photos to be decoded",
    "compute": "compute-bound: it waits for the network",
    "memory": "on cached features",
}


# {cache: {view: photos}} whose features earlier stages will have computed.
Planned = dict[str, dict[int, np.ndarray]]
# Name of a layer with weights, shape of its output without the batch, number of
# parameters, and "cached", "frozen" or "trained".
Layer = tuple[str, tuple[int, ...], int, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Expected cost of a stage."""

    name: str  # of network and stage; "" for a training of one
    stage: stages.Stage
    layers: tuple[Layer, ...]
    batch_size: int
    features: int  # number that the cache does not have yet
    preparation_s: float  # to build and compile the network
    features_s: float  # to compute these
    training_s: float
    validation_s: float
    bound: str  # what training waits for, a key of _BOUND_IN_WORDS
    extra_bytes: int  # held in training beyond what the estimate needed

    @property
    def seconds(self) -> float:
        """Seconds of the stage, without those for computing features."""
        return self.preparation_s + self.training_s + self.validation_s


def plan(*configs: settings.Config, least_s: float = LEAST_S) -> str:
    """Return as text what a training, or a comparison of networks, does and costs.

    The batches of each stage are timed for `least_s` seconds or more.
    """
    config = configs[0]
    records = train_run.read_records(config.data)
    directory = run_folder.new_directory(config.run_dir, config.ckpt)
    estimates: list[Estimate] = []
    is_comparison, started_s = len(configs) > 1, 0.0

    def estimate(config: settings.Config) -> None:
        nonlocal started_s
        prepare = repeated_runs.prepare_head if is_comparison else train_run.prepare
        networks = prepare(config, records, directory)
        started_s = started_s or age_s()
        for network in networks:
            network.name = network.name or config.label * is_comparison
            estimates.extend(estimate_stages(network, records, least_s))

    if is_comparison:
        repeated_runs.each_usable(configs, estimate)
    else:
        estimate(config)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return _as_text(estimates, started_s, peak_bytes, config.folds or config.seeds)


def age_s() -> float:
    """Return the age of this process in seconds; 0 where it is unknown."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2]
        began_s = int(fields.split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began_s
    except (OSError, AttributeError):
        return 0.0


def estimate_stages(
    network: staged_training.StagedTraining,
    records: manifest.Manifest,
    least_s: float = LEAST_S,
) -> list[Estimate]:
    """Time a few batches of each stage of a network, which is not changed."""
    planned: Planned = {}
    return [
        _StageTimer(network, records, stage, planned, least_s).estimate()
        for stage in network.stages
    ]


@dataclasses.dataclass
class _StageTimer:
    """Build a stage and time a few batches."""

    _network: staged_training.StagedTraining
    _records: manifest.Manifest
    _stage: stages.Stage
    _planned: Planned
    _least_s: float

    def __post_init__(self) -> None:
        start_s = time.perf_counter()
        self._trunk, self._tail = self._network.build(self._stage)
        self._preparation_s = time.perf_counter() - start_s

    def estimate(self) -> Estimate:
        """Return the expected cost of the stage."""
        stage, size = self._stage, self._stage.config.batch_size
        num_validation = len(self._records.included("validation"))
        batches = stage.photos / size
        if stage.is_solved:
            size = min(head_solver.CHUNK, stage.num_training)
            batches = stage.photos * head_solver.USUAL_ITERATIONS / size
        missing, features_s, extra_bytes = 0, 0.0, 0
        if stage.is_cached:
            missing, features_s, extra_bytes = self._estimate_features()
            model = self._tail
            training = validation = self._example_batches(size)
            validation_size = size
        else:
            model = trunk_and_tail.join(self._trunk, self._tail)
            photos = self._network.photos(stage)
            epochs = itertools.count()
            training = itertools.chain.from_iterable(map(photos.training, epochs))
            validation = itertools.chain.from_iterable(
                photos.validation() for _ in epochs
            )
            validation_size = min(size, num_validation)
        if stage.is_solved:  # a step takes as long as an iteration
            config = stage.config.with_optimizer("adam")
            stage = dataclasses.replace(stage, config=config)
        step = train_step.TrainStep(model, self._network.learning_setup(stage, model))
        batch_s, waiting_s = self._seconds_each(
            training, lambda batch: float(step(*batch).loss), batches
        )
        bound = "input" if waiting_s > batch_s / 3 else "compute"
        predict = training_loop.make_predict_step(model)
        validation_batches = self._stage.epochs * num_validation / validation_size
        validation_batch_s, _ = self._seconds_each(
            validation, lambda batch: predict(batch[0]).numpy(), validation_batches
        )
        weights = sum(math.prod(v.shape) for v in self._tail.trainable_variables)
        return Estimate(
            name=", ".join(filter(None, (self._network.name, stage.name))),
            stage=self._stage,
            layers=tuple(self._layers()),
            batch_size=size,
            features=missing,
            preparation_s=self._preparation_s,
            features_s=features_s,
            training_s=batches * batch_s,
            validation_s=validation_batches * validation_batch_s,
            bound="memory" if stage.is_cached else bound,
            extra_bytes=extra_bytes + 4 * weights,
        )

    def _estimate_features(self) -> tuple[int, float, int]:
        """Return number of missing features, seconds for them, bytes of their table."""
        stage = self._stage
        rows, needed = training_data.photos_per_view(
            self._records, stage.config.num_views
        )
        identity = self._network.feature_identity(stage, self._trunk)
        before = self._planned.setdefault(json.dumps(identity, sort_keys=True), {})
        new = {
            view: np.setdiff1d(photos, before.get(view, ())).astype(np.int64)
            for view, photos in needed.items()
        }
        before |= needed
        cache_dir = self._network.setup.cache_dir
        keys = cache_key.of_photos(self._records, rows)
        missing = feature_store.num_missing(
            keys, new, cache_dir=cache_dir, identity=identity
        )
        dtype, size = feature_store.stored_dtype(identity), feature_cache.BATCH_SIZE
        photo_bytes = math.prod(self._trunk.output.shape[1:]) * np.dtype(dtype).itemsize
        table = sum(map(len, needed.values())) * photo_bytes
        in_memory = 2 * table if table <= feature_cache.MEMORY_BYTES else 0
        if not missing:
            return 0, 0.0, in_memory
        spec = stage.plan.spec
        images = image_batches.Images(self._records, rows, spec, batch_size=size)
        run = feature_cache.as_stored(self._trunk, dtype)
        views = crop_and_resize.central_views(images.sizes, spec)
        order = np.resize(np.arange(len(rows)), 1 << 20)
        batch_s, _ = self._seconds_each(
            images.run(order, views),
            lambda batch: run(batch["image"]).numpy(),
            missing / size,
        )
        return missing, missing / size * batch_s, in_memory

    def _example_batches(self, size: int) -> Iterator[training_loop.Batch]:
        """Repeat random numbers in place of features that are not computed yet."""
        random = np.random.default_rng(0)
        shape = (size, *self._trunk.output.shape[1:])
        inputs = random.standard_normal(shape, np.float32)
        labels = random.integers(0, self._stage.plan.num_classes, size, np.int32)
        return itertools.repeat((inputs, labels))

    def _layers(self) -> Iterator[Layer]:
        for model in (self._trunk, self._tail):
            for layer in model.layers:
                weights = trunk_and_tail.weights(layer).values()
                if weights:
                    role = "trained" if layer.trainable else "frozen"
                    if self._stage.is_cached and model is self._trunk:
                        role = "cached"
                    parameters = sum(math.prod(v.shape) for v in weights)
                    yield layer.name, tuple(layer.output.shape[1:]), parameters, role

    def _seconds_each(
        self, batches: Iterator[Any], work: Callable[[Any], object], needed: float
    ) -> tuple[float, float]:
        """Return the mean seconds of a batch, and those of waiting for it.

        `needed` is the number of batches that the training will have.
        """
        start_s = time.perf_counter()
        work(next(batches))
        first_s = time.perf_counter()
        self._preparation_s += first_s - start_s
        waiting_s, count, now_s = 0.0, 0, first_s
        while count < max(1, _MOST_SHARE * needed) and (
            count < _BATCHES or now_s - first_s < self._least_s
        ):
            batch = next(batches)
            waiting_s += time.perf_counter() - now_s
            work(batch)
            now_s = time.perf_counter()
            count += 1
        return (now_s - first_s) / count, waiting_s / count


def _as_text(
    estimates: list[Estimate], started_s: float, peak_bytes: int, repeats: int
) -> str:
    """Return the estimates of all stages, for trainings that share their features."""
    lines = []
    for number, estimate in enumerate(estimates, start=1):
        if len(estimates) > 1:
            lines.append(f"{estimate.name or f'stage {number}'}:")
        lines += [*_stage_lines(estimate), ""]
    features_s = sum(estimate.features_s for estimate in estimates)
    each_s = sum(estimate.seconds for estimate in estimates)
    total = _in_words(started_s + features_s + repeats * each_s)
    memory = peak_bytes + max(estimate.extra_bytes for estimate in estimates)
    several = f"{repeats} such trainings, " * (repeats > 1)
    lines.append(f"{several}altogether about {total}, {memory / 1e9:.1f} GB of memory")
    return "\n".join(lines)


def _stage_lines(estimate: Estimate) -> Iterator[str]:
    yield from command_line.table(
        ("layer", "output", "parameters", ""),
        (
            (name, " x ".join(map(str, shape)), f"{parameters:,}", role)
            for name, shape, parameters, role in estimate.layers
        ),
    )
    total = sum(parameters for _, _, parameters, _ in estimate.layers)
    trained = sum(n for _, _, n, role in estimate.layers if role == "trained")
    yield f"{trained:,} parameters train, {total - trained:,} are frozen"
    stage, size = estimate.stage, estimate.batch_size
    if stage.is_solved:
        yield f"L-BFGS for up to {stage.epochs} L2 penalties"
    else:
        yield f"{stage.steps:,} steps of {size} photos in {stage.epochs} epochs"
    if count := estimate.features:
        yield f"features of {count:,} views: {_in_words(estimate.features_s)}"
    training = _in_words(estimate.training_s)
    yield f"training: {training}, {_BOUND_IN_WORDS[estimate.bound]}"
    yield f"validation: {_in_words(estimate.validation_s)}"


def _in_words(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
