"""Estimate time and memory of a training from a few batches of each stage."""

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from model.loop import train_step, training_loop
from model.loop.inputs import feature_cache, feature_store, training_data
from model.networks import head
from model.runs import run_folder
from model.training import head_solver, settings, stages, train_run, trunk_and_tail
from model.training.repeats import out_of_fold, repeated_runs
from model.training.staged_training import StagedTraining
from pipeline.batches import crop_and_resize, image_batches
from pipeline.system import command_line, platform_support

# Batches are timed, after a first one that compiles, until there are 4 of them and a
# second has passed, or a quarter of those that the training will have.
_BATCHES, LEAST_S, _MOST_SHARE = 4, 1.0, 0.25
# {cache: {view: photos}} whose features earlier stages will have computed.
Planned = dict[str, dict[int, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Expected cost of a stage."""

    name: str  # of network and stage; "" for a training of one
    lines: list[str]  # what trains, and how long each part of it takes
    features_s: float  # seconds for the features that the cache does not have yet
    seconds: float  # of the stage, without those
    doubts_s: float  # seconds to find doubtful labels after a training
    extra_bytes: int  # held in training beyond what the estimate needed


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
        started_s = started_s or time.process_time()
        for network in networks:
            network.name = network.name or config.label * is_comparison
            estimates.extend(estimate_stages(network, least_s))

    if is_comparison:
        repeated_runs.each_usable(configs, estimate)
    else:
        estimate(config)
    peak_bytes = platform_support.peak_memory_bytes()
    return _as_text(estimates, started_s, peak_bytes, config.folds or config.seeds)


def estimate_stages(network: StagedTraining, least_s: float) -> list[Estimate]:
    """Time a few batches of each stage of a network, which is not changed."""
    planned: Planned = {}
    return [
        _StageTimer(network, stage, planned, least_s).estimate()
        for stage in network.stages
    ]


@dataclasses.dataclass
class _StageTimer:
    """Build a stage and time a few batches."""

    _network: StagedTraining
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
        missing, features_s, extra_bytes = 0, 0.0, 0
        if stage.is_cached:
            missing, features_s, extra_bytes = self._estimate_features()
        training_s, validation_s, bound = self._estimate_training()
        lines = self._layer_lines()
        if stage.is_solved:
            lines.append(f"L-BFGS for up to {stage.epochs} L2 penalties")
        else:
            epochs = f"{stage.epochs} epoch{'s' * (stage.epochs > 1)}"
            lines.append(f"{stage.steps:,} steps of {size} photos in {epochs}")
        if missing:
            lines.append(f"features of {missing:,} views: {_in_words(features_s)}")
        lines.append(f"training: {_in_words(training_s)}, {bound}")
        lines.append(f"validation: {_in_words(validation_s)}")
        weights = sum(math.prod(v.shape) for v in self._tail.trainable_variables)
        return Estimate(
            name=", ".join(filter(None, (self._network.name, stage.name))),
            lines=lines,
            features_s=features_s,
            seconds=self._preparation_s + training_s + validation_s,
            doubts_s=self._estimate_doubts(training_s, validation_s),
            extra_bytes=extra_bytes + 4 * weights,
        )

    def _estimate_training(self) -> tuple[float, float, str]:
        """Return seconds of training and of validation, and what training waits for."""
        stage, size = self._stage, self._stage.config.batch_size
        num_validation = len(self._network.records.included("validation"))
        batches = stage.photos / size
        if stage.is_solved:
            size = min(head_solver.CHUNK, stage.num_training)
            batches = stage.photos * head_solver.USUAL_ITERATIONS / size
            # A step takes as long as an iteration.
            config = stage.config.with_optimizer("adam")
            stage = dataclasses.replace(stage, config=config)
        if stage.is_cached:
            model = self._tail
            training = validation = self._example_batches(size)
            validation_size = size
        else:
            model = trunk_and_tail.join(self._trunk, self._tail)
            photos = self._network.photos(stage)
            epochs = itertools.count()
            joined = itertools.chain.from_iterable
            training = joined(map(photos.training, epochs))
            validation = joined(photos.validation() for _ in epochs)
            validation_size = min(size, num_validation)
        step = train_step.TrainStep(model, self._network.learning_setup(stage, model))
        batch_s, waiting_s = self._seconds_each(
            training, lambda batch: float(step(*batch).loss), batches
        )
        predict = training_loop.make_predict_step(model)
        validation_batches = self._stage.epochs * num_validation / validation_size
        validation_batch_s, _ = self._seconds_each(
            validation, lambda batch: predict(batch[0]).numpy(), validation_batches
        )
        bound = "compute-bound: it waits for the network"
        if waiting_s > batch_s / 3:
            bound = "input-bound: it waits for photos to be decoded"
        if stage.is_cached:
            bound = "on cached features"
        return batches * batch_s, validation_batches * validation_batch_s, bound

    def _estimate_doubts(self, training_s: float, validation_s: float) -> float:
        """Return seconds for heads on all photos, or for the features of these."""
        stage, records = self._stage, self._network.records
        if self._network.start.restored is None or stage.config.folds:
            return 0.0
        if stage.plan.train_from != head.FINAL_LAYER:
            seconds = validation_s / stage.epochs / len(records.included("validation"))
        else:
            # A head is solved in many passes, or in those of one penalty.
            passes = 1 if stage.is_solved else head_solver.USUAL_ITERATIONS
            seconds = out_of_fold.NUM_FOLDS * passes * training_s / stage.photos
        return len(records.included()) * seconds

    def _estimate_features(self) -> tuple[int, float, int]:
        """Return number of missing features, seconds for them, bytes of their table."""
        stage, records = self._stage, self._network.records
        num_views = stage.config.num_views
        rows, needed = training_data.photos_per_view(records, num_views)
        identity = self._network.feature_identity(stage, self._trunk)
        before = self._planned.setdefault(json.dumps(identity, sort_keys=True), {})
        new = {
            view: np.setdiff1d(photos, before.get(view, ())).astype(np.int64)
            for view, photos in needed.items()
        }
        before |= needed
        cache_dir = self._network.setup.cache_dir
        keys = feature_cache.photo_keys(records, rows)
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
        images = image_batches.Images(records, rows, spec, batch_size=size)
        run = feature_cache.as_stored(self._trunk, dtype)
        views = crop_and_resize.central_views(images.sizes, spec)
        order = np.resize(np.arange(len(rows)), 1 << 20)
        batches = images.run(order, views)
        batch_s, _ = self._seconds_each(
            batches, lambda batch: run(batch["image"]).numpy(), missing / size
        )
        return missing, missing / size * batch_s, in_memory

    def _example_batches(self, size: int) -> Iterator[training_loop.Batch]:
        """Repeat random numbers in place of features that are not computed yet."""
        random = np.random.default_rng(0)
        shape = (size, *self._trunk.output.shape[1:])
        inputs = random.standard_normal(shape, np.float32)
        labels = random.integers(0, self._stage.plan.num_classes, size, np.int32)
        return itertools.repeat((inputs, labels))

    def _layer_lines(self) -> list[str]:
        """Return a table of the layers with weights, and how many of these train."""
        rows, total, trained = [], 0, 0
        for model in (self._trunk, self._tail):
            for layer in model.layers:
                shapes = [v.shape for v in trunk_and_tail.weights(layer).values()]
                if not shapes:
                    continue
                role = "trained" if layer.trainable else "frozen"
                if self._stage.is_cached and model is self._trunk:
                    role = "cached"
                number = sum(map(math.prod, shapes))
                total += number
                trained += number * (role == "trained")
                output = " x ".join(map(str, layer.output.shape[1:]))
                rows.append((layer.name, output, f"{number:,}", role))
        table = command_line.table(("layer", "output", "parameters", ""), rows)
        summary = f"{trained:,} parameters train, {total - trained:,} are frozen"
        return [*table, summary]

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
        lines += [*estimate.lines, ""]
    features_s = sum(estimate.features_s for estimate in estimates)
    each_s = sum(estimate.seconds for estimate in estimates)
    if doubts_s := estimates[0].doubts_s:
        each_s += doubts_s
        lines.append(f"doubtful labels, after the training: {_in_words(doubts_s)}")
    total = _in_words(started_s + features_s + repeats * each_s)
    memory = peak_bytes + max(estimate.extra_bytes for estimate in estimates)
    several = f"{repeats} such trainings, " * (repeats > 1)
    more = " more than the program takes" * (not peak_bytes)
    memory_text = f"{memory / 1e9:.1f} GB of memory{more}"
    lines.append(f"{several}altogether about {total}, {memory_text}")
    return "\n".join(lines)


def _in_words(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
