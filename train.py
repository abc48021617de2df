"""Records + pretrained weights -> a run folder with a trained classifier.

    python train.py --ckpt=alexnet

Restores a network, freezes it, puts a new final layer on its deepest restored layer,
and trains that on the records in --data.
"""

import pipeline.quiet  # noqa: F401

# isort: split
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from model import (
    curves,
    device,
    examples,
    finish,
    inputs,
    loop,
    method,
    network,
    restore,
    run,
    stages,
    zoo,
)
from model.checkpoints import errors
from pipeline import command, manifest, schema

# Between two writings of the best model so far.
_SAVE_EVERY_S = 60.0
_CACHE_NAME = "cache"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a training.

    Attributes:
        ckpt: name or path of the weights to start from; "none" for a random start.
        data: folder of records and manifest.
        run_dir: folder of the new run; "" for one named by time and weights.
        arch: network that the weights belong to; "" to find it.
        skip: layers not to restore although the file has them, with commas.
        overrides: of the preprocessing.
        features: layer the new final layer sits on; "" for the deepest restored.
        train_from: lowest layer that trains; "" for the final layer alone, or for all
            of a random start.
        views: windows of each photo of which features are cached; 0 computes the whole
            network in every epoch, each time with a new random window.
        epochs: passes over the training split.
        batch_size: photos per step.
        learning_rate: the base rate. 0: what suits the number of features that the new
            final layer sees.
        learning: how it learns.
        dropout: share of features dropped in front of the final layer, 0..1.
        precision: of the network's layers; one of device.PRECISIONS.
        seed: of order, dropout, new weights and, with views=0, windows.
    """

    ckpt: str = "alexnet"
    data: str = "tfrecords"
    run_dir: str = ""
    arch: str = ""
    skip: str = ""
    overrides: inputs.Overrides = inputs.AS_WEIGHTS
    features: str = ""
    train_from: str = ""
    views: int = 2
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 0.0
    learning: method.Method = method.PLAIN
    dropout: float = 0.5
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout={self.dropout}: expected 0 or more, below 1")
        if not math.isfinite(self.learning_rate):
            raise ValueError(f"--learning_rate={self.learning_rate}: not a number")


def train(config: Config) -> Path:
    """Trains as configured; returns the run folder.

    Raises:
        schema.DataError: data or run folder are not as they should be.
        errors.CheckpointError: the weights cannot be used.
        loop.NonFiniteLoss: training ran away.
    """
    found = manifest.read(Path(config.data))
    manifest.check_files(found)
    _check_data(found)
    record = run.Run(directory=run.new_directory(config.run_dir, config.ckpt))
    device_name = device.prepare()
    precision = device.choose_precision(config.precision)
    command.log(f"device: {device_name}, {precision}")
    weights = None if config.ckpt == "none" else zoo.resolve(config.ckpt)
    plan, fit = _make_plan(config, found, weights)
    job = _Job(config=config, found=found, plan=plan, precision=precision)
    trunk, tail = job.build(fit)
    frozen = restore.digests(trunk.variables)
    about = {
        "settings": dataclasses.asdict(config),
        "device": device_name,
        "precision": precision,
    }
    record.start(about | finish.describe(found, plan, weights), found.class_names)
    record.write_json("photos.json", finish.photos(found))
    best = loop.Best(variables=stages.kept(tail))
    results: list[loop.EpochResult] = []
    finisher = finish.Finisher(
        record=record, found=found, plan=plan, fit=fit, weights=weights, frozen=frozen
    )
    try:
        with command.graceful():
            try:
                _run_epochs(job, trunk, tail, best, results, finisher)
            finally:  # also when stopped: what was reached until then is a usable run
                if best.epoch:
                    finisher.write(trunk, tail, best)
                    with run.replacing(record.directory / "curves.png") as partial:
                        curves.draw(results, partial)
                else:
                    record.discard()
    except command.Stopped:
        if best.epoch:
            command.log(f"run: {record.directory}, as far as it came")
        raise
    return record.directory


def _check_data(found: manifest.Manifest) -> None:
    for split in ("train", "validation"):
        present = {row.class_name for row in found.taken(split)}
        if split == "train" and (lacking := set(found.class_names) - present):
            raise schema.DataError(
                f"{found.directory}: no training photo of "
                f"{', '.join(sorted(lacking))}; add photos and convert again"
            )
        if not present:
            counts = found.counts().values()
            enough = any(sum(splits.values()) >= len(splits) for splits in counts)
            raise schema.DataError(
                f"{found.directory}: no {split} photo; a class needs three photos to "
                "have one in each split: "
                + (
                    f"split anew with python -m pipeline.split {found.directory}"
                    if enough
                    else "add some and convert again"
                )
            )


def _make_plan(
    config: Config, found: manifest.Manifest, weights: zoo.Weights | None
) -> tuple[stages.Plan, restore.Fit | None]:
    """Decides network, feature layer and cut from the weights and the flags."""
    fit = None
    if weights is not None:
        fit = restore.fit(
            weights.checkpoint,
            str(weights.path),
            arch=config.arch,
            skip=tuple(filter(None, config.skip.split(","))),
            overrides=config.overrides,
        )
        command.log(
            f"weights: {weights.name} is {weights.variant}, from {weights.path}"
        )
        for line in fit.near_misses():
            command.log(f"note: {line}; layers are matched by name")
        if unused := [e.tensor for e in fit.entries if e.status == "unused"]:
            more = ", ..." * (len(unused) > 3)
            command.log(
                f"note: {len(unused)} tensors of the file are not used "
                f"({', '.join(unused[:3])}{more}); ledger.json has all"
            )
    chosen = fit.network if fit else network.by_name(config.arch or "alexnet_owt")
    spec = fit.spec if fit else config.overrides.apply(chosen.input_spec)
    if config.features and config.features not in chosen.features:
        raise errors.MismatchedCheckpoint(
            f"--features={config.features}: {chosen.name} has "
            f"{', '.join(chosen.features)}"
        )
    last = config.features or (fit.deepest_feature() if fit else chosen.features[-1])
    if fit:
        fit.require(last)
    train_from = config.train_from or _lowest_new(chosen, last, fit)
    plan = stages.Plan(
        network=chosen,
        spec=spec,
        features=last,
        train_from=train_from,
        cut=stages.cut_below(chosen, train_from, last),
        num_classes=len(found.class_names),
        dropout=config.dropout,
        seed=config.seed,
    )
    if not fit and plan.cut != network.INPUT:
        command.log(f"warning: layers up to {plan.cut} are random and stay frozen")
    command.log(
        f"network: {chosen.name}, new final layer on {last}, training from "
        f"{train_from}; input {spec.short_side_px}/{spec.size_px}, {spec.resize}, "
        f"preprocessing by {spec.source}"
    )
    return plan, fit


def _lowest_new(chosen: network.Network, last: str, fit: restore.Fit | None) -> str:
    """The lowest step up to `last` that is not restored; else the new final layer."""
    for step in chosen.layers(chosen.num_classes, "float32"):
        layers = network.weighted_layers(step)
        if layers and not (fit and all(map(fit.complete, layers))):
            return str(step.name)
        if step.name == last:
            break
    return network.FINAL_LAYER


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """What all steps of a training share."""

    config: Config
    found: manifest.Manifest
    plan: stages.Plan
    precision: str

    @property
    def cached(self) -> bool:
        """Whether the tail trains on cached features."""
        return self.plan.cut != network.INPUT and self.config.views > 0

    def build(self, fit: restore.Fit | None) -> tuple[Any, Any]:
        """Frozen trunk and trained tail, with restored weights."""
        policy = device.policy(self.precision)
        trunk = stages.build_trunk(self.plan, policy)
        tail = stages.build_tail(self.plan, trunk, policy)
        for part in (trunk, tail):
            if fit:
                restore.assign(part, fit.values)
        return trunk, tail


def _run_epochs(
    job: _Job,
    trunk: Any,
    tail: Any,
    best: loop.Best,
    results: list[loop.EpochResult],
    finisher: finish.Finisher,
) -> None:
    config, record = job.config, finisher.record
    source: examples.Cached | examples.Fresh
    if job.cached:
        model, source = (
            tail,
            examples.Cached(
                job.found,
                trunk,
                plan=job.plan,
                precision=job.precision,
                num_views=config.views,
                batch_size=config.batch_size,
                cache_dir=record.directory.parent / _CACHE_NAME,
            ),
        )
    else:
        model, source = (
            stages.join(trunk, tail),
            examples.Fresh(job.found, job.plan, batch_size=config.batch_size),
        )
    learning = _learning(job, model, source.num_training)
    scalars = curves.Scalars(record.directory / "tensorboard")
    saved_s, saved_epoch = time.monotonic(), 0
    total = config.epochs * source.num_training
    with command.progress(total, "photo", "train", scale=True) as progress:
        for result in loop.fit(
            model,
            learning,
            training=source.training,
            validation=source.validation,
            epochs=config.epochs,
            best=best,
            on_step=progress.update,
        ):
            results.append(result)
            record.append_metrics(result)
            scalars.write(result)
            progress.log(_epoch_line(result, config.epochs))
            if best.epoch > saved_epoch and time.monotonic() - saved_s > _SAVE_EVERY_S:
                finisher.write(trunk, tail, best)
                saved_s, saved_epoch = time.monotonic(), best.epoch


def _learning(job: _Job, model: Any, num_training: int) -> loop.Learning:
    """How the model's variables learn."""
    config = job.config
    batches = math.ceil(num_training / config.batch_size)
    labels = [job.found.labels[row.class_name] for row in job.found.taken("train")]
    return loop.Learning(
        update=config.learning.updates(
            restore.trainable(model), float16=job.precision == "float16"
        ),
        schedule=config.learning.schedule,
        rate=config.learning_rate
        or loop.suitable_rate(
            job.plan.num_features if job.plan.train_from == network.FINAL_LAYER else 0
        ),
        total_steps=config.epochs * math.ceil(batches / config.learning.iter_size),
        loss=config.learning.loss(np.bincount(labels)),
        patience=config.learning.early_stopping,
    )


def _epoch_line(result: loop.EpochResult, epochs: int) -> str:
    return (
        f"epoch {result.epoch:{len(str(epochs))}}/{epochs}"
        f"  loss {result.loss:.4f}  accuracy {result.accuracy:.4f}"
        f"  validation loss {result.validation_loss:.4f}"
        f"  accuracy {result.validation_accuracy:.4f}"
        f"  {result.images_per_s:,.0f} photos/s"
    )


def define_flags() -> None:
    """Declares the command's flags; defaults are those of Config."""
    default = Config()
    flags.DEFINE_string(
        "ckpt",
        default.ckpt,
        f"Weights to start from: {', '.join(zoo.NAMES)}, the path of a weight file or "
        "TensorFlow checkpoint, or none.",
    )
    flags.DEFINE_string("data", default.data, "Folder of records, from convert.")
    flags.DEFINE_string(
        "run_dir",
        default.run_dir,
        "Folder of the run; by default runs/<time>-<ckpt>. Beside it: cache/ with "
        "features, and latest, a link to the newest run.",
    )
    flags.DEFINE_string(
        "arch",
        default.arch,
        "Network that the weights belong to: "
        f"{', '.join(network.NETWORKS)}; by default found by names and shapes.",
    )
    flags.DEFINE_string(
        "skip",
        default.skip,
        "Layers not to restore although the file has them, as fc6,fc7.",
    )
    inputs.define_flags()
    flags.adopt_module_key_flags(inputs)  # so that --help shows them
    flags.DEFINE_string(
        "features",
        default.features,
        "Layer the new final layer sits on, as pool5, fc6, fc7; by default the deepest "
        "that was restored.",
    )
    flags.DEFINE_string(
        "train_from",
        default.train_from,
        "Lowest layer that trains, as conv5; by default the new final layer alone.",
    )
    flags.DEFINE_integer(
        "views",
        default.views,
        "Windows of each photo whose features are cached: the central one, the same "
        "mirrored, then random ones. 0: a new random window in every epoch, uncached.",
        lower_bound=0,
        upper_bound=1000,
    )
    flags.DEFINE_integer(
        "epochs", default.epochs, "Passes over the training photos.", lower_bound=1
    )
    flags.DEFINE_integer(
        "batch_size",
        default.batch_size,
        "Photos per step.",
        lower_bound=1,
        upper_bound=1 << 14,
    )
    flags.DEFINE_float(
        "learning_rate",
        default.learning_rate,
        "The base rate. 0: as suits Adam and the number of features, 1e-4 for AlexNet.",
        lower_bound=0,
    )
    method.define_flags()
    flags.adopt_module_key_flags(method)
    flags.DEFINE_float(
        "dropout",
        default.dropout,
        "Share of features dropped in front of the final layer, 0..1.",
    )
    flags.DEFINE_enum(
        "precision",
        default.precision,
        device.PRECISIONS,
        "Of the network's layers; auto: bfloat16 or float16 where the hardware has it.",
    )
    flags.DEFINE_integer(
        "seed",
        default.seed,
        "Of order, new weights, dropout and, with --views=0, windows.",
        lower_bound=0,
        upper_bound=(1 << 31) - 1,
    )


def main(argv: Sequence[str]) -> None:
    """Trains as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags begin with --")
    config = command.config_from_flags(
        Config, overrides=inputs.from_flags(), learning=method.from_flags()
    )
    directory = train(config)
    results = run.read(str(directory)).results()
    best = min(results, key=lambda result: result["validation_loss"])
    command.say(
        f"best epoch {best['epoch']} of {len(results)}: validation accuracy "
        f"{best['validation_accuracy']:.4f}, loss {best['validation_loss']:.4f}"
    )
    command.say(f"run: {directory}")


if __name__ == "__main__":
    define_flags()
    command.run(main, schema.DataError, errors.CheckpointError, loop.NonFiniteLoss)
