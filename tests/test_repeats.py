"""What train.py does besides a training: several, plans, range tests, kept heads."""

import dataclasses
import errno
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import evaluate
from model.checkpoints import errors
from model.evaluation import evaluation_settings
from model.evaluation.stored_logits import Predictions
from model.loop import metrics, optimization, training_loop
from model.reports import report_facts
from model.runs import finished_run, run_folder
from model.training import (
    learning_rate_finder,
    plan_estimate,
    settings,
    train_run,
    training_session,
)
from model.training.repeats import repeated_runs
from pipeline import split
from pipeline.records.manifest_row import Row
from pipeline.system import command_line, config_flags
from pipeline.system.errors import DataError, UsageError
from tests.support import networks, stopped_trainings


def content(directory, name="repeats.json"):
    return json.loads((directory / name).read_text())


def final_kernel(run_dir):
    model = finished_run.read(str(run_dir)).load_model()
    return model.get_layer("logits").kernel.numpy()


def test_folds_test_each_photo_once(tiny_config, found, tmp_path, capsys):
    records = tmp_path / "records"
    shutil.copytree(found.directory, records)
    config = dataclasses.replace(tiny_config, folds=2, data=str(records))
    with stopped_trainings.at_batch(6):  # in the second fold
        repeated_runs.repeat(config)
    directory = Path(config.run_dir)
    assert [path.name for path in directory.glob("fold-*")] == ["fold-0"]
    # Folds have records of their own, which a new split or conversion leaves alone.
    split.resplit(split.Config(data=str(records), seed=7))
    repeated_runs.resume(directory)
    assert content(directory)["manifest_digest"] == found.digest
    tested = []
    for fold in range(2):
        run_dir = directory / f"fold-{fold}"
        with np.load(run_dir / "evaluation" / "test.npz") as examples:
            photos = examples["sha256"].tolist()
        assert not finished_run.read(str(run_dir)).seen_photos() & set(photos)
        tested += photos
    assert sorted(tested) == sorted(row.sha256 for row in found.included())
    summary = content(directory)
    accuracies = list(summary["accuracy"].values())
    assert summary["mean"] == pytest.approx(np.mean(accuracies))
    assert summary["standard_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert summary["all_photos"]["num_examples"] == len(tested)
    out, err = capsys.readouterr()
    assert f"each of {len(tested)} photos tested once" in out
    doubts = content(directory, "evaluation/doubts.json")
    assert doubts["num_examples"] == len(tested)
    assert doubts["source"].endswith("by the runs of all folds")
    assert err.count("doubtful") == 1  # no fold has doubts of its own
    assert not (directory / "fold-0" / "evaluation" / "doubts.csv").exists()
    # Features do not depend on the split, so that all folds share them.
    assert len(list((directory.parent / "cache").iterdir())) == 1
    # Each is a run that evaluate.py takes, even after another conversion.
    for path in sorted(records.glob("*.tfrecord")):
        (tmp_path / "later").write_bytes(b"other records")
        (tmp_path / "later").replace(path)
    evaluate.evaluate(evaluation_settings.Config(run_dir=str(run_dir), report=False))


@pytest.mark.usefixtures("only_trained")
def test_seeds_are_runs_of_their_own(tiny_config, monkeypatch, capsys):
    """Also if they were killed in front of the first snapshot, and resumed."""

    class Killed(BaseException):
        pass

    def kill(_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training_session.TrainingSession, "run", kill)
        repeated_runs.repeat(dataclasses.replace(tiny_config, seeds=2, seed=5))
    directory = Path(tiny_config.run_dir)
    assert not (directory / "seed-5" / run_folder.CHECKPOINTS).exists()
    capsys.readouterr()
    repeated_runs.resume(directory)
    # It is not called complete.
    assert "no snapshot exists yet" in capsys.readouterr().err
    summary = content(directory)
    assert set(summary["accuracy"]) == {"seed-5", "seed-6"}
    assert "all_photos" not in summary
    kernels = [final_kernel(directory / name) for name in summary["accuracy"]]
    assert (kernels[0] != kernels[1]).any()
    run_dir = f"{directory}1"
    alone = train_run.train(dataclasses.replace(tiny_config, seed=5, run_dir=run_dir))
    assert (directory.parent / "latest").resolve() == alone
    assert (final_kernel(alone) == kernels[0]).all()
    # What one has trained on would test another.
    changed = summary | {"manifest_digest": "0" * 64}
    (directory / "repeats.json").write_text(json.dumps(changed))
    with pytest.raises(run_folder.RunError, match="not the records that"):
        repeated_runs.resume(directory)


@pytest.mark.usefixtures("only_trained")
def test_a_diverged_run_prevents_the_summary(tiny_config, monkeypatch):
    """Although it has a best epoch and no snapshots, as those that have ended."""
    validate = training_loop.StepwiseTraining.validate

    def fail(self):
        if self.epoch:
            raise training_loop.NonFiniteLoss("The loss is nan in epoch 2.")
        return validate(self)

    with monkeypatch.context() as patch, pytest.raises(training_loop.NonFiniteLoss):
        patch.setattr(training_loop.StepwiseTraining, "validate", fail)
        repeated_runs.repeat(dataclasses.replace(tiny_config, seeds=2))
    directory = Path(tiny_config.run_dir)
    assert finished_run.read(str(directory / "seed-0")).results()
    with pytest.raises(
        run_folder.RunError, match=r"seed-0: .* ended early .* in epoch 2"
    ):
        repeated_runs.resume(directory)
    with pytest.raises(run_folder.RunError, match=r"ended early .* in epoch 2"):
        train_run.resume(directory / "seed-0")


@pytest.mark.slow
def test_folds_test_a_comparison_with_scratch(tiny_config, capsys):
    config = dataclasses.replace(
        tiny_config, folds=2, compare="scratch", train_from="conv1"
    )
    summary = content(repeated_runs.repeat(config))
    scratch = summary["scratch"]
    assert set(summary["accuracy"]) == set(scratch["accuracy"]) == {"fold-0", "fold-1"}
    stdout = capsys.readouterr().out
    assert f"mean {summary['mean']:.4f}" in stdout
    assert f"scratch, mean {scratch['mean']:.4f}" in stdout


def test_a_comparison_with_frozen_random_layers_is_refused(tiny_config):
    config = dataclasses.replace(tiny_config, compare="scratch")
    for changes in ({}, {"train_from": "conv2"}, {"train": "conv1,logits"}):
        with pytest.raises(UsageError, match="Give --train_from=conv1, which trains"):
            train_run.train(dataclasses.replace(config, **changes))
    assert not Path(tiny_config.run_dir).exists()


def test_layer_rates_of_a_later_stage_are_checked_before_any_trains(tiny_config):
    stages = ({"stage": "head"}, {"train_from": "conv2", "rates": "conv55/*=2"})
    with pytest.raises(errors.MismatchedCheckpoint, match=r"conv55/.* fits no var"):
        train_run.train(dataclasses.replace(tiny_config, stages=stages))
    assert not Path(tiny_config.run_dir).exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"folds": 500}, DataError),
        ({"seeds": 2, "features": "conv55"}, errors.MismatchedCheckpoint),
    ],
    ids=str,
)
def test_runs_that_cannot_begin_leave_nothing(tiny_config, change, error):
    directory = Path(tiny_config.run_dir)
    directory.parent.mkdir()
    with pytest.raises(error):
        repeated_runs.repeat(dataclasses.replace(tiny_config, **change))
    assert list(directory.parent.iterdir()) == []


@pytest.mark.usefixtures("only_trained")
@pytest.mark.parametrize("name", ["photos.json", "ledger.json"])
def test_a_run_without_a_model_leaves_nothing_if_the_disk_is_full(
    tiny_config, monkeypatch, name
):
    write_text = run_folder.RunFolder.write_text

    def fill_up(folder, file_name, text):
        if file_name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_text(folder, file_name, text)

    monkeypatch.setattr(run_folder.RunFolder, "write_text", fill_up)
    with pytest.raises(OSError, match="No space"):
        train_run.train(tiny_config)
    assert not Path(tiny_config.run_dir).exists()


@pytest.mark.usefixtures("only_trained")
def test_the_progress_of_a_resumed_stage_ends_at_100_percent(tiny_config, capsys):
    """Training ends within an epoch, and was stopped within one."""
    config = dataclasses.replace(tiny_config, steps=8, snapshot_steps=1)
    with stopped_trainings.at_batch(5):
        train_run.train(config)
    train_run.resume(Path(config.run_dir))
    assert re.findall(r"train: +(\d+)%", capsys.readouterr().err)[-1] == "100"


@pytest.mark.usefixtures("only_trained")
def test_the_progress_of_a_stage_that_stops_early_ends_at_100_percent(
    tiny_config, capsys
):
    changes = {"epochs": 9, "learning_rate": 1e-30}
    changes["learning"] = optimization.Settings(early_stopping=1)
    train_run.train(dataclasses.replace(tiny_config, **changes))
    assert re.findall(r"train: +(\d+)%", capsys.readouterr().err)[-1] == "100"


def test_a_damaged_repeats_file_is_an_error(tmp_path):
    (tmp_path / "repeats.json").write_text("{")
    with pytest.raises(run_folder.RunError, match=r"repeats\.json: damaged"):
        repeated_runs.resume(tmp_path)


def lowest_loss(directory):
    results = finished_run.read(str(directory)).results()
    return min(result["validation_loss"] for result in results)


def keeping(config, run_dir):
    """Return the settings of a run of one epoch that keeps the head of another run."""
    return dataclasses.replace(
        config,
        ckpt=str(run_dir / "model.keras"),
        run_dir=f"{run_dir}2",
        keep_head=True,
        learning_rate=1e-30,
        epochs=1,
    )


@pytest.mark.usefixtures("only_trained")
def test_a_pooling_head_trains_and_is_kept(tiny_config, capsys):
    position = {"features": "pool2", "pooling": "statistics"}
    pooled = dataclasses.replace(tiny_config, **position, learning_rate=0)
    first = train_run.train(pooled)
    assert final_kernel(first).shape == (6 + 6, 3)
    # By the 6 numbers of each kind; 0.75 of it two steps into a cosine of six.
    result = finished_run.read(str(first)).results()[0]
    assert result["learning_rate"] == pytest.approx(0.75 * 0.9216 / 6)
    again = keeping(pooled, first)
    without_flags = dataclasses.replace(again, features="", pooling="auto")
    capsys.readouterr()
    second = train_run.train(without_flags)
    stderr = capsys.readouterr().err
    assert re.search(r"^head +kept, on", stderr, re.M)
    assert "not used" not in stderr
    assert lowest_loss(second) == pytest.approx(lowest_loss(first), rel=1e-4)
    for change, message in (
        ({"features": "conv2"}, "sits on pool2, the new one on conv"),
        ({"pooling": "none"}, "--pooling"),
    ):
        with pytest.raises(errors.MismatchedCheckpoint, match=message):
            train_run.train(dataclasses.replace(again, **change, run_dir=""))


@pytest.mark.slow
def test_a_kept_head_begins_with_the_loss_it_had(tiny_config):
    config = dataclasses.replace(tiny_config, hidden=6, epochs=4)
    first = train_run.train(config)
    again = keeping(config, first)
    second = train_run.train(again)
    assert lowest_loss(second) == pytest.approx(lowest_loss(first), rel=1e-4)
    tensors = content(second, "ledger.json")["tensors"]
    status = {entry["variable"]: entry["status"] for entry in tensors}
    assert status["logits/kernel"] == status["head_hidden/bias"] == "restored"
    assert "new" not in status.values()
    new_head = dataclasses.replace(again, keep_head=False, run_dir=f"{first}3")
    new_loss = lowest_loss(train_run.train(new_head))
    assert new_loss == pytest.approx(np.log(3), rel=0.05)
    for change, message in (
        ({"hidden": 7}, r"head_hidden/kernel of \[7, 7\].*found \[7, 6\]"),
        ({"hidden": 0}, r"logits/kernel of \[7, 3\].*found \[6, 3\]"),
        ({"ckpt": config.ckpt}, r"Expected head_hidden/kernel.*found none"),
    ):
        with pytest.raises(errors.MismatchedCheckpoint, match=message):
            train_run.train(dataclasses.replace(again, **change, run_dir=""))
    (first / "labels.txt").write_text("red\ngreen\nblue\n")
    with pytest.raises(errors.MismatchedCheckpoint, match="classes in the same order"):
        train_run.train(dataclasses.replace(again, run_dir=""))


def test_find_rate_writes_curve_and_picture(tiny_config, capsys):
    directory = learning_rate_finder.find_rate(tiny_config)
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "labels.txt",
        "find_rate.json",
        "find_rate.png",
    }
    curve = content(directory, "find_rate.json")
    assert len(curve["rates"]) == len(curve["losses"]) > 20
    default = f"the default here is --learning_rate={curve['default']:.1e}"
    assert curve["default"] > 0
    assert default in capsys.readouterr().out


class TestPlan:
    @pytest.fixture
    def plan(self, tiny_config):
        """Return a function that plans a training with other settings."""

        def plan(**changes):
            config = dataclasses.replace(tiny_config, **changes)
            return plan_estimate.plan(config, least_s=0.05)

        return plan

    def test_the_plan_lists_layers_steps_and_features(self, plan, tiny_config):
        stages = (
            {"stage": "head", "epochs": 3},
            {"stage": "deeper", "train_from": "conv2", "views": 0, "steps": 7},
            {"stage": "named", "train": "fc3,logits"},
            {"stage": "again"},
        )
        text = plan(stages=stages)
        assert not Path(tiny_config.run_dir).exists()
        parts = re.split(r"^(?:deeper|named|again):$", text, flags=re.M)
        head, deeper, named, again = parts
        assert re.search(r"conv1 +8 x 8 x 4 +112 +cached", head)
        assert re.search(r"logits +3 +24 +trained", head)
        assert "24 parameters train" in head
        assert "9 steps of 16 photos in 3 epochs" in head
        assert "features of 60 views" in head
        assert re.search(r"conv1 .*frozen", deeper)
        assert re.search(r"conv2 .*trained", deeper)
        assert "7 steps of 16 photos in 3 epochs" in deeper
        assert "waits for" in deeper
        assert re.search(r"fc4 .*frozen", named)
        assert "features of" not in again  # those of the first stage serve it
        assert re.search(r"altogether about [0-9.]+ (s|min), [0-9.]+ GB", again)

    def test_the_plan_counts_the_time_for_doubtful_labels_of_each_training(self, plan):
        line = re.compile(r"^doubtful labels, after the training: [0-9.]+ s$", re.M)
        assert line.search(plan())
        assert line.search(plan(train_from="conv2"))
        assert not line.search(plan(folds=3))  # the runs of folds have them for nothing
        assert not line.search(plan(ckpt="none", arch="tiny"))
        for doubts_s, total in ((0, "51.0 s"), (5, "61.0 s")):
            stage = plan_estimate.Estimate(
                name="",
                lines=[],
                features_s=10,
                seconds=20,
                doubts_s=doubts_s,
                extra_bytes=0,
            )
            text = plan_estimate._as_text([stage], 1, 0, 2)
            assert f"2 such trainings, altogether about {total}, " in text

    def test_the_plan_of_several_trainings_multiplies_their_time(self, plan):
        assert "5 such trainings, altogether about" in plan(seeds=5)

    def test_the_plan_times_a_quarter_of_the_batches_at_most(self, tiny_config, found):
        config = dataclasses.replace(tiny_config, train_from="conv1", steps=8)
        (network,) = train_run.prepare(config, found, Path(config.run_dir))
        photos = network.photos(network.stages[0])
        drawn, training = [], photos.training

        def counted(epoch, start=0):
            for batch in training(epoch, start):
                drawn.append(batch)
                yield batch

        photos.training, network.photos = counted, lambda stage: photos
        plan_estimate.estimate_stages(network, 60.0)
        assert len(drawn) == 1 + 8 / 4  # the first one compiles

    def test_the_plan_names_compared_networks(self, plan):
        lines = plan(compare="scratch", train_from="conv1").splitlines()
        assert {"pretrained:", "scratch:"} <= {*lines}


def test_the_summary_of_folds_by_hand():
    kind = {"class_name": "a", "source_bytes": 1, "action": "copied"}

    def predicted(hits, total):
        logits = np.eye(2)[(np.arange(total) >= hits).astype(int)]
        return Predictions(
            rows=[Row(path="", sha256=f"{hits} {n}", **kind) for n in range(total)],
            labels=np.zeros(total, np.int64),
            logits=logits.astype(np.float32),
            class_names=("a", "b"),
        )

    parts = {"fold-0": predicted(5, 10), "fold-1": predicted(3, 4)}
    summary = repeated_runs.summarise(parts, folds=True)
    assert summary["accuracy"] == {"fold-0": 0.5, "fold-1": 0.75}
    assert summary["mean"] == 0.625
    assert summary["standard_deviation"] == pytest.approx(0.125 * 2**0.5)
    assert summary["all_photos"]["num_examples"] == 14
    assert summary["all_photos"]["accuracy"] == pytest.approx(8 / 14)
    interval = list(metrics.wilson_interval(8, 14))  # the folds differ as by chance
    assert summary["all_photos"]["accuracy_ci95"] == pytest.approx(interval)
    text = repeated_runs.as_text(summary)
    assert text.splitlines()[-1].startswith("each of 14 photos")


@pytest.mark.usefixtures("only_trained")
class TestSeveralNetworks:
    @pytest.fixture
    def configs(self, tiny_config, tmp_path):
        """Settings of two networks at two sizes; no other network fits 1 pixel."""
        other = {name: -array for name, array in networks.tiny_arrays().items()}
        second = networks.write_tiny(tmp_path / "other.safetensors", other)
        paths = [tiny_config.ckpt, second]

        def combine(*sizes, **changes):
            return [
                config_flags.changed(
                    tiny_config, {"ckpt": path, "image_size": size, **changes}
                )
                for size in sizes
                for path in paths
            ]

        return combine

    def test_the_best_on_validation_photos_is_the_run(
        self, configs, found, capsys, monkeypatch
    ):
        chosen, train, printed = configs(16, 1), train_run.train, []

        def train_best(*arguments, **others):
            printed.append(capsys.readouterr())
            return train(*arguments, **others)

        monkeypatch.setattr(train_run, "train", train_best)
        directory = repeated_runs.choose_network(*chosen)
        ((out, err),) = printed  # before the best one was trained
        assert directory == Path(chosen[0].run_dir)
        figures = content(directory, "comparison.json")
        names = {path.name for path in directory.parent.iterdir()}
        assert names == {"run", "latest", "cache"}
        shown = report_facts.network_comparison(finished_run.read(str(directory)))
        assert shown["sentences"][0].endswith(f": {figures['pairs'][0]['verdict']}.")
        labels = [run["run"] for run in figures["runs"]]
        assert sorted(labels) == sorted(config.label for config in chosen[:2])
        losses = [run["calibrated_loss"] for run in figures["runs"]]
        assert losses == sorted(losses) and losses[0] < losses[1]
        assert figures["num_examples"] == len(found.included("validation"))
        best = finished_run.read(str(directory))
        settings_of_best = settings.from_run(directory, best.config["settings"])
        assert settings_of_best.label == labels[0]
        # The run is the training that was compared, again.
        last = min(run["validation_loss"] for run in best.results())
        assert figures["runs"][0]["accuracy"] == pytest.approx(
            next(
                run["validation_accuracy"]
                for run in best.results()
                if run["validation_loss"] == last
            )
        )
        assert "validation split, 6 photos" in out
        assert out.count(" compared with ") == 1
        assert err.endswith(
            f"{labels[0]} is the best network and is trained as a run:\n"
        )
        for config in chosen[2:]:
            assert f"warning: {config.label} is left out: " in err

    def test_folds_validate_each_photo_but_those_of_the_test_split(
        self, configs, found
    ):
        directory = repeated_runs.choose_network(*configs(16, folds=2))
        figures = content(directory, "comparison.json")
        held = len(found.included("test"))
        assert held and figures["num_examples"] == len(found.included()) - held
        best = finished_run.read(str(directory))
        assert best.config["settings"]["folds"] == 0
        assert best.manifest_digest == found.digest
        validated = []
        for part in repeated_runs._validation_splits(configs(16, folds=3)[0], found):
            assert part.included("test") == found.included("test")
            assert not part.divided_groups()
            validated += [row.sha256 for row in part.included("validation")]
        assert len(validated) == len(set(validated)) == figures["num_examples"]

    def test_one_network_that_trains_more_than_a_head_is_left_out(
        self, configs, tmp_path, capsys
    ):
        chosen = configs(16)
        shallow = networks.tiny_arrays(("conv1", "conv2", "fc4"))
        networks.write_tiny(Path(chosen[1].ckpt), shallow)
        with pytest.raises(DataError, match="none of these networks can be used"):
            repeated_runs.choose_network(
                *(dataclasses.replace(config, features="fc3") for config in chosen[1:])
            )
        assert "left out: " in capsys.readouterr().err
        assert not (tmp_path / "runs" / "run").exists()

    def test_a_wrong_name_or_folder_is_an_error_at_once(self, configs, found):
        first, second = configs(16)
        occupied = dataclasses.replace(first, run_dir=str(found.directory))
        with pytest.raises(run_folder.RunError, match="already exists"):
            repeated_runs.choose_network(occupied, second)
        wrong = dataclasses.replace(second, ckpt="alexnett")
        for do in (repeated_runs.choose_network, plan_estimate.plan):
            with pytest.raises(errors.MissingCheckpoint, match="mean alexnet"):
                do(first, wrong)
            with pytest.raises(DataError, match="none of these networks can be used"):
                do(*configs(1))
        assert not Path(first.run_dir).parent.exists()

    def test_a_stopped_comparison_begins_again_with_its_features(
        self, configs, monkeypatch, capsys
    ):
        def stop(self):
            raise command_line.Stopped(2, in_order=True)

        with monkeypatch.context() as patch, pytest.raises(command_line.Stopped):
            patch.setattr(training_loop.StepwiseTraining, "validate", stop)
            repeated_runs.choose_network(*configs(16))
        directory = Path(configs(16)[0].run_dir)
        assert "The same command starts again" in capsys.readouterr().err
        assert not directory.exists()
        repeated_runs.choose_network(*configs(16))
        assert len(list((directory.parent / "cache").iterdir())) == 2

    def test_a_plan_has_each_network_that_can_be_used(self, configs, capsys):
        chosen = configs(16, 1)
        text = plan_estimate.plan(*chosen, least_s=0.05)
        assert all(f"{config.label}:\n" in text for config in chosen[:2])
        err = capsys.readouterr().err
        for config in chosen[2:]:
            assert f"warning: {config.label} is left out: " in err
            assert f"{config.label}:\n" not in text
        assert not Path(chosen[0].run_dir).exists()
