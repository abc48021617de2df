import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import evaluate
from model.evaluation import evaluation_settings
from model.evaluation.compare import comparison
from model.loop import metrics
from model.reports import text_report
from model.runs import finished_run
from model.weights import weight_settings
from pipeline import split
from pipeline.system.errors import DataError
from tests.support import drawn_photos, evaluated_runs, processes


@pytest.fixture
def finished(found, tmp_path):
    """The folder of a run that tells the colours apart, small and not trained."""
    directory = tmp_path / "runs" / "run"
    seen = [row.sha256 for row in found.included("train", "validation")]
    evaluated_runs.write_run(directory, found, seen)
    return directory


def config(directory, **kwargs):
    """Without the report, which takes seconds and has tests of its own."""
    kwargs = {"report": False, **kwargs}
    return evaluation_settings.Config(run_dir=str(directory), **kwargs)


def change_logits(directory, change):
    """Change the kernel and bias of a run's final layer."""
    model = finished_run.read(str(directory)).load_model()
    logits = model.get_layer("logits")
    logits.set_weights([change(values) for values in logits.get_weights()])
    model.save(directory / "model.keras")


@pytest.fixture
def worse(finished):
    """The same run, except that it takes every class for the next one."""
    directory = finished.with_name("worse")
    shutil.copytree(finished, directory)
    change_logits(directory, lambda values: np.roll(values, 1, axis=-1))
    return directory


@pytest.fixture
def new_photos(tmp_path):
    """Return a function that draws ten unseen photos of each class in a folder."""

    def draw(classes=tuple(drawn_photos.COLOURS)):
        for name in classes:
            (tmp_path / "others" / name).mkdir(parents=True)
            for number in range(100, 110):
                path = tmp_path / "others" / name / f"{number}.jpg"
                cv2.imwrite(str(path), drawn_photos.draw_photo(name, number))
        return str(tmp_path / "others")

    return draw


@pytest.fixture
def resplit(shared_records, finished, tmp_path):
    """The run's records, split by another seed since."""
    records = tmp_path / "records"
    shutil.copytree(shared_records, records)
    split.resplit(split.Config(data=str(records), seed=7))
    return records


def test_figures_follow_from_the_logits_on_disk(finished, found):
    figures = evaluate.evaluate(config(finished))
    written = json.loads((finished / "evaluation" / "test.json").read_text())
    del written["seal"]
    with np.load(finished / "evaluation" / "test.npz", allow_pickle=False) as file:
        examples = dict(file)
    rows = found.included("test")
    assert examples["sha256"].tolist() == [row.sha256 for row in rows]
    assert examples["path"].tolist() == [row.path for row in rows]
    assert examples["label"].tolist() == [found.labels[r.class_name] for r in rows]
    logits, label = examples["logits"], examples["label"]
    assert logits.dtype == np.float32
    predicted = logits.argmax(axis=1)
    hits, total = int((predicted == label).sum()), len(label)
    assert written["num_examples"] == total == len(rows)
    assert written["accuracy"] == hits / total
    matrix = np.zeros((3, 3), int)
    for true, guess in zip(label, predicted, strict=True):
        matrix[true, guess] += 1
    assert written["confusion_matrix"] == matrix.tolist()
    assert [row["support"] for row in written["per_class"]] == matrix.sum(1).tolist()
    assert written["accuracy_ci95"] == list(metrics.wilson_interval(hits, total))
    assert written["class_names"] == list(found.class_names)
    assert len(written["errors"]) == total - hits
    assert written["photos_seen"] == 0
    assert {key: figures[key] for key in written} == written


def test_errors_name_the_photos_most_confident_first(worse):
    figures = evaluate.evaluate(config(worse, split="all"))
    errors = figures["errors"]
    assert len(errors) > 30
    surest = [error["probability"] for error in errors]
    assert surest == sorted(surest, reverse=True)
    for error in errors:
        assert error["path"].startswith(f"{error['true']}/")
        assert error["predicted"] != error["true"]
    text = text_report.evaluation(figures)
    assert errors[0]["path"] in text
    assert f"mistakes: {len(errors)}, the most confident first" in text


@pytest.mark.parametrize("name", ["train", "validation", "test", "all"])
def test_each_split_has_its_own_files(finished, found, name):
    figures = evaluate.evaluate(config(finished, split=name))
    rows = found.included() if name == "all" else found.included(name)
    assert figures["num_examples"] == len(rows)
    names = {path.name for path in (finished / "evaluation").iterdir()}
    assert names == {f"{name}.json", f"{name}.npz"}


def test_averaged_views_are_written_to_other_files(finished):
    plain = evaluate.evaluate(config(finished))
    both = evaluate.evaluate(config(finished, tta="flip"))
    assert (plain["tta"], both["tta"]) == ("none", "flip")
    assert "12 photos" not in text_report.evaluation(plain)
    assert "flip views averaged" in text_report.evaluation(both)
    folder = finished / "evaluation"
    assert json.loads((folder / "test.json").read_text())["tta"] == "none"
    assert json.loads((folder / "test-flip.json").read_text())["tta"] == "flip"
    with np.load(folder / "test.npz") as one, np.load(folder / "test-flip.npz") as two:
        assert two["logits"].dtype == np.float32
        assert not np.array_equal(one["logits"], two["logits"])


def test_the_report_changes_no_figure(finished):
    plain = evaluate.evaluate(config(finished))
    folder = finished / "evaluation"
    with np.load(folder / "test.npz") as file:
        logits = file["logits"]
    figures = evaluate.evaluate(config(finished, report=True))
    with np.load(folder / "test.npz") as file:
        np.testing.assert_array_equal(file["logits"], logits)
    timed = {"seconds", "images_per_s", "report"}
    assert {n: v for n, v in figures.items() if n not in timed} == {
        n: v for n, v in plain.items() if n not in timed
    }
    page = (folder / "test.html").read_text()
    assert f"<title>{finished.name}: test split</title>" in page
    assert f"python evaluate.py --run_dir={finished}" in page
    assert f"report:  {folder / 'test.html'}" in text_report.evaluation(figures)


@pytest.mark.parametrize(
    ("another_dataset", "message"),
    [
        (False, "not the records that run .* was trained on"),
        (True, r"trained on, or chosen by, \d+ of"),
    ],
)
def test_records_with_another_split_are_refused(
    finished, resplit, another_dataset, message
):
    settings = config(finished, data=str(resplit), another_dataset=another_dataset)
    with pytest.raises(DataError, match=message):
        evaluate.evaluate(settings)
    assert not (finished / "evaluation").exists()


def test_missing_records_are_named(finished, tmp_path):
    about = json.loads((finished / "config.json").read_text())
    about["data"]["path"] = str(tmp_path / "gone")
    (finished / "config.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=r"gone: manifest.* is missing.*--data=FOLDER"):
        evaluate.evaluate(config(finished))


def test_a_folder_that_cannot_be_written_to_is_refused(finished, monkeypatch):
    """Permissions do not stop a test that runs as root."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match="evaluation: permission denied"):
        evaluate.evaluate(config(finished))


def test_other_records_with_other_classes_are_refused(finished, tmp_path):
    drawn_photos.write_photos(tmp_path / "two", classes=("blue", "green"))
    (tmp_path / "two" / "green").rename(tmp_path / "two" / "lime")
    settings = config(finished, data=str(tmp_path / "two"), another_dataset=True)
    with pytest.raises(DataError, match="classes do not match"):
        evaluate.evaluate(settings)


def test_photos_of_some_of_the_classes_get_the_runs_labels(
    finished, new_photos, capsys
):
    folder = new_photos(classes=("blue", "red"))
    for name, year in (("blue", "2023"), ("red", "2024")):
        Path(folder, year).mkdir()
        Path(folder, name).rename(Path(folder, year, name))
    how = {"layout": "folder/class", "another_dataset": True, "split": "all"}
    figures = evaluate.evaluate(config(finished, data=folder, **how))
    assert "class folders: 20 files in 2 classes" in capsys.readouterr().err
    assert figures["data"]["path"] == folder
    assert figures["accuracy"] > 0.8
    assert figures["class_names"] == ["blue", "green", "red"]
    assert [row["support"] for row in figures["per_class"]] == [10, 0, 10]
    with np.load(figures["written"].replace(".json", ".npz")) as file:
        assert sorted(set(file["label"].tolist())) == [0, 2]
    assert "blue" in text_report.evaluation(figures)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy"])
def test_a_gate_decides_the_exit_code(finished, name):
    """The report is printed in either case."""
    command = "evaluate.py", f"--run_dir={finished}", f"--min_{name}=0.5"
    passed = processes.run_command(*command)
    assert passed.returncode == 0, passed.stderr
    assert "top-1 accuracy" in passed.stdout
    figures = json.loads((finished / "evaluation" / "test.json").read_text())
    assert f"{figures[name]:.4f}" in passed.stdout
    change_logits(finished, np.zeros_like)
    missed = processes.run_command(*command)
    assert missed.returncode == 2
    assert "top-1 accuracy" in missed.stdout
    assert f"expected --min_{name}=0.5 or more" in missed.stderr


@pytest.mark.parametrize("gate", ["min_accuracy", "min_balanced_accuracy"])
@pytest.mark.parametrize("split", ["train", "all"])
def test_a_gate_refuses_photos_that_training_has_seen(finished, split, gate):
    with pytest.raises(DataError, match=rf"--{gate}: .*or chosen by, \d+ of these \d+"):
        evaluate.evaluate(config(finished, split=split, **{gate: 0.5}))
    figures = evaluate.evaluate(config(finished, split=split))
    assert figures["photos_seen"] > 0
    assert "used in training: not a measure" in text_report.evaluation(figures)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_accuracy": float("nan")}, "expected 0 to 1"),
        ({"min_accuracy": 1.1}, "expected 0 to 1"),
        ({"ckpt": "a"}, "--ckpt: expected --data"),
        ({"arch": "vgg16"}, "--arch can only be used with --ckpt"),
        ({"labels": "a.txt"}, "--labels can only be used with --ckpt"),
        (
            {"overrides": weight_settings.Overrides(short_side=9, std="1")},
            "--short_side, --std can only be used with --ckpt",
        ),
        (
            {"ckpt": "a", "data": "b", "run_dir": "c"},
            "--ckpt and --run_dir: expected only one",
        ),
        (
            {"ckpt": "a", "data": "b", "another_dataset": True},
            "--ckpt and --another_dataset: expected only one",
        ),
    ],
)
def test_flags_that_would_be_ignored_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        evaluation_settings.Config(**settings)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_incomplete_records_are_refused(finished, shared_records, tmp_path, damage):
    records = tmp_path / "records"
    shutil.copytree(shared_records, records)
    path = next(records.glob("*.tfrecord"))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.unlink()
    with pytest.raises(DataError, match=f"{path.name}: .* Expected .*again"):
        evaluate.evaluate(config(finished, data=str(records)))


class TestCompare:
    def config(self, *directories, **kwargs):
        return evaluation_settings.Config(
            runs=",".join(map(str, directories)), **kwargs
        )

    def test_figures_are_those_of_both_runs_and_the_better_one_is_named(
        self, finished, worse, found
    ):
        figures = evaluate.compare(self.config(worse, finished))
        folder = worse / "evaluation"
        written = json.loads((folder / "compare-test.json").read_text())
        assert {key: figures[key] for key in written} == written
        rows = found.included("test")
        assert written["num_examples"] == len(rows)
        assert [run["run"] for run in written["runs"]] == ["worse", "run"]
        for directory, run in zip((worse, finished), written["runs"], strict=True):
            alone = json.loads((directory / "evaluation" / "test.json").read_text())
            for name in ("accuracy", "accuracy_ci95", "top5_accuracy"):
                assert run[name] == alone[name]
            assert alone["images_per_s"] > 0
            assert run["images_per_s"] is None  # too few photos
            assert run["calibrated_loss"] == pytest.approx(alone["calibrated_loss"])
            assert run["model_bytes"] == (directory / "model.keras").stat().st_size
        (pair,) = written["pairs"]
        paths = {row.path for row in rows}
        assert {*pair["photos_only_first"], *pair["photos_only_second"]} <= paths
        difference = written["runs"][1]["accuracy"] - written["runs"][0]["accuracy"]
        assert pair["difference"] == pytest.approx(difference)
        assert pair["p"] < 0.05
        assert pair["verdict"].startswith("run is better (p")
        text = comparison.as_text(figures)
        assert pair["verdict"] in text
        assert str(folder / "compare-test.json") in text

    def test_runs_are_evaluated_again_only_if_the_model_has_changed(
        self, finished, worse
    ):
        evaluate.compare(self.config(finished, worse))
        paths = [path / "evaluation" / "test.npz" for path in (finished, worse)]
        before = [path.stat().st_mtime_ns for path in paths]
        evaluate.compare(self.config(finished, worse))
        assert [path.stat().st_mtime_ns for path in paths] == before
        shutil.copy(finished / "model.keras", worse / "model.keras")
        figures = evaluate.compare(self.config(finished, worse))
        assert paths[0].stat().st_mtime_ns == before[0]
        assert paths[1].stat().st_mtime_ns > before[1]
        (pair,) = figures["pairs"]
        assert pair["p"] == 1
        assert "both runs are right, and wrong, on the same photos" in pair["verdict"]

    @pytest.mark.parametrize("split", ["train", "validation", "all"])
    def test_photos_that_every_run_has_seen_are_refused(self, finished, worse, split):
        with pytest.raises(
            DataError, match=r"run was trained on, or chosen by, \d+ of"
        ):
            evaluate.compare(self.config(finished, worse, split=split))
        assert not (finished / "evaluation").exists()

    def test_a_photo_that_a_single_run_has_seen_is_refused(
        self, finished, worse, found, monkeypatch
    ):
        def seen_photos(run):
            return photos if run.directory.name == "worse" else set()

        photos = {found.included("test")[0].sha256}
        monkeypatch.setattr(finished_run.FinishedRun, "seen_photos", seen_photos)
        with pytest.raises(DataError, match="worse was trained on, or chosen by, 1 of"):
            evaluate.compare(self.config(finished, worse))

    def test_runs_are_compared_on_other_records_by_a_flag(
        self, finished, worse, new_photos
    ):
        folder = new_photos()
        settings = self.config(finished, worse, data=folder, split="all")
        message = f"^{re.escape(folder)}: .* pass --another_dataset"
        with pytest.raises(DataError, match=message):
            evaluate.compare(settings)
        settings = dataclasses.replace(settings, another_dataset=True)
        figures = evaluate.compare(settings)
        assert figures["num_examples"] == 30
        stem = f"all-{figures['manifest_digest'][:8]}"
        assert {path.name for path in (finished / "evaluation").iterdir()} == {
            *(f"{stem}.json", f"{stem}.npz"),
            f"compare-{stem}.json",
        }

    def test_runs_on_different_records_are_compared_on_unseen_photos_of_the_newest(
        self, finished, worse, found, tmp_path
    ):
        assert "scope" not in evaluate.compare(self.config(finished, worse))
        folder = tmp_path / "records"
        shutil.copytree(found.directory, folder)
        lost = found.included("train")[0]
        rows = tuple(row for row in found.rows if row != lost)
        fewer = dataclasses.replace(found, rows=rows, directory=folder)
        fewer.stage(folder)
        path = worse / "config.json"
        content = json.loads(path.read_text())
        content["data"] |= {"path": str(folder), "manifest_digest": fewer.digest}
        path.write_text(json.dumps(content))
        figures = evaluate.compare(self.config(finished, worse))
        tested, total = len(found.included("test")), len(fewer.included())
        assert figures["num_examples"] == tested
        assert figures["scope"][0].endswith(f"no run has seen: {tested} of {total}")

    def test_photos_that_the_runs_expect_in_different_sizes_are_refused(
        self, finished, worse
    ):
        path = worse / "config.json"
        content = json.loads(path.read_text())
        content["data"]["resize_min"] = 0
        path.write_text(json.dumps(content))
        other = self.config(finished, worse, data=str(finished), another_dataset=True)
        with pytest.raises(DataError, match=r"different --resize_min .* worse: 0\)"):
            evaluate.compare(other)

    @pytest.mark.parametrize("runs", ["a", "a,", "a,,b", ","])
    def test_fewer_than_two_runs_are_refused(self, runs):
        with pytest.raises(ValueError, match="expected two or more folders"):
            evaluation_settings.Config(runs=runs)

    @pytest.mark.parametrize(
        ("flag", "settings"),
        [
            ("--run_dir", {"run_dir": "a"}),
            ("--ckpt", {"ckpt": "alexnet", "data": "photos"}),
            ("--arch", {"arch": "vgg16"}),
            ("--labels", {"labels": "labels.txt"}),
            ("--min_accuracy", {"min_accuracy": 0.5}),
            ("--min_balanced_accuracy", {"min_balanced_accuracy": 0.5}),
            ("--tta", {"tta": "flip"}),
            ("--report", {"report": False}),
            (
                "preprocessing",
                {"overrides": weight_settings.Overrides(image_size=64)},
            ),
            ("--another_dataset", {"another_dataset": True}),
        ],
    )
    def test_flags_that_would_be_ignored_are_refused(self, flag, settings):
        with pytest.raises(ValueError, match=f"--runs.*{flag}"):
            evaluation_settings.Config(runs="a,b", **settings)
