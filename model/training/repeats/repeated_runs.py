"""Train several times: with several seeds, test folds or networks."""

import dataclasses
import math
import operator
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import run_evaluation, stored_logits
from model.evaluation.compare import comparison
from model.evaluation.held_out import label_errors
from model.evaluation.run_evaluation import EvaluationData
from model.evaluation.stored_logits import Predictions, pool
from model.loop import metrics, training_loop
from model.loop.inputs import feature_cache
from model.networks import head
from model.runs import finished_run, run_folder
from model.training import settings, staged_training, train_run, training_session
from model.training.settings import Config
from model.weights import named_weights
from pipeline import split
from pipeline.batches import image_batches
from pipeline.records import manifest, staging
from pipeline.records.manifest import Manifest
from pipeline.records.manifest_row import Row
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError, UserError
from pipeline.system.remote import mirror


def repeat(config: Config) -> Path:
    """Train and test with several seeds or folds; return the folder of all runs."""
    config = dataclasses.replace(config, data=str(Path(config.data).resolve()))
    records = train_run.read_records(config.data)
    with run_folder.reserved(config.run_dir, config.ckpt) as directory:
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory, config, records.digest, {})
        return _run_all(config, records, directory, records.digest)


def resume(directory: Path) -> Path:
    """Continue runs of several seeds or folds; return the folder of all runs."""
    path = directory / run_folder.REPEATS
    facts = operator.itemgetter("settings", "manifest_digest")
    values, manifest_digest = finished_run.read_json(path, facts)
    config = settings.from_run(path, mirror.localized(values))
    last = directory / run_folder.FOLD_RECORDS / f"fold-{config.folds - 1}"
    if (last / manifest.HEAD_NAME).exists():
        # Folds have records of their own, whatever has become of the data set.
        records = manifest.read(last)
    else:
        records = train_run.read_records(config.data)
        run_folder.check_records(directory, str(manifest_digest), records)
    return _run_all(config, records, directory.resolve(), str(manifest_digest))


def _run_all(config: Config, records: Manifest, directory: Path, digest: str) -> Path:
    """Train and test all runs that are not complete, and write their summary."""
    try:
        predictions = _test_all(config, records, directory)
    finally:
        if not any(map(run_folder.is_run, directory.iterdir())):
            run_folder.RunFolder(directory=directory).discard()
    summaries = {
        network: summarise(runs, folds=bool(config.folds))
        for network, runs in predictions.items()
    }
    others = {network: summary for network, summary in summaries.items() if network}
    _write(directory, config, digest, summaries[""] | others)
    for network, summary in summaries.items():
        command_line.say(as_text(summary, network))
    if config.folds:
        doubts = label_errors.figures(pool(predictions[""]), label_errors.OF_FOLDS)
        path = label_errors.write(directory, doubts)
        command_line.log(label_errors.in_words(doubts, path))
    return directory


def _test_all(
    config: Config, records: Manifest, directory: Path
) -> dict[str, dict[str, Predictions]]:
    """Return {network: {run: predictions for its test photos}}."""
    networks = ["", train_run.SCRATCH] if config.compare == "scratch" else [""]
    predictions: dict[str, dict[str, Predictions]] = {name: {} for name in networks}
    features = ""
    for name, member in _prepare_runs(config, records, directory).items():
        run_dir = directory / name
        file_system.refuse_link(run_dir)
        command_line.log(f"{name}:")
        # A summary that leaves out a run that diverged would look too good.
        if not finished_run.is_complete(run_dir):
            if run_folder.is_run(run_dir):
                train_run.resume(run_dir)
            else:  # all heads sit on the same layers
                chosen = features or member.features
                train_run.train(dataclasses.replace(member, features=chosen))
        features = finished_run.read(str(run_dir)).config["features"]
        photos = EvaluationData(records=manifest.read(Path(member.data)), split="test")
        for network in networks:
            run = finished_run.read(str(run_dir / network))
            evaluation = run_evaluation.evaluate_run(run, photos)
            predictions[network][name] = evaluation.predictions
    return predictions


def _prepare_runs(
    config: Config, records: Manifest, directory: Path
) -> dict[str, Config]:
    """Write the records of folds; return {name of a run and its folder: settings}."""
    single = dataclasses.replace(config, seeds=1, folds=0, data=str(records.directory))
    if not config.folds:
        if single.learning.optimizer == "auto":
            single = single.with_optimizer("adam")  # a solved head has no randomness
        return {
            f"seed-{seed}": dataclasses.replace(
                single, seed=seed, run_dir=str(directory / f"seed-{seed}")
            )
            for seed in range(config.seed, config.seed + config.seeds)
        }
    runs = {}
    for fold in range(config.folds):
        name = f"fold-{fold}"
        folder = file_system.make_inside(directory, run_folder.FOLD_RECORDS, name)
        _write_fold(records, folder, config, fold)
        runs[name] = dataclasses.replace(
            single, data=str(folder), run_dir=str(directory / name)
        )
    return runs


def _write_fold(records: Manifest, folder: Path, config: Config, fold: int) -> None:
    """Write the records in another split: a manifest, and links to the files.

    A later conversion replaces the files, so that hard links keep the old ones.
    """
    if (folder / manifest.HEAD_NAME).exists():
        return  # written before the runs were stopped
    for name in {row.file for row in records.included()}:
        link = folder / name
        record_file = (records.directory / name).resolve()
        link.unlink(missing_ok=True)  # of runs that were stopped here
        try:
            link.hardlink_to(record_file)
        except OSError:  # on another file system
            link.symlink_to(record_file)
    options = split.Config(seed=config.seed, folds=config.folds, fold=fold)
    changed = split.split_rows(options, records)
    with staging.staged(folder) as partial:
        dataclasses.replace(changed, directory=folder).stage(partial)
        staging.commit(folder)


def _write(
    directory: Path, config: Config, digest: str, results: Mapping[str, Any]
) -> None:
    """Write repeats.json: what is to be trained, and the results so far."""
    facts = {"settings": dataclasses.asdict(config), "manifest_digest": digest}
    folder = run_folder.RunFolder(directory=directory)
    folder.write_json(run_folder.REPEATS, {**facts, **results})


def summarise(predictions: Mapping[str, Predictions], *, folds: bool) -> dict[str, Any]:
    """Return accuracies, mean and sample standard deviation, as in repeats.json.

    `predictions` are {run: those for its test photos}. With folds, which test each
    photo once, "all_photos" counts them together.
    """
    accuracy = {
        run: float((part.predicted == part.labels).mean())
        for run, part in predictions.items()
    }
    values = np.array(list(accuracy.values()))
    summary = {
        "accuracy": accuracy,
        "mean": float(values.mean()),
        "standard_deviation": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
    }
    if folds:
        figures = pool(predictions).figures()
        names = ("num_examples", "accuracy", "accuracy_ci95")
        summary["all_photos"] = {name: figures[name] for name in names}
    return summary


def as_text(summary: Mapping[str, Any], network: str = "") -> str:
    """Return a summary as lines; `network` is its name, "" for one network alone."""
    label = f"{network}, " * bool(network)
    width = max(map(len, summary["accuracy"]))
    lines = [
        f"{label}{run:{width}}  test accuracy {accuracy:.4f}"
        for run, accuracy in summary["accuracy"].items()
    ]
    mean, deviation = summary["mean"], summary["standard_deviation"]
    lines.append(f"{label}mean {mean:.4f}, standard deviation {deviation:.4f}")
    if photos := summary.get("all_photos"):
        low, high = photos["accuracy_ci95"]
        lines.append(
            f"{label}each of {photos['num_examples']} photos tested once: accuracy "
            f"{photos['accuracy']:.4f}, 95 % interval {low:.4f} to {high:.4f}"
        )
    return "\n".join(lines)


def choose_network(*configs: Config) -> Path:
    """Train a head on each network, then a run with the best one; return its folder.

    The networks predict the same validation photos, or with --folds each training and
    validation photo once. The best has the lowest log loss, which on few photos says
    more than the accuracy. Ties go to the smaller network, then to the first. The
    figures of all, the best first, are printed, and kept as comparison.json.
    """
    records = train_run.read_records(configs[0].data)
    run_folder.new_directory(configs[0].run_dir, configs[0].ckpt)  # which must be free
    try:
        candidates = each_usable(configs, lambda config: _validate(config, records))
    except command_line.Stopped:
        command_line.log(
            "no network has been chosen yet. The same command starts again, and reuses "
            "the features computed so far"
        )
        raise
    candidates.sort(key=lambda run: (run.losses.mean(), run.model_bytes))
    figures = comparison.compare(candidates)
    figures["split"] = "cross-validation" if configs[0].folds else "validation"
    runner_up = figures | {"pairs": figures["pairs"][:1]}
    command_line.say(comparison.as_text(runner_up) + "\n")
    best = candidates[0].name
    command_line.log(f"{best} is the best network and is trained as a run:")
    config = next(config for config in configs if config.label == best)
    single = dataclasses.replace(config, folds=0)
    return train_run.train(single, comparison=figures)


def each_usable(configs: Sequence[Config], use: Callable[..., Any]) -> Any:
    """Return what `use` returns for each network, leaving out those it refuses."""
    for ckpt in dict.fromkeys(config.ckpt for config in configs):
        named_weights.resolve(ckpt)  # refuses a wrong name before any training
    results = []
    for number, config in enumerate(configs, start=1):
        command_line.log(f"{config.label}, network {number} of {len(configs)}:")
        try:
            results.append(use(config))
        except (UserError, training_loop.NonFiniteLoss) as error:
            command_line.warn(f"{config.label} is left out: {error}")
    if not results:
        raise DataError("--ckpt: none of these networks can be used; see above.")
    return results


def _validate(config: Config, records: Manifest) -> comparison.Candidate:
    """Train a head without a run folder; return what it predicts for validation."""
    directory = run_folder.new_directory(config.run_dir, config.ckpt)
    logits, label = [], []
    rows: list[Row] = []
    for part in _validation_splits(config, records):
        (network,) = prepare_head(config, part, directory)
        training_session.TrainingSession(config, [network]).run()
        validating = part.included("validation")
        labels = np.array([part.labels[row.class_name] for row in validating])
        predicted = np.asarray(network.best.validation_logits)
        logits.append(predicted / metrics.fit_temperature(predicted, labels))
        label.append(labels)
        rows += validating
    predictions = Predictions(
        rows=rows,
        labels=np.concatenate(label),
        logits=np.concatenate(logits),
        class_names=records.class_names,
    )
    return comparison.Candidate(
        name=config.label,
        class_names=records.class_names,
        examples=stored_logits.Examples(**predictions.arrays()),
        temperature=1.0,
        **_measure(network),
    )


def prepare_head(*arguments: Any) -> list[staged_training.StagedTraining]:
    """Return the one network of train_run.prepare, if it trains a head alone."""
    networks = train_run.prepare(*arguments, writes=False)
    (stage,) = networks[0].stages
    if not stage.is_cached or stage.plan.train_from != head.FINAL_LAYER:
        raise DataError("not all layers below a new head are restored.")
    return networks


def _validation_splits(config: Config, records: Manifest) -> Iterator[Manifest]:
    """Yield the records, or with --folds once for each fold, as validation split."""
    if not config.folds:
        yield records
    for fold in range(config.folds):
        options = split.Config(seed=config.seed, folds=config.folds, fold=fold)
        chosen = split.split_rows(options, records).included("test")
        split_of = dict.fromkeys((row.sha256 for row in chosen), "validation")
        rows = tuple(
            dataclasses.replace(row, split=split_of.get(row.sha256, "train"))
            if row.split in ("train", "validation")
            else row
            for row in records.rows
        )
        yield dataclasses.replace(records, rows=rows)


def _measure(network: staged_training.StagedTraining) -> dict[str, Any]:
    """Return the size of a network, and the speed of its frozen layers."""
    trunk, tail = network.build(network.stages[0])
    rows, most = network.records.included("validation"), feature_cache.BATCH_SIZE
    images = image_batches.sample(network.records, rows, network.start.spec, most)
    run = feature_cache.as_stored(trunk, np.float32)
    call_s = min(timeit.repeat(lambda: run(images).numpy(), number=1, repeat=4))
    shapes = [variable.shape for model in (trunk, tail) for variable in model.variables]
    return {
        "model_bytes": 4 * sum(map(math.prod, shapes)),
        "images_per_s": len(images) / call_s,
    }
