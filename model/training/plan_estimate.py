"""What a training will take, told from a few batches of each stage before it begins."""

import dataclasses
import json
import math
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from model.loop import feature_cache, training_data, training_loop
from model.training import settings, staged_training, stages
from model.weights import model_variables
from pipeline.batches import crop_and_resize, dataset, image_batches
from pipeline.records import manifest

_BATCHES = 4  # that are timed, after one that is not
_LEAST_S = 1.0  # or more, until so much time has passed
_TICKS = os.sysconf("SC_CLK_TCK")
# {cache: {view: photos}} that an earlier stage will have computed.
_Planned = dict[str, dict[int, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of the network in a stage.

    Attributes:
        name: of the layer.
        shape: of its output, without the batch.
        parameters: number of its weights.
        role: "cached", "frozen" or "trained".
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    role: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a stage will take.

    Attributes:
        stage: its name, behind that of the network if two are compared.
        layers: of the network that have weights.
        steps: of the optimizer.
        epochs: passes over the training photos.
        features: that are not in the cache yet.
        features_s: seconds for them.
        training_s: seconds of all epochs.
        validation_s: likewise.
        bound: what training waits for: "input", "compute" or, with cached features,
            "memory".
        extra_bytes: that it will hold beyond what the probe did.
    """

    stage: str
    layers: tuple[Layer, ...]
    steps: int
    epochs: int
    features: int
    features_s: float
    training_s: float
    validation_s: float
    bound: str
    extra_bytes: int

    @property
    def seconds(self) -> float:
        """Of the whole stage."""
        return self.features_s + self.training_s + self.validation_s


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def age_s() -> float:
    """Seconds since this process began; 0 where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2]
        began_s = int(fields.split()[19]) / _TICKS
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began_s
    except (OSError, AttributeError):
        return 0.0


def estimate(one: staged_training.Trainee, found: manifest.Manifest) -> list[Estimate]:
    """Times a few batches of each stage; the trainee is not changed.

    Args:
        one: that has not begun.
        found: the data set.
    """
    planned: _Planned = {}
    return [
        _Probe(one, found, stage, plan, planned).estimate()
        for stage, plan in zip(one.stages, one.plans, strict=True)
    ]


class _Probe:
    """A stage that is built for a few batches."""

    def __init__(
        self,
        one: staged_training.Trainee,
        found: manifest.Manifest,
        stage: settings.Config,
        plan: stages.Plan,
        planned: _Planned,
    ) -> None:
        self._planned = planned
        self._one, self._found, self._stage, self._plan = one, found, stage, plan
        self._trunk, self._tail = one.build(plan)
        self._cached = one.is_cached(stage, plan)
        self._num_training = one.num_training
        self._num_validation = len(found.included("validation"))

    def estimate(self) -> Estimate:
        if self._cached:
            missing, features_s, extra = self._features()
            example = self._example_batches()
            model = self._tail
        else:
            missing, features_s, extra = 0, 0.0, 0
            model = stages.join(self._trunk, self._tail)
            source = training_data.Fresh(
                self._found,
                self._plan.spec,
                seed=self._plan.seed,
                batch_size=self._stage.batch_size,
                augmentation=self._stage.augmentation,
            )
            example = _forever(source.training)
        learning = self._one.learning(self._stage, self._plan, model)
        step = training_loop.TrainStep(model, learning)
        batch_s = _seconds_each(example, lambda batch: step(*batch))
        bound = "memory"
        if not self._cached:
            ready = next(example)
            compute_s = _seconds_each(_repeat(ready), lambda batch: step(*batch))
            bound = "input" if batch_s > 1.5 * compute_s else "compute"
        batches = math.ceil(self._num_training / self._stage.batch_size)
        epochs = learning.epochs
        trained = min(
            epochs * batches, learning.total_steps * self._stage.learning.iter_size
        )
        # The last batch of an epoch is smaller.
        share = self._num_training / (batches * self._stage.batch_size)
        weights = sum(np.prod(v.shape) for v in self._tail.trainable_variables)
        return Estimate(
            stage=", ".join(filter(None, (self._one.name, self._stage.stage))),
            layers=tuple(self._layers()),
            steps=learning.total_steps,
            epochs=epochs,
            features=missing,
            features_s=features_s,
            training_s=trained * batch_s * share,
            validation_s=epochs * self._validation_s(model),
            bound=bound,
            extra_bytes=extra + 4 * int(weights),
        )

    def _features(self) -> tuple[int, float, int]:
        """Number of missing features, seconds for them, bytes of their table."""
        rows, wanted = training_data.wanted_features(self._found, self._stage.num_views)
        about = self._one.cache_key(self._trunk, self._plan)
        before = self._planned.setdefault(json.dumps(about, sort_keys=True), {})
        new = {v: np.setdiff1d(some, before.get(v, ())) for v, some in wanted.items()}
        before |= wanted
        missing = feature_cache.num_missing(
            self._trunk,
            len(rows),
            {view: some.astype(np.int64) for view, some in new.items()},
            cache_dir=self._one.machine.cache_dir,
            about=about,
        )
        kind = np.float32 if about["precision"] == "float32" else np.float16
        one_bytes = math.prod(self._trunk.output.shape[1:]) * np.dtype(kind).itemsize
        table = sum(map(len, wanted.values())) * one_bytes
        held = 2 * table if table <= feature_cache.MEMORY_BYTES else 0
        if not missing:
            return 0, 0.0, held
        size = feature_cache.BATCH_SIZE
        images = image_batches.Images(
            self._found, rows, self._plan.spec, batch_size=size
        )
        run = feature_cache.as_stored(self._trunk, kind)
        views = crop_and_resize.central_views(images.sizes, images.spec)
        order = np.resize(np.arange(len(rows)), 1 << 20)
        batch_s = _seconds_each(
            images.run(order, views), lambda batch: run(batch["image"]).numpy()
        )
        return missing, missing / size * batch_s, held

    def _example_batches(self) -> Iterator[training_loop.Batch]:
        """What stands in for features while there are none."""
        random = np.random.default_rng(0)
        size = self._stage.batch_size
        shape = (size, *self._trunk.output.shape[1:])
        inputs = random.standard_normal(shape, np.float32)
        labels = random.integers(0, self._plan.num_classes, size).astype(np.int32)
        return _repeat((inputs, labels))

    def _validation_s(self, model: Any) -> float:
        """Seconds of a pass over the validation photos."""
        step = training_loop.make_predict_step(model)
        if self._cached:
            inputs, _ = next(self._example_batches())
            batch_s = _seconds_each(_repeat((inputs, None)), lambda b: step(b[0]))
            return self._num_validation / len(inputs) * batch_s
        source = dataset.Evaluation(
            self._found,
            "validation",
            self._plan.spec,
            batch_size=self._stage.batch_size,
        )
        size = min(self._stage.batch_size, self._num_validation)
        batches = _forever(lambda _: ((b["image"], None) for b in source))
        batch_s = _seconds_each(batches, lambda batch: step(batch[0]).numpy())
        return self._num_validation / size * batch_s

    def _layers(self) -> Iterator[Layer]:
        for part in (self._trunk, self._tail):
            for layer in part.layers:
                weights = [
                    v for v in layer.weights if v.name != model_variables.RANDOM_STATE
                ]
                if weights:
                    frozen = "cached" if self._cached and part is self._trunk else ""
                    yield Layer(
                        name=layer.name,
                        shape=tuple(layer.output.shape[1:]),
                        parameters=sum(math.prod(v.shape) for v in weights),
                        role=frozen or ("trained" if layer.trainable else "frozen"),
                    )


def _forever(
    passes: Callable[[int], Iterable[training_loop.Batch]],
) -> Iterator[training_loop.Batch]:
    number = 0
    while True:
        yield from passes(number)
        number += 1


def _repeat(batch: training_loop.Batch) -> Iterator[training_loop.Batch]:
    while True:
        yield batch


def _seconds_each(batches: Iterator[Any], work: Callable[[Any], object]) -> float:
    """Seconds of a batch: the mean of some, after the first."""
    work(next(batches))
    start, count = time.perf_counter(), 0
    while count < _BATCHES or time.perf_counter() - start < _LEAST_S:
        work(next(batches))
        count += 1
    return (time.perf_counter() - start) / count


def as_text(
    estimates: list[Estimate],
    *,
    batch_sizes: list[int],
    started_s: float,
    peak: int,
    repeats: int = 1,
) -> str:
    """The plan as a table.

    Args:
        estimates: of all stages.
        batch_sizes: of all stages.
        started_s: until the probe began.
        peak: bytes that the probe held.
        repeats: how often all of it is trained, on features that are computed once.
    """
    lines = []
    for number, (one, size) in enumerate(
        zip(estimates, batch_sizes, strict=True), start=1
    ):
        if len(estimates) > 1:
            lines.append(f"{one.stage or f'stage {number}'}:")
        width = max(len(layer.name) for layer in one.layers)
        lines.append(f"{'layer':{width}}  {'output':>15} {'parameters':>12}")
        for layer in one.layers:
            shape = " x ".join(map(str, layer.shape))
            lines.append(
                f"{layer.name:{width}}  {shape:>15} {layer.parameters:>12,}  "
                f"{layer.role}"
            )
        counts = {
            kind: sum(x.parameters for x in one.layers if (x.role == "trained") == kind)
            for kind in (True, False)
        }
        lines += [
            f"{counts[True]:,} parameters train, {counts[False]:,} are frozen",
            f"{one.steps:,} steps of {size} photos in {one.epochs} epochs",
        ]
        if one.features:
            lines.append(f"features of {one.features:,} views: {_time(one.features_s)}")
        what = {
            "input": "input-bound: it waits for photos to be decoded",
            "compute": "compute-bound: it waits for the network",
            "memory": "on cached features",
        }[one.bound]
        lines.append(f"training: {_time(one.training_s)}, {what}")
        lines.append(f"validation: {_time(one.validation_s)}")
        lines.append("")
    features_s = sum(one.features_s for one in estimates)
    each_s = sum(one.seconds for one in estimates) - features_s
    total = started_s + features_s + repeats * each_s
    memory = peak + max(one.extra_bytes for one in estimates)
    lines.append(
        f"{repeats} such trainings, " * (repeats > 1)
        + f"altogether about {_time(total)}, {memory / 1e9:.1f} GB of memory"
    )
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
