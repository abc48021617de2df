"""What train.py does beside a training: several, plans, range tests."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.checkpoints import errors
from model.loop import optimization, training_loop
from model.runs import finished_run, run_folder
from model.training import (
    learning_rate_finder,
    plan_estimate,
    repeated_runs,
    settings,
    train_run,
)
from pipeline.system.errors import DataError
from tests import test_resume, test_reuse
from tests.support import processes


@pytest.fixture
def quick(tiny, shared_records, tmp_path):
    """Settings of a training of the tiny network."""
    arrays = test_reuse.tiny_arrays(tiny)
    return settings.Config(
        ckpt=test_reuse.write(tiny, tmp_path / "w.safetensors", arrays),
        data=str(shared_records),
        run_dir=str(tmp_path / "runs" / "run"),
        epochs=2,
        batch_size=16,
        learning_rate=1e-2,
        precision="float32",
        views=1,
    )


def plan_of(directory):
    return json.loads((directory / "repeats.json").read_text())


def test_folds_test_each_photo_once(quick, found, capsys, monkeypatch):
    config = dataclasses.replace(quick, folds=3)
    with monkeypatch.context() as patch, pytest.raises(test_resume.Killed):
        test_resume.kill_at(patch, 8)  # in the second fold
        repeated_runs.repeat(config)
    directory = Path(config.run_dir)
    repeated_runs.resume(directory)
    members = [directory / f"fold-{fold}" for fold in range(3)]
    tested = []
    for member in members:
        path = member / "evaluation" / "test.npz"
        with np.load(path) as examples:
            tested += examples["sha256"].tolist()
        seen = finished_run.read(str(member)).seen_photos()
        assert not seen & set(examples_of(path))
    assert sorted(tested) == sorted(row.sha256 for row in found.included())
    about = plan_of(directory)
    accuracies = list(about["accuracy"].values())
    assert about["mean"] == pytest.approx(np.mean(accuracies))
    assert about["standard_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert about["all_photos"]["num_examples"] == len(found.included())
    said = capsys.readouterr().out
    assert f"each of {len(found.included())} photos tested once" in said
    # Features do not depend on the split, so that all folds share them.
    (cache,) = (directory.parent / "cache").iterdir()
    assert cache.is_dir()
    # Each is a run that evaluate.py takes.
    done = processes.run_command("evaluate.py", f"--run_dir={members[2]}")
    assert done.returncode == 0, done.stderr


def examples_of(path):
    with np.load(path) as examples:
        return examples["sha256"].tolist()


def test_seeds_are_runs_of_their_own(quick):
    directory = repeated_runs.repeat(dataclasses.replace(quick, seeds=2, seed=5))
    about = plan_of(directory)
    assert set(about["accuracy"]) == {"seed-5", "seed-6"}
    assert "all_photos" not in about
    kernels = [
        finished_run.read(str(directory / name))
        .load_model()
        .get_layer("logits")
        .kernel.numpy()
        for name in about["accuracy"]
    ]
    assert (kernels[0] != kernels[1]).any()
    config = dataclasses.replace(quick, seed=5, run_dir=quick.run_dir + "1")
    single = train_run.train(config)
    assert (directory.parent / "latest").resolve() == single
    alone = (
        finished_run.read(str(single)).load_model().get_layer("logits").kernel.numpy()
    )
    assert (alone == kernels[0]).all()


@pytest.mark.slow
def test_seeds_are_not_resumed_on_changed_records(quick, tmp_path, found):
    """What one has trained on would test another."""
    records = tmp_path / "records"
    shutil.copytree(found.directory, records)
    config = dataclasses.replace(quick, data=str(records), seeds=2)
    directory = repeated_runs.repeat(config)
    done = processes.run_command("-m", "pipeline.split", records, "--seed=1")
    assert done.returncode == 0, done.stderr
    with pytest.raises(run_folder.RunError, match="not the records that"):
        repeated_runs.resume(directory)


def test_a_diverged_run_prevents_the_summary(quick, monkeypatch):
    """Although it has a best epoch and no snapshots, as those that have ended."""
    validate = training_loop.Training.validate

    def fail(self):
        if self.epoch:
            raise training_loop.NonFiniteLoss("The loss is nan in epoch 2.")
        return validate(self)

    config = dataclasses.replace(quick, seeds=2)
    with monkeypatch.context() as patch, pytest.raises(training_loop.NonFiniteLoss):
        patch.setattr(training_loop.Training, "validate", fail)
        repeated_runs.repeat(config)
    directory = Path(config.run_dir)
    assert finished_run.read(str(directory / "seed-0")).results()
    with pytest.raises(
        run_folder.RunError, match=r"seed-0: .* cannot be tested.* in epoch 2"
    ):
        repeated_runs.resume(directory)


@pytest.mark.slow
def test_folds_test_a_comparison_with_scratch(quick, capsys):
    directory = repeated_runs.repeat(
        dataclasses.replace(quick, folds=2, compare="scratch")
    )
    about = plan_of(directory)
    accuracies = [about["accuracy"], about["scratch"]["accuracy"]]
    assert [set(one) for one in accuracies] == [{"fold-0", "fold-1"}] * 2
    said = capsys.readouterr().out
    assert f"mean {about['mean']:.4f}" in said
    assert f"scratch, mean {about['scratch']['mean']:.4f}" in said


def test_layer_rates_of_a_later_stage_are_checked_first(quick):
    """Are refused before anything has trained."""
    method = {"rates": "conv55/*=2"}
    stages = ({"stage": "head"}, {"train_from": "conv2", **method})
    with pytest.raises(errors.MismatchedCheckpoint, match=r"conv55/.* fits no var"):
        train_run.train(dataclasses.replace(quick, stages=stages))
    assert not Path(quick.run_dir).exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"folds": 500}, DataError),
        ({"seeds": 2, "features": "conv55"}, errors.MismatchedCheckpoint),
    ],
    ids=str,
)
def test_runs_that_cannot_begin_leave_nothing(quick, change, error):
    train_run.train(dataclasses.replace(quick, run_dir=quick.run_dir + "0"))
    with pytest.raises(error):
        repeated_runs.repeat(dataclasses.replace(quick, **change))
    place = Path(quick.run_dir)
    assert not place.exists()
    assert (place.parent / "latest").resolve().name == "run0"


def test_the_progress_of_a_resumed_stage_ends_at_100_percent(
    quick, monkeypatch, capsys
):
    """Of a training that ends within an epoch, and was stopped within one."""
    config = dataclasses.replace(quick, steps=8, snapshot_steps=1)
    with monkeypatch.context() as patch, pytest.raises(test_resume.Killed):
        test_resume.kill_at(patch, 5)
        train_run.train(config)
    train_run.resume(Path(quick.run_dir))
    said = capsys.readouterr().err
    assert re.findall(r"train: +(\d+)%", said)[-1] == "100"


def test_the_progress_of_a_stage_that_is_stopped_early_ends_at_100_percent(
    quick, capsys
):
    learning = optimization.Settings(early_stopping=1)
    train_run.train(
        dataclasses.replace(quick, epochs=9, learning_rate=1e-30, learning=learning)
    )
    percent = re.findall(r"train: +(\d+)%", capsys.readouterr().err)
    assert percent[-1] == "100"


def test_a_damaged_repeats_file_is_an_error(tmp_path):
    (tmp_path / "repeats.json").write_text("{")
    with pytest.raises(run_folder.RunError, match=r"repeats\.json: cannot be read"):
        repeated_runs.resume(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 1}, "--folds=1: expected 2 or more, or 0"),
        ({"folds": 3, "seeds": 2}, "--folds and --seeds: expected only one"),
    ],
)
def test_folds_and_seeds_exclude_each_other(quick, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(quick, **change)


@pytest.mark.parametrize(("pooling", "size"), [("average", 6), ("statistics", 12)])
def test_a_pooling_head_trains_and_is_kept(quick, pooling, size, capsys):
    where = {"features": "pool2", "pooling": pooling}
    pooled = dataclasses.replace(quick, **where, epochs=2, learning_rate=0)
    first = train_run.train(pooled)
    finished = finished_run.read(str(first))
    kernel = finished.load_model().get_layer("logits").kernel
    assert kernel.shape == (size, 3)
    lowest = min(result["validation_loss"] for result in finished.results())
    again = dataclasses.replace(
        pooled,
        ckpt=str(first / "model.keras"),
        run_dir=quick.run_dir + "2",
        keep_head=True,
        learning_rate=1e-30,
        epochs=1,
    )
    (result,) = finished_run.read(str(train_run.train(again))).results()
    assert result["validation_loss"] == pytest.approx(lowest, rel=1e-4)
    rates = [one["learning_rate"] for one in finished.results()]
    # By the 6 numbers of each kind; 0.75 of it two steps into a cosine of six.
    assert rates[0] == pytest.approx(0.75 * 0.9216 / 6)
    seat = dataclasses.replace(again, features="", pooling="auto")
    seat = dataclasses.replace(seat, run_dir=quick.run_dir + "4")
    capsys.readouterr()
    (result,) = finished_run.read(
        str(train_run.train(seat))
    ).results()  # where the run had it
    said = capsys.readouterr().err
    assert re.search(r"^head +kept, on", said, re.M)
    assert "not used" not in said
    assert result["validation_loss"] == pytest.approx(lowest, rel=1e-4)
    deeper = dataclasses.replace(again, features="conv2", run_dir=quick.run_dir + "3")
    with pytest.raises(
        errors.MismatchedCheckpoint, match="sits on pool2, the new one on conv"
    ):
        train_run.train(deeper)
    other = dataclasses.replace(again, pooling="none", run_dir=quick.run_dir + "3")
    with pytest.raises(errors.MismatchedCheckpoint, match="--pooling"):
        train_run.train(other)


@pytest.mark.slow
def test_a_kept_head_begins_with_the_loss_it_had(quick, found):
    """A new run begins at the accuracy, and the loss, that the old one had."""
    first = train_run.train(dataclasses.replace(quick, hidden=6, epochs=4))
    results = finished_run.read(str(first)).results()
    lowest = min(result["validation_loss"] for result in results)
    again = dataclasses.replace(
        quick,
        ckpt=str(first / "model.keras"),
        run_dir=quick.run_dir + "2",
        hidden=6,
        keep_head=True,
        learning_rate=1e-30,
        epochs=1,
    )
    second = train_run.train(again)
    (result,) = finished_run.read(str(second)).results()
    assert result["validation_loss"] == pytest.approx(lowest, rel=1e-4)
    ledger = json.loads((second / "ledger.json").read_text())
    status = {entry["variable"]: entry["status"] for entry in ledger["tensors"]}
    assert status["logits/kernel"] == status["head_hidden/bias"] == "restored"
    assert "new" not in status.values()
    new_head = dataclasses.replace(again, keep_head=False, run_dir=quick.run_dir + "3")
    (other,) = finished_run.read(str(train_run.train(new_head))).results()
    assert other["validation_loss"] == pytest.approx(np.log(3), rel=0.05)
    for change, message in (
        ({"hidden": 7}, r"head_hidden/kernel of \[7, 7\].*found \[7, 6\]"),
        ({"hidden": 0}, r"logits/kernel of \[7, 3\].*found \[6, 3\]"),
        ({"ckpt": quick.ckpt}, r"Expected head_hidden/kernel.*found none"),
    ):
        with pytest.raises(errors.MismatchedCheckpoint, match=message):
            train_run.train(dataclasses.replace(again, **change, run_dir=""))
    (first / "labels.txt").write_text("red\ngreen\nblue\n")
    with pytest.raises(
        errors.MismatchedCheckpoint, match="same classes in the same order"
    ):
        train_run.train(dataclasses.replace(again, run_dir=""))


def test_find_rate_writes_curve_and_picture(quick, capsys):
    directory = learning_rate_finder.find_rate(quick)
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "labels.txt",
        "find_rate.json",
        "find_rate.png",
    }
    about = json.loads((directory / "find_rate.json").read_text())
    assert len(about["rates"]) == len(about["losses"]) > 20
    assert "learning" in capsys.readouterr().out


def plan_of_training(config):
    return plan_estimate.plan(config, least_s=0.05)


class TestPlan:
    def test_the_plan_lists_layers_steps_and_features(self, quick):
        stages = (
            {"stage": "head", "epochs": 3},
            {"stage": "deeper", "train_from": "conv2", "views": 0, "steps": 7},
            {"stage": "some", "train": "fc3,logits"},
            {"stage": "again"},
        )
        text = plan_of_training(dataclasses.replace(quick, stages=stages))
        assert not Path(quick.run_dir).exists()
        parts = re.split(r"^(?:deeper|some|again):$", text, flags=re.M)
        head, deeper, some, again = parts
        assert re.search(r"conv1 +8 x 8 x 4 +112 +cached", head)
        assert re.search(r"logits +3 +24 +trained", head)
        assert "24 parameters train" in head
        assert "9 steps of 16 photos in 3 epochs" in head
        assert "features of 54 views" in head
        assert re.search(r"conv1 .*frozen", deeper)
        assert re.search(r"conv2 .*trained", deeper)
        assert "7 steps of 16 photos in 3 epochs" in deeper
        assert "waits for" in deeper
        assert re.search(r"fc4 .*frozen", some)
        assert "features of" not in again  # those of the first stage serve it
        assert re.search(r"altogether about [0-9.]+ (s|min), [0-9.]+ GB", again)

    def test_the_plan_counts_missing_features_alone(self, quick):
        train_run.train(quick)
        text = plan_of_training(dataclasses.replace(quick, run_dir=quick.run_dir + "2"))
        assert "features of" not in text

    def test_the_plan_of_several_trainings_multiplies_their_time(self, quick):
        one, five = (
            plan_of_training(dataclasses.replace(quick, seeds=seeds))
            for seeds in (1, 5)
        )
        assert "such trainings" not in one
        assert "5 such trainings, altogether about" in five

    def test_the_plan_names_compared_networks(self, quick):
        text = plan_of_training(dataclasses.replace(quick, compare="scratch"))
        assert "pretrained:\n" in text
        assert "scratch:\n" in text

    @pytest.mark.slow
    def test_the_plan_is_near_the_time_of_the_run(self, quick, found):
        """A network that takes a second an epoch, whole."""
        config = dataclasses.replace(
            quick, ckpt="none", arch="cifar_cnn", epochs=4, batch_size=16
        )
        (network,) = train_run.prepare(config, found, Path(config.run_dir))
        (estimate,) = plan_estimate.estimate_stages(network, found)
        results = finished_run.read(str(train_run.train(config))).results()
        # The first epoch has TensorFlow's preparations.
        took = sum(result["seconds"] for result in results[1:]) * 4 / 3
        assert 0.4 < estimate.seconds / took < 2.5  # other processes may be at work


def test_the_age_of_the_process_is_plausible():
    assert 0.1 < plan_estimate.age_s() < 1e5


def test_the_summary_of_folds_by_hand():
    figures = {
        "fold-0": {"accuracy": 0.5, "num_examples": 10},
        "fold-1": {"accuracy": 0.75, "num_examples": 4},
    }
    summary = repeated_runs.summarise(figures, folds=True)
    assert summary["mean"] == 0.625
    assert summary["standard_deviation"] == pytest.approx(0.125 * 2**0.5)
    assert summary["all_photos"]["accuracy"] == pytest.approx(8 / 14)
    text = repeated_runs.as_text(summary)
    assert text.splitlines()[-1].startswith("each of 14 photos")
