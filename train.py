"""Train a classifier on records, starting from pretrained weights.

    python train.py --ckpt=alexnet
    python train.py --recipe=flowers

Writes a run folder with the trained network. By default the pretrained layers stay
frozen and only a new final layer trains; --train_from trains deeper layers too.
"""

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import dataclasses
import os
from pathlib import Path
from typing import Any

from model.evaluation import run_evaluation
from model.loop import device, distributed
from model.networks import head
from model.runs import finished_run, run_folder, run_records
from model.training import (
    learning_rate_finder,
    plan_estimate,
    recipe,
    repeated_runs,
    save_run,
    session,
    settings,
    staged_training,
    starting_point,
)
from pipeline.records import manifest
from pipeline.system import command_line, config_flags, file_system
from pipeline.system.errors import DataError, UsageError

SCRATCH = "scratch"  # subfolder of the run of the same network from a random start


def train(config: settings.Config) -> Path:
    """Trains as configured; returns the run folder.

    Raises:
        DataError: data or run folder are not as they should be.
        errors.CheckpointError: the weights cannot be used.
        loop.NonFiniteLoss: training ran away.
    """
    found = _data(config.data)
    directory = run_folder.new_directory(config.run_dir, config.ckpt)
    machine, device_name = _machine(directory, config.precision)
    trainees = _trainees(config, found, directory, machine)
    for one in trainees:
        about = {
            "settings": dataclasses.asdict(config),
            "device": device_name,
            "precision": machine.precision,
        }
        about |= save_run.describe(found, one.base, one.plans)
        one.record.start(about, found.class_names)
        one.record.write_json("photos.json", save_run.photos(found))
    session.Session(config, trainees).run()
    return directory


def plan(config: settings.Config) -> str:
    """Says what a training will take, from a few batches of each stage.

    Raises:
        DataError: data are not as they should be.
        errors.CheckpointError: the weights cannot be used.
    """
    found = _data(config.data)
    directory = run_folder.new_directory(config.run_dir, config.ckpt)
    machine, _ = _machine(directory, config.precision)
    trainees = _trainees(config, found, directory, machine)
    started_s = plan_estimate.age_s()
    estimates = [e for one in trainees for e in plan_estimate.estimate(one, found)]
    return plan_estimate.as_text(
        estimates,
        batch_sizes=[stage.batch_size for one in trainees for stage in one.stages],
        started_s=started_s,
        peak=plan_estimate.peak_bytes(),
        repeats=config.folds or config.seeds,
    )


def find_rate(config: settings.Config) -> Path:
    """Tries which learning rate suits the first stage; returns the run folder.

    Raises:
        DataError: data or run folder are not as they should be.
        errors.CheckpointError: the weights cannot be used.
    """
    found = _data(config.data)
    directory = run_folder.new_directory(config.run_dir, config.ckpt)
    machine, _ = _machine(directory, config.precision)
    one, *_ = _trainees(config, found, directory, machine)
    with command_line.graceful():
        one.begin()
        training = one.training
        total = learning_rate_finder.STEPS * training.source.batch_size
        with command_line.progress(total, "photo", "rates", scale=True) as progress:
            curve = learning_rate_finder.search(
                training.model,
                training.learning,
                training.source,
                on_step=progress.update,
            )
    about = {"settings": dataclasses.asdict(config), "precision": machine.precision}
    about |= save_run.describe(found, one.base, one.plans)
    one.record.start(about, found.class_names)
    one.record.write_json("find_rate.json", learning_rate_finder.as_json(curve))
    with file_system.replacing(directory / "find_rate.png") as partial:
        learning_rate_finder.draw(curve, partial)
    command_line.say(learning_rate_finder.as_text(curve))
    command_line.say(f"curve: {directory / 'find_rate.png'}")
    return directory


def repeat(config: settings.Config) -> Path:
    """Trains and tests several times, with other seeds or folds.

    Returns:
        The folder of all runs; repeats.json there says what they came to.

    Raises:
        as `train`.
    """
    directory = run_folder.new_directory(config.run_dir, config.ckpt)
    config = dataclasses.replace(config, data=str(Path(config.data).resolve()))
    found = _data(config.data)
    directory.mkdir(parents=True, exist_ok=True)
    repeated_runs.write_plan(directory, config, found)
    return _repeat(config, found, directory)


def _repeat(config: settings.Config, found: manifest.Manifest, directory: Path) -> Path:
    """Those that are not done yet; if none can begin, nothing stays."""
    try:
        return _repeat_each(config, found, directory)
    finally:
        if not any(map(run_folder.is_run, directory.iterdir())):
            run_folder.RunFolder(directory=directory).discard()


def _repeat_each(
    config: settings.Config, found: manifest.Manifest, directory: Path
) -> Path:
    places = {"": ""} | ({SCRATCH: SCRATCH} if config.compare == "scratch" else {})
    figures: dict[str, dict[str, Any]] = {what: {} for what in places}
    seen = ""
    for name, member in repeated_runs.members(config, found, directory).items():
        place = directory / name
        command_line.log(f"{name}:")
        member = dataclasses.replace(member, features=seen or member.features)
        if (place / run_folder.CHECKPOINTS).exists():
            resume(place)
        elif not repeated_runs.is_done(place):
            train(member)
        seen = finished_run.read(str(place)).config[
            "features"
        ]  # all on the same layers
        records = manifest.read(Path(member.data))
        for what, folder in places.items():
            finished = finished_run.read(str(place / folder))
            figures[what][name] = run_evaluation.evaluate_run(
                finished, records, "test"
            ).figures
    found_of = {
        what: repeated_runs.summary(some, folds=bool(config.folds))
        for what, some in figures.items()
    }
    more = {what: one for what, one in found_of.items() if what}
    repeated_runs.write_plan(directory, config, found, **found_of[""], **more)
    for what, one in found_of.items():
        command_line.say(repeated_runs.as_text(one, what))
    return directory


def resume(run_dir: Path) -> Path:
    """Goes on with a stopped training, as if it had never stopped.

    Raises:
        DataError: the run is done, is being trained, or its data has changed.
        errors.CheckpointError: the weights it began with are gone, or others.
        loop.NonFiniteLoss: training ran away.
    """
    if plan := repeated_runs.read_plan(run_dir):
        config, digest = plan
        found = _data(config.data)
        run_records.check(run_dir, digest, found)
        return _repeat(config, found, run_dir.resolve())
    directory, about = finished_run.read_unfinished(run_dir)
    config = settings.from_run(directory, about)
    # Where the head sits was decided then; the default may be another one now.
    config = dataclasses.replace(config, features=about["features"])
    found = _data(about["data"]["path"])
    run_records.check(directory, about["data"]["manifest_digest"], found)
    if about["versions"] != run_folder.versions():
        command_line.log(
            f"warning: {directory} was begun with other versions of Graft, TensorFlow, "
            "Keras or NumPy; the result may differ in its last digits"
        )
    machine, _ = _machine(directory, about["precision"])
    trainees = _trainees(config, found, directory, machine)
    if save_run.describe(found, trainees[0].base, ())["weights"] != about["weights"]:
        raise run_folder.RunError(
            f"{directory}: --ckpt={config.ckpt} has other weights than when it began; "
            "train anew"
        )
    session.Session(config, trainees, resumed=True).run()
    return directory


def _machine(directory: Path, precision: str) -> tuple[distributed.Machine, str]:
    """What a run computes with, and its name in words."""
    name = device.prepare()
    together = distributed.Workers.from_environment()
    together.use(device.gpus())
    machine = distributed.Machine(
        precision=device.choose_precision(precision),
        cache_dir=repeated_runs.cache_dir(directory),
        together=together,
    )
    command_line.log(
        f"device: {name}, {machine.precision}"
        + f"; process {together.rank + 1} of {together.size}" * (together.size > 1)
    )
    return machine, name


def _trainees(
    config: settings.Config,
    found: manifest.Manifest,
    directory: Path,
    machine: distributed.Machine,
) -> list[staged_training.Trainee]:
    """The network, and the one it is compared with."""
    start = starting_point.choose(config, found.class_names)
    made = "kept" if config.keep_head else "new"
    command_line.log(
        f"network: {start.network.name}, {made} head on "
        f"{head.describe(start.features, start.pooling)}; input "
        f"{start.spec.short_side_px}/{start.spec.size_px}, {start.spec.resize}, "
        f"preprocessing by {start.spec.source}"
    )
    starts = {"": (directory, start)}
    if config.compare == "scratch":
        starts = {
            "pretrained": (directory, start),
            SCRATCH: (directory / SCRATCH, start.from_scratch()),
        }
    return [
        staged_training.Trainee(
            config,
            found,
            one,
            run_folder.RunFolder(directory=place, writes=machine.together.is_chief),
            machine,
            name=name,
        )
        for name, (place, one) in starts.items()
    ]


def _data(folder: str) -> manifest.Manifest:
    """Records that can be trained on.

    Raises:
        DataError: they are missing or damaged, or a class lacks photos.
    """
    found = manifest.read(Path(folder))
    manifest.check_files(found)
    for split in ("train", "validation"):
        present = {row.class_name for row in found.included(split)}
        if split == "train" and (lacking := set(found.class_names) - present):
            raise DataError(
                f"{found.directory}: no training photo of "
                f"{', '.join(sorted(lacking))}; add photos and convert again"
            )
        if not present:
            counts = found.counts().values()
            enough = any(sum(splits.values()) >= len(splits) for splits in counts)
            raise DataError(
                f"{found.directory}: no {split} photo; a class needs three photos to "
                "have one in each split: "
                + (
                    f"split anew with python -m pipeline.split {found.directory}"
                    if enough
                    else "add some and convert again"
                )
            )
    return found


def _say_best(directory: Path) -> None:
    """The best epoch, and that of the network that is compared with."""
    for place in filter(run_folder.is_run, (directory, directory / SCRATCH)):
        results = finished_run.read(str(place)).results()
        best = min(results, key=lambda result: result["validation_loss"])
        command_line.say(
            f"{place.name}, "
            * (place != directory)
            + f"best epoch {best['epoch']} of {len(results)}: validation accuracy "
            f"{best['validation_accuracy']:.4f}, loss {best['validation_loss']:.4f}"
        )


def main(typed: dict[str, Any]) -> None:
    """Trains as the flags say."""
    action = config_flags.build(settings.Action, typed)
    if action.resume:
        directory = resume(settings.run_to_resume(typed))
    elif action.plan:
        command_line.say(plan(recipe.configure(typed)))
        return
    elif action.find_rate:
        find_rate(recipe.configure(typed))
        return
    elif (config := recipe.configure(typed)).seeds > 1 or config.folds:
        if distributed.place(os.environ.get("TF_CONFIG", ""))[1] > 1:
            raise UsageError(
                "--seeds, --folds: several processes (TF_CONFIG) train one run; run "
                "each seed or fold by itself"
            )
        directory = repeat(config)
    else:
        directory = train(config)
    if (directory / run_folder.REPEATS).exists():
        command_line.say(f"runs: {directory}")
        return
    if distributed.place(os.environ.get("TF_CONFIG", ""))[0]:
        return  # the chief says what came of it
    _say_best(directory)
    command_line.say(f"run: {directory}")


if __name__ == "__main__":
    command_line.run(main, settings.Action, settings.Config)
