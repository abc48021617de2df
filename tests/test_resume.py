"""Stages, snapshots and comparisons: a stopped training ends as an undisturbed one."""

import dataclasses
import json
import math
import shutil
import signal
from pathlib import Path

import pytest

from model.checkpoints import errors
from model.runs import finished_run, run_folder
from model.training import head_solver, train_run
from tests.support import processes, stopped_trainings

STAGES = (
    {"stage": "head", "epochs": 2},
    {
        "stage": "deeper",
        "train_from": "conv2",
        "steps": 7,
        "views": 0,
        "optimizer": "sgd",
        "momentum": 0.9,
        "ema": 0.9,
        "iter_size": 2,
        "rates": "logits/*=10,*/bias=2:0",
        "start": "last",
    },
    {"stage": "patterns", "train": "fc3,logits", "epochs": 1, "weight_decay": 0.01},
)


@pytest.fixture
def config(tiny_config):
    """Three stages of the tiny network, with dropout in its layers and its head."""
    changes = {"batch_size": 10, "views": 2, "hidden": 5, "snapshot_steps": 2}
    return dataclasses.replace(tiny_config, stages=STAGES, **changes)


def results_of(directory):
    """Return the lines of metrics.jsonl, without the times."""
    results = finished_run.FinishedRun(directory=directory, config={}).results()
    for result in results:
        del result["seconds"]
        result.pop("images_per_s", None)  # a head that is solved has none
    return results


def outcome(directory):
    """Return all that a training decides: weights, figures, ledger."""
    model = finished_run.read(str(directory)).load_model()
    values = [value.tobytes() for value in model.get_weights()]
    ledger = json.loads((directory / "ledger.json").read_text())
    calibration = json.loads((directory / "calibration.json").read_text())
    del calibration["run"]  # depends on the name of the folder
    return values, results_of(directory), ledger["frozen"], calibration


_undisturbed = []


@pytest.fixture
def undisturbed(config, tmp_path):
    """The outcome of the three stages, of which one process computes it once."""
    if not _undisturbed:
        config = dataclasses.replace(config, run_dir=f"{tmp_path}/all")
        _undisturbed.append(outcome(train_run.train(config)))
    return _undisturbed[0]


def test_stages_follow_each_other(undisturbed):
    _, results, frozen, _ = undisturbed
    assert [result["stage"] for result in results] == [
        *["head"] * 2,
        *["deeper"] * 3,  # 5 batches make 3 steps, so 7 steps end in the third epoch
        "patterns",
    ]
    assert [result["epoch"] for result in results] == list(range(1, 7))
    assert {entry["variable"].split("/")[0] for entry in frozen} == {"conv1"}


@pytest.mark.slow
def test_a_training_killed_anywhere_resumes_to_the_same_bytes(config, undisturbed):
    directory = Path(config.run_dir)
    # In each stage; in the second twice.
    for first, *others in ((6,), (12, 2), (27,)):
        with stopped_trainings.at_batch(first):
            train_run.train(config)
        for batch in others:
            with stopped_trainings.at_batch(batch):
                train_run.resume(directory)
        train_run.resume(directory)
        assert outcome(directory) == undisturbed, first
        assert not (directory / "checkpoints").exists()
        shutil.rmtree(directory)


@pytest.mark.usefixtures("only_trained")
def test_a_solved_head_and_deeper_layers_after_it_resume_to_the_same_bytes(config):
    """The head sees scaled features in both stages, with finite gradients."""
    deeper = {"stage": "deeper", "train_from": "fc3", "epochs": 1, "dropout": 0.0}
    config = dataclasses.replace(
        config,
        hidden=0,
        batch_size=64,
        snapshot_steps=1,
        stages=({"stage": "head"}, deeper),
        epochs=0,
        learning_rate=0.0,
    )
    directory = train_run.train(config)
    expected = outcome(directory)
    facts = json.loads((directory / "config.json").read_text())
    assert [stage["optimizer"] for stage in facts["stages"]] == ["lbfgs", "adam"]
    assert facts["scaling"] in ("length", "roots")
    *solved, last = expected[1]
    assert [result["stage"] for result in solved] == ["head"] * len(solved)
    assert [result["l2"] for result in solved] == [
        *head_solver.PENALTIES[: len(solved)]
    ]
    best = min(result["validation_loss"] for result in solved)
    assert math.isfinite(last["loss"])
    # The second stage begins with what was solved, and makes one small step.
    assert last["validation_loss"] == pytest.approx(best, rel=0.5)
    shutil.rmtree(directory)
    with stopped_trainings.at_batch(2):  # while the head is solved
        train_run.train(config)
    with stopped_trainings.at_batch(len(solved)):  # in front of the deeper layers
        train_run.resume(directory)
    train_run.resume(directory)
    assert outcome(directory) == expected


def test_a_resumed_head_stays_on_its_layers(config):
    """The default position of a head may have changed."""
    changes = {"stages": (), "hidden": 0, "epochs": 2, "snapshot_steps": 0}
    config = dataclasses.replace(config, **changes)
    with stopped_trainings.at_batch(8):
        train_run.train(dataclasses.replace(config, features="pool1,pool2"))
    path = Path(config.run_dir) / "config.json"
    facts = json.loads(path.read_text())
    assert facts["features"] == "pool1,pool2"
    facts["settings"]["features"] = ""
    path.write_text(json.dumps(facts))
    directory = train_run.resume(Path(config.run_dir))
    model = finished_run.read(str(directory)).load_model()
    assert model.get_layer("logits").kernel.shape == (4 + 6, 3)


@pytest.mark.slow
def test_a_damaged_snapshot_is_replaced_by_the_one_before(config, undisturbed, capsys):
    with stopped_trainings.at_batch(20):
        train_run.train(config)
    directory = Path(config.run_dir)
    newest = max((directory / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    train_run.resume(directory)
    assert f"{newest} is damaged" in capsys.readouterr().err
    assert outcome(directory) == undisturbed


@pytest.mark.slow
def test_runs_that_cannot_be_resumed_are_refused(config):
    directory = Path(config.run_dir)
    with pytest.raises(run_folder.RunError, match="is not a run, or one"):
        train_run.resume(directory)
    with stopped_trainings.at_batch(20):
        train_run.train(config)
    with pytest.raises(run_folder.RunError, match=f"--resume={directory}"):
        train_run.train(config)
    path = directory / "config.json"
    before = path.read_text()
    for section, name, value, message in (
        ("data", "manifest_digest", "0" * 64, "not the records that"),
        ("weights", "tensors_sha256", "0" * 64, "holds other weights"),
        ("settings", "learning_rate", 0.5, "another training .* was edited"),
    ):
        facts = json.loads(before)
        facts[section][name] = value
        path.write_text(json.dumps(facts))
        with pytest.raises(run_folder.RunError, match=message):
            train_run.resume(directory)
    path.write_text(before)
    photos = (directory / "photos.json").rename(directory / "moved")
    with pytest.raises(run_folder.RunError, match=r"photos\.json: damaged"):
        train_run.resume(directory)
    photos.rename(directory / "photos.json")
    train_run.resume(directory)
    with pytest.raises(run_folder.RunError, match="training is complete"):
        train_run.resume(directory)


@pytest.mark.slow
def test_a_comparison_with_scratch_trains_both_on_the_same_batches(
    config, undisturbed, capsys
):
    """The first network trains as if it were alone."""
    # A last stage in which all layers train, as a comparison needs, but hardly move.
    everything = {"train_from": "conv1", "epochs": 1, "learning_rate": 1e-30}
    stages = (*STAGES, {**everything, "views": 0})
    config = dataclasses.replace(config, compare="scratch", stages=stages)
    with stopped_trainings.at_batch(33):
        train_run.train(config)
    directory = Path(config.run_dir)
    train_run.resume(directory)
    values, results, *_ = outcome(directory)
    assert (values, results[:6]) == undisturbed[:2]
    scratch = directory / train_run.SCRATCH
    assert outcome(scratch)[0] != undisturbed[0]
    assert json.loads((scratch / "ledger.json").read_text())["ckpt"] == "none"
    assert [r["epoch"] for r in results_of(scratch)] == list(range(1, 8))
    lines = capsys.readouterr().err.splitlines()
    epochs = [line for line in lines if line.startswith("epoch")]
    assert all(" | pretrained: " in line and " | scratch: " in line for line in epochs)
    assert (directory.parent / "latest").resolve() == directory


@pytest.mark.usefixtures("only_trained")
def test_a_stage_starts_from_the_best_or_the_last(config, tmp_path, capsys):
    """The second stage moves nothing, so that it ends where it started."""
    still = {"stage": "still", "epochs": 1, "learning_rate": 1e-30}
    moving = {"stage": "moving", "epochs": 3, "learning_rate": 1e-3}
    moving |= {"policy": "exp", "gamma": 2.2}  # to 60, which is too much
    losses = {}
    for start in ("best", "last"):
        stages = (moving, {**still, "start": start})
        directory = train_run.train(
            dataclasses.replace(config, stages=stages, run_dir=f"{tmp_path}/{start}")
        )
        losses[start] = [r["validation_loss"] for r in results_of(directory)]
    # Each stage has a progress bar of its own, so that its time left is right.
    lines = capsys.readouterr().err.splitlines()
    for number in (1, 2):
        bars = [line for line in lines if f"stage {number} of 2:" in line]
        assert sum(":   0%" in line for line in bars) == 2, bars
        assert sum(":100%" in line.replace(" ", "") for line in bars) >= 2, bars
    assert losses["best"][:3] == losses["last"][:3]
    assert losses["best"][3] == pytest.approx(min(losses["best"][:3]), rel=1e-5)
    assert losses["last"][3] == pytest.approx(losses["last"][2], rel=1e-5)
    assert losses["last"][2] > min(losses["last"][:3])


@pytest.mark.parametrize("patterns", ["fc9,logits", ",", "logits,"])
def test_patterns_that_fit_no_layer_are_refused(config, patterns):
    config = dataclasses.replace(config, train=patterns, stages=())
    with pytest.raises(errors.MismatchedCheckpoint, match="fits no layer up to"):
        train_run.train(config)
    assert not Path(config.run_dir).exists()


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ("fc*", {"conv1", "conv2", "head_hidden", "logits"}),
        ("conv2,logits", {"conv1", "fc3", "fc4", "head_hidden"}),
        ("*", set()),
    ],
)
def test_layers_named_by_patterns_train(config, found, patterns, frozen):
    config = dataclasses.replace(config, train=patterns, stages=())
    (network,) = train_run.prepare(config, found, Path(config.run_dir))
    assert network.stages[0].plan.frozen_layers == frozen


@pytest.mark.slow
def test_signals_take_snapshots_and_stop(shared_records, tmp_path):
    """SIGUSR1 takes a snapshot, kill -9 nothing, SIGTERM takes one and stops."""
    flags = (
        *(f"--data={shared_records}", "--ckpt=none", "--arch=cifar_cnn"),
        *("--epochs=20", "--batch_size=8"),
    )
    at_once, directory = tmp_path / "all", tmp_path / "run"
    done = processes.run_command("train.py", *flags, f"--run_dir={at_once}")
    assert done.returncode == 0, done.stderr

    def steps():
        return [int(path.stem[5:]) for path in directory.glob("checkpoints/step-*.npz")]

    def num_epochs():
        return len(results_of(directory))

    metrics = directory / "metrics.jsonl"
    with processes.start_command("train.py", *flags, f"--run_dir={directory}") as train:
        processes.wait_until(train, lambda: metrics.exists() and num_epochs())
        assert not steps()
        train.send_signal(signal.SIGUSR1)
        processes.wait_until(train, steps)
        train.kill()
    first = max(steps())
    with processes.start_command("train.py", f"--resume={directory}") as train:
        processes.wait_until(train, lambda: num_epochs() > first // 6 + 2)
        train.send_signal(signal.SIGTERM)
        _, stderr = train.communicate(timeout=60)
    assert train.returncode == 128 + signal.SIGTERM
    assert f"resumed after step {first}" in stderr
    assert f"to continue: python train.py --resume={directory}" in stderr
    assert "Traceback" not in stderr
    assert max(steps()) > first
    done = processes.run_command("train.py", f"--resume={directory}")
    assert done.returncode == 0, done.stderr
    assert outcome(directory) == outcome(at_once)
