"""Train one run: from settings, records and weights to a run folder."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.loop import device
from model.networks import architecture, head
from model.runs import finished_run, run_folder
from model.training import settings, stages, starting_point, training_session
from model.training.staged_training import StagedTraining
from model.weights import weight_settings
from pipeline.images import file_headers
from pipeline.records import manifest
from pipeline.records.manifest import Manifest
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError, UsageError
from pipeline.system.remote import mirror

SCRATCH = "scratch"  # run folder, inside the run, of the network from a random start


def train(config: settings.Config, comparison: Mapping[str, Any] | None = None) -> Path:
    """Train as configured; return the run folder.

    `comparison` has figures of networks of which this is the best; the run keeps them.
    """
    records = read_records(config.data)
    with run_folder.reserved(config.run_dir, config.ckpt) as directory:
        networks = prepare(config, records, directory)
        try:
            for network in networks:
                start_folder(config, network)
                network.folder.write_json("photos.json", _photos(records))
                if comparison:
                    network.folder.write_json(run_folder.COMPARISON, comparison)
        except OSError:  # such as a full disk
            for network in reversed(networks):
                network.folder.discard()
            raise
        training_session.TrainingSession(config, networks).run()
    return directory


def _photos(records: Manifest, *splits: str) -> dict[str, list[str]]:
    """Return the SHA-256 of the photos of splits, by default of all."""
    return {
        split: sorted({row.sha256 for row in records.included(split)})
        for split in splits or manifest.SPLITS
    }


def resume(run_dir: Path) -> Path:
    """Continue a stopped training, as if it had never stopped; return its folder."""
    directory, facts = finished_run.read_unfinished(run_dir)
    facts = mirror.localized(facts)
    # The defaults for these may differ from what was chosen then.
    chosen = {name: facts[name] for name in ("features", "precision")}
    config = settings.from_run(
        directory / run_folder.CONFIG_NAME, facts["settings"] | chosen
    )
    records = read_records(facts["data"]["path"])
    run_folder.check_records(directory, facts["data"]["manifest_digest"], records)
    if facts["versions"] != run_folder.versions():
        command_line.log(
            f"warning: {directory} was started with other versions of Graft, "
            "TensorFlow, Keras or NumPy; the result may differ in its last digits"
        )
    networks = prepare(config, records, directory)
    if networks[0].start.source != facts["weights"]:
        raise run_folder.RunError(
            f"{directory}: --ckpt={config.ckpt} holds other weights than when training "
            "started. Put the old file back, or train again."
        )
    training_session.TrainingSession(config, networks, resumed=True).run()
    return directory


def read_records(folder: str) -> Manifest:
    """Read records, and refuse those that cannot be trained on."""
    records = manifest.read(Path(folder))
    manifest.check_files(records)
    trained = {row.class_name for row in records.included("train")}
    if lacking := set(records.class_names) - trained:
        raise DataError(
            f"{records.directory}: no training photo of {', '.join(sorted(lacking))}. "
            "Add photos and convert again."
        )
    if not records.included("validation"):
        advice = "Add photos and convert again."
        if any(sum(n.values()) >= len(n) for n in records.counts().values()):
            advice = f"Make a new split: python -m pipeline.split {records.directory}"
        raise DataError(
            f"{records.directory}: no validation photo. A class needs three photos to "
            f"have one in each split. {advice}"
        )
    if divided := records.divided_groups():
        command_line.log(
            f"warning: groups of photos in more than one split: {len(divided):,}, so "
            "that the accuracy may be too high. Make a new split: python -m "
            f"pipeline.split {records.directory}"
        )
    return records


def prepare(
    config: settings.Config, records: Manifest, directory: Path, *, writes: bool = True
) -> list[StagedTraining]:
    """Return the network to train, and the one to compare it with; log what trains.

    Nothing trains yet, and the run folder `directory` is not created; without `writes`
    it never is.
    """
    setup = device.set_up(config.precision, run_folder.cache_dir(directory))
    start = starting_point.choose(config, records)
    starts = {"": (directory, start)}
    setup = device.choose_for_network(
        setup, config.precision, start.network, start.spec, start.features[-1]
    )
    if config.compare == "scratch":
        scratch = directory / SCRATCH
        file_system.refuse_link(scratch)
        random = dataclasses.replace(start, restored=None, weights=None)
        starts = {"pretrained": (directory, start), SCRATCH: (scratch, random)}
    numbers = {"num_classes": len(records.class_names)}
    numbers["num_training"] = len(records.included("train"))
    writes = writes and setup.process_group.is_chief
    networks = [
        StagedTraining(
            records,
            network_start,
            stages.plan_stages(network_start, config, **numbers),
            run_folder.RunFolder(directory=folder, writes=writes),
            setup,
            name=name,
        )
        for name, (folder, network_start) in starts.items()
    ]
    if config.compare == "scratch":
        _check_all_layers_train(networks[-1])
    command_line.log(_header(config, networks))
    return networks


def _check_all_layers_train(network: StagedTraining) -> None:
    """Refuse a comparison with random layers that no stage trains."""
    frozen = [stage.plan.frozen_layers for stage in network.stages]
    if untrained := frozenset.intersection(*frozen):
        lowest = network.start.network.head_positions()[0]
        raise UsageError(
            f"--compare=scratch: {min(untrained)} trains in no stage, so it would stay "
            "random in the network from a random start, and the comparison would show "
            f"nothing. Give --train_from={lowest}, which trains all layers of both."
        )


def _header(config: settings.Config, networks: Sequence[StagedTraining]) -> str:
    """Return what a training does, in labelled lines, followed by warnings."""
    setup, start, planned = networks[0].setup, networks[0].start, networks[0].stages
    group, spec, records = setup.process_group, start.spec, networks[0].records
    process = f"; process {group.rank + 1} of {group.size}" * (group.size > 1)
    lines = {"device": f"{setup.device_name}, {setup.precision}{process}"}
    if setup.precision == "float16":
        trained = {stage.plan.describe() for stage in planned}
        lines["precision"] = "float16 for frozen layers, float32 for training " + (
            trained.pop() if len(trained) == 1 else "the layers of each stage"
        )
    if setup.precision != "float32":
        lines["validation"] = (
            f"in {setup.precision}; evaluate.py computes in float32, which may change "
            "the result for a few photos"
        )
    lines |= {
        "weights": _weights_in_words(start),
        "network": start.network.name
        + f"; compared with a random start in {SCRATCH}/" * (config.compare != "none"),
        "input": spec.describe(),
        "preprocessing": spec.describe_pixels(),
        "head": f"{'kept' if config.keep_head else 'new'}, on "
        + head.describe(start.features, start.pooling, planned[0].plan.scaling),
        **_stage_lines(planned),
        "photos": ", ".join(
            f"{len(records.included(split)):,} {split}" for split in manifest.SPLITS
        ),
    }
    width = max(map(len, lines))
    return "\n".join(
        [f"{label:{width}}  {text}" for label, text in lines.items()]
        + [f"note: {note}" for note in (*start.notes(), *_notes_on_steps(planned))]
        + [f"warning: {line}" for network in networks for line in _warnings(network)]
    )


def _weights_in_words(start: starting_point.StartingPoint) -> str:
    weights = start.weights
    if weights is None:
        return "random"
    if weights.name == str(weights.path):
        return f"{weights.path} ({weights.variant})"
    return f"{weights.name}: {weights.variant}, {weights.path}"


def _stage_lines(planned: Sequence[stages.Stage]) -> dict[str, str]:
    """Return {label: text}: what trains, at which rate, for how long."""
    lines = {}
    for number, stage in enumerate(planned, start=1):
        learning = stage.config.learning
        trains = stage.plan.describe()
        if stage.is_solved:
            how = {"solver": "L-BFGS, L2 penalty chosen on the validation photos"}
        else:
            rate = f"{stage.base_rate:.3g} ({learning.policy}, {learning.optimizer})"
            size = stage.config.batch_size
            epochs = f"{stage.epochs} ({stage.steps:,} steps of {size} photos)"
            how = {"learning rate": rate, "epochs": epochs}
        if len(planned) == 1:
            return {"trains": trains, **how}
        lines[f"stage {number}"] = "; ".join(
            [f"{stage.name}: {trains}", *(f"{name} {how[name]}" for name in how)]
        )
    return lines


def _notes_on_steps(planned: Sequence[stages.Stage]) -> Iterator[str]:
    """Yield why stages train by steps a head that could be solved."""
    for stage in planned:
        if stage.step_flags:
            name = f"{stage.name}: " * bool(stage.name)
            flags = ", ".join(stage.step_flags)
            yield (
                f"{name}the head is trained by steps because of {flags}; otherwise "
                "L-BFGS would solve it"
            )


def _warnings(network: StagedTraining) -> Iterator[str]:
    """Yield what is likely to spoil the training of a network."""
    cut = network.stages[0].plan.cut
    if network.start.restored is None and cut != architecture.INPUT:
        name = f"{network.name}: " * bool(network.name)
        yield f"{name}the layers up to {cut} are random and stay frozen"
    if network.start.restored is not None:
        yield from weight_settings.preprocessing_warnings(network.start.spec)
    for stage in network.stages:
        warmup = stage.config.learning.warmup_steps
        if warmup >= stage.steps:
            yield (
                f"--warmup_steps={warmup}: a stage of {stage.steps} steps does not "
                "reach its full learning rate"
            )


def start_folder(config: settings.Config, network: StagedTraining) -> None:
    """Create the run folder of a network, with config.json and labels.txt."""
    start, setup, records = network.start, network.setup, network.records
    seen = _photos(records, "train", "validation")
    conversion = records.info.settings
    facts = {
        "settings": dataclasses.asdict(config),
        "device": setup.device_name,
        "precision": setup.precision,
        "network": start.network.name,
        "features": ",".join(start.features),
        "pooling": start.pooling,
        "scaling": network.stages[-1].plan.scaling,
        "epochs": network.epochs,
        "stages": [
            {
                "train_from": stage.plan.train_from,
                "cut": stage.plan.cut,
                "frozen": sorted(stage.plan.frozen),
                "optimizer": stage.config.learning.optimizer,
                "learning_rate": None if stage.is_solved else stage.base_rate,
            }
            for stage in network.stages
        ],
        "input_spec": dataclasses.asdict(start.spec),
        "weights": start.source,
        "data": {
            "path": str(records.directory.resolve()),
            "manifest_digest": records.digest,
            "photos_sha256": run_folder.digest_of(seen),
            "class_names": list(records.class_names),
            "counts": records.counts(),
            "resize_min": conversion.get("resize_min", file_headers.RESIZE_MIN),
            "white_level": conversion.get("white_level", 0),
        },
        "versions": run_folder.versions(),
    }
    network.folder.start(facts, records.class_names)
