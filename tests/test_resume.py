"""Stages, snapshots and lockstep: a stopped training ends as an undisturbed one."""

import contextlib
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.checkpoints import errors
from model.loop import train_step
from model.runs import finished_run, run_folder
from model.training import settings, train_run
from pipeline.system.errors import DataError
from tests import test_reuse
from tests.support import files, processes

TIMES = {"seconds", "images_per_s"}
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


class Killed(BaseException):
    pass


@pytest.fixture
def config(tiny, shared_records, tmp_path):
    """Three stages of the tiny network, with dropout in its layers and its head."""
    arrays = test_reuse.tiny_arrays(tiny)
    return settings.Config(
        ckpt=test_reuse.write(tiny, tmp_path / "w.safetensors", arrays),
        data=str(shared_records),
        run_dir=str(tmp_path / "run"),
        batch_size=10,
        learning_rate=1e-2,
        precision="float32",
        hidden=5,
        snapshot_steps=2,
        stages=STAGES,
    )


def results_of(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in TIMES}
        for line in lines
    ]


def outcome(directory):
    """All that a training decides: weights, figures, ledger."""
    model = finished_run.read(str(directory)).load_model()
    values = [value.tobytes() for value in model.get_weights()]
    ledger = json.loads((directory / "ledger.json").read_text())
    calibration = (directory / "calibration.json").read_text()
    return values, results_of(directory), ledger["frozen"], calibration


def kill_at(monkeypatch, batch):
    """Lets training end in front of a batch, counted over all stages."""
    trained = train_step.TrainStep.__call__
    count = 0

    def stop(self, *arguments):
        nonlocal count
        count += 1
        if count == batch:
            raise Killed
        return trained(self, *arguments)

    monkeypatch.setattr(train_step.TrainStep, "__call__", stop)


_undisturbed = []


@pytest.fixture
def undisturbed(config, tmp_path):
    """Made once: it is the same whenever it is made."""
    if not _undisturbed:
        config = dataclasses.replace(config, run_dir=f"{tmp_path}/all")
        _undisturbed.append(outcome(train_run.train(config)))
    return _undisturbed[0]


def test_stages_follow_each_other(config, undisturbed):
    _, results, frozen, _ = undisturbed
    assert [result["stage"] for result in results] == [
        *["head"] * 2,
        *["deeper"] * 3,  # 5 batches make 3 steps, so 7 steps end in the third epoch
        "patterns",
    ]
    assert [result["epoch"] for result in results] == list(range(1, 7))
    assert {entry["variable"].split("/")[0] for entry in frozen} == {"conv1"}


@pytest.mark.slow
def test_a_training_killed_anywhere_resumes_to_the_same_bytes(
    config, undisturbed, monkeypatch
):
    """In each stage, of which the second is killed twice."""
    for batch in (6, 12, 27):
        directory = Path(config.run_dir)
        for place in (batch, 2)[: 2 if batch == 12 else 1]:
            with monkeypatch.context() as patch, contextlib.suppress(Killed):
                kill_at(patch, place)
                if directory.exists():
                    train_run.resume(directory)
                else:
                    train_run.train(config)
        if directory.exists():
            train_run.resume(directory)
        else:
            train_run.train(config)
        assert outcome(directory) == undisturbed, batch
        assert not (directory / "checkpoints").exists()
        shutil.rmtree(directory)


def test_a_resumed_head_stays_on_its_layers(config, monkeypatch):
    """Though the default place of a head is another one by now."""
    config = dataclasses.replace(config, stages=(), hidden=0, epochs=2)
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        kill_at(patch, 8)
        train_run.train(dataclasses.replace(config, features="pool1,pool2"))
    path = Path(config.run_dir) / "config.json"
    about = json.loads(path.read_text())
    assert about["features"] == "pool1,pool2"
    about["settings"]["features"] = ""
    path.write_text(json.dumps(about))
    directory = train_run.resume(Path(config.run_dir))
    model = finished_run.read(str(directory)).load_model()
    assert model.get_layer("logits").kernel.shape == (4 + 6, 3)


@pytest.mark.slow
def test_a_damaged_snapshot_is_replaced_by_the_one_before(
    config, undisturbed, monkeypatch, capsys
):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 20)
        train_run.train(config)
    directory = Path(config.run_dir)
    newest = max((directory / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    train_run.resume(directory)
    assert f"{newest} is damaged" in capsys.readouterr().err
    assert outcome(directory) == undisturbed


@pytest.mark.slow
def test_runs_that_cannot_be_resumed_are_refused(
    config, monkeypatch, tmp_path, shared_records
):
    directory = Path(config.run_dir)
    with pytest.raises(run_folder.RunError, match="no run, or one"):
        train_run.resume(directory)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 20)
        train_run.train(config)
    with pytest.raises(run_folder.RunError, match=f"--resume={directory}"):
        train_run.train(config)
    about = (directory / "config.json").read_text()
    other = json.loads(about)
    other["data"]["manifest_digest"] = "0" * 64
    (directory / "config.json").write_text(json.dumps(other))
    with pytest.raises(run_folder.RunError, match="not the records that"):
        train_run.resume(directory)
    other = json.loads(about)
    other["weights"]["tensors_sha256"] = "0" * 64
    (directory / "config.json").write_text(json.dumps(other))
    with pytest.raises(run_folder.RunError, match="holds other weights"):
        train_run.resume(directory)
    other = json.loads(about)
    other["settings"]["hidden"] = 6
    (directory / "config.json").write_text(json.dumps(other))
    with pytest.raises(run_folder.RunError, match="snapshots are of another training"):
        train_run.resume(directory)
    (directory / "config.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        train_run.resume(directory)
    (directory / "config.json").write_text(about)
    train_run.resume(directory)
    with pytest.raises(run_folder.RunError, match="training is complete"):
        train_run.resume(directory)


@pytest.mark.slow
def test_a_comparison_with_scratch_trains_both_on_the_same_batches(
    config, undisturbed, monkeypatch, capsys
):
    """The first is as if it were alone; the second sees the same batches."""
    config = dataclasses.replace(config, compare="scratch")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 33)
        train_run.train(config)
    directory = Path(config.run_dir)
    train_run.resume(directory)
    assert outcome(directory) == undisturbed
    scratch = directory / train_run.SCRATCH
    assert outcome(scratch)[0] != undisturbed[0]
    assert json.loads((scratch / "ledger.json").read_text())["ckpt"] == "none"
    assert [r["epoch"] for r in results_of(scratch)] == list(range(1, 7))
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("epoch")
    ]
    assert all(" | pretrained: " in line and " | scratch: " in line for line in lines)
    assert (directory.parent / "latest").resolve() == directory


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
        ends = [line for line in lines if f"stage {number} of 2: 100%" in line]
        assert len(ends) == 2, lines
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
    ("patterns", "moved"),
    [
        ("fc*", {"fc3", "fc4"}),
        ("conv2,logits", {"conv2", "logits"}),
        ("*", {"conv1", "conv2", "fc3", "fc4", "head_hidden", "logits"}),
    ],
)
def test_layers_named_by_patterns_train(config, patterns, moved):
    config = dataclasses.replace(config, train=patterns, stages=(), epochs=1)
    directory = train_run.train(config)
    ledger = json.loads((directory / "ledger.json").read_text())
    frozen = {entry["variable"].split("/")[0] for entry in ledger["frozen"]}
    everything = {"conv1", "conv2", "fc3", "fc4", "head_hidden", "logits"}
    assert frozen == everything - moved


def small_training(records, directory, *more):
    return (
        *("train.py", f"--data={records}", f"--run_dir={directory}", "--ckpt=none"),
        *("--arch=cifar_cnn", "--epochs=20", "--batch_size=8", "--snapshot_steps=3"),
        *more,
    )


@pytest.mark.slow
def test_signals_take_snapshots_and_stop(shared_records, tmp_path):
    """SIGUSR1 takes a snapshot, kill -9 nothing, SIGTERM takes one and stops."""
    all_at_once = tmp_path / "all"
    done = processes.run_command(*small_training(shared_records, all_at_once))
    assert done.returncode == 0, done.stderr

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=files.ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(process, happened):
        deadline = time.monotonic() + 120
        while not happened():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    directory = tmp_path / "run"
    checkpoints = directory / "checkpoints"

    def steps():
        found = checkpoints.glob("step-*.npz") if checkpoints.exists() else ()
        return [int(path.stem[5:]) for path in found]

    arguments = small_training(shared_records, directory, "--snapshot_steps=0")
    with start(*arguments) as process:
        wait_for(process, lambda: (directory / "metrics.jsonl").exists())
        wait_for(process, lambda: (directory / "metrics.jsonl").stat().st_size)
        assert not steps()
        process.send_signal(signal.SIGUSR1)
        wait_for(process, steps)
        process.kill()
    first = max(steps())
    with start("train.py", f"--resume={directory}") as process:
        wait_for(process, lambda: len(results_of(directory)) > first // 6 + 2)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"resumed after step {first}" in said
    assert f"to continue: python train.py --resume={directory}" in said
    assert "Traceback" not in said
    assert max(steps()) > first
    done = processes.run_command("train.py", f"--resume={directory}")
    assert done.returncode == 0, done.stderr
    assert outcome(directory) == outcome(all_at_once)
