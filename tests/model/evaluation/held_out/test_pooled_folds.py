"""One evaluation over all folds."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import evaluate
from model.evaluation import run_evaluation
from model.evaluation.evaluation_settings import Config
from model.reports import report_photos, text_report
from model.runs import run_folder
from model.training import settings
from model.training.repeats import repeated_runs
from pipeline.records import manifest
from pipeline.system.errors import DataError
from tests.support import evaluated_runs

MISFILED = {
    f"{name}/{name}{number:03d}.jpg"
    for name, others in evaluated_runs.MISFILED.items()
    for number in range(len(others))
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three folds that are not evaluated yet, of 60 photos, six of them misfiled."""
    folder = tmp_path_factory.mktemp("folds")
    records = evaluated_runs.misfiled_records(folder)
    config = settings.Config(data=str(records.directory), folds=3)
    plan = {"settings": {"data": config.data, "folds": 3}}
    plan["manifest_digest"] = records.digest
    directory = folder / "runs" / "all"
    for fold in range(3):
        part = directory / "records" / f"fold-{fold}"
        part.mkdir(parents=True)
        repeated_runs._write_fold(records, part, config, fold)
        found = manifest.read(part)
        seen = [row.sha256 for row in found.included("train", "validation")]
        evaluated_runs.write_run(directory / f"fold-{fold}", found, seen)
    (directory / run_folder.REPEATS).write_text(json.dumps(plan))
    return directory


@pytest.fixture
def folds(made, tmp_path):
    return shutil.copytree(made, tmp_path / "folds", copy_function=shutil.copy)


def test_each_photo_is_predicted_once_by_the_run_that_has_not_seen_it(
    folds, monkeypatch
):
    explained = {}
    make = report_photos.heat_maps

    def heat_maps(model, records, rows, *others):
        explained.update({row.path: id(model) for row in rows})
        return make(model, records, rows, *others)

    monkeypatch.setattr(report_photos, "heat_maps", heat_maps)
    link = folds.parent / "latest"
    link.symlink_to(folds.name)
    figures = evaluate.evaluate(Config(run_dir=str(link)))
    assert (figures["run"], figures["split"]) == ("folds", "folds")
    assert (figures["num_examples"], figures["photos_seen"]) == (60, 0)
    assert figures["accuracy"] == pytest.approx(54 / 60)
    hits = [f["accuracy"] * f["num_examples"] for f in figures["folds"]]
    assert [f["run"] for f in figures["folds"]] == ["fold-0", "fold-1", "fold-2"]
    assert sum(hits) == pytest.approx(54)
    assert np.sum(figures["confusion_matrix"]) == 60
    assert {error["path"] for error in figures["errors"]} == MISFILED
    with np.load(folds / "evaluation" / "folds.npz") as arrays:
        fold_of = dict(zip(arrays["path"].tolist(), arrays["fold"], strict=True))
        assert arrays["logits"].shape == (60, 3)
    for fold in range(3):
        tested = manifest.read(folds / "records" / f"fold-{fold}").included("test")
        assert {fold_of[row.path] for row in tested} == {f"fold-{fold}"}
    assert explained.keys() >= MISFILED
    for path, model in explained.items():
        others = {m for p, m in explained.items() if fold_of[p] == fold_of[path]}
        assert others == {model}
    with (folds / "evaluation" / "doubts.csv").open() as file:
        assert {row["path"] for row in csv.DictReader(file)} == MISFILED
    page = (folds / "evaluation" / "folds.html").read_text()
    for text in (
        "all folds, 60 photos",
        "fold-2  accuracy",
        "differ no more than by c",
    ):
        assert text in page
    assert f"--out={manifest.read(folds / 'records' / 'fold-0').directory}" not in page
    text = text_report.evaluation(figures)
    assert text.startswith("folds, all folds, 60 photos")
    assert "doubtful labels: 6 of 60 photos" in text


def test_folds_that_are_evaluated_are_not_evaluated_again(folds, monkeypatch, capsys):
    evaluate.evaluate(Config(run_dir=str(folds), report=False))
    assert capsys.readouterr().err.count("not evaluated yet") == 3
    monkeypatch.delattr(run_evaluation, "evaluate_run")
    evaluate.evaluate(Config(run_dir=str(folds), report=False))


def test_folds_can_be_moved_and_changed_records_are_refused(folds, tmp_path, capsys):
    moved = folds.rename(tmp_path / "moved")
    figures = evaluate.evaluate(Config(run_dir=str(moved), report=False))
    assert figures["num_examples"] == 60
    figures = evaluate.evaluate(Config(run_dir=str(moved / "fold-1"), report=False))
    assert figures["data"]["path"] == str(moved / "records" / "fold-1")
    # As on another file system, where hard links are not possible.
    converted = shutil.copy(moved / "records" / "fold-0" / "red.tfrecord", tmp_path)
    link = moved / "records" / "fold-1" / "red.tfrecord"
    link.unlink()
    link.symlink_to(converted)
    evaluate.evaluate(Config(run_dir=str(moved)))
    with Path(converted).open("ab") as file:
        file.write(b"more")
    message = f"{link}: has .* bytes.* {converted} has changed or moved since. Train"
    for run_dir in (moved, moved / "fold-1"):
        with pytest.raises(DataError, match=message):
            evaluate.evaluate(Config(run_dir=str(run_dir)))


def test_folds_that_differ_more_than_by_chance_widen_the_interval(folds, monkeypatch):
    """A network that is wrong about all photos of one fold."""
    network = evaluated_runs.network()
    kernel, bias = network.get_layer("logits").get_weights()
    network.get_layer("logits").set_weights([kernel[:, [1, 2, 0]], bias])
    network.save(folds / "fold-1" / "model.keras")
    figures = evaluate.evaluate(Config(run_dir=str(folds), report=False))
    assert figures["folds_differ"]
    low, high = figures["accuracy_ci95"]
    assert low < figures["accuracy"] < high
    assert high - low > 0.8
    line = text_report.folds_in_words(figures)[0]
    assert "differ more than by chance, so that the interval is wider" in line


def test_folds_that_cannot_be_evaluated_together_are_an_error_of_one_line(folds):
    for change in ({"data": "elsewhere"}, {"split": "validation"}):
        with pytest.raises(DataError, match=r"--\w+: the folds .* name a fold"):
            evaluate.evaluate(Config(run_dir=str(folds), **change))
    (folds / "fold-2" / run_folder.CHECKPOINTS).mkdir()
    with pytest.raises(DataError, match=r"fold-2: this training is not .* --resume="):
        evaluate.evaluate(Config(run_dir=str(folds)))
    (folds / run_folder.REPEATS).write_text('{"settings": {"folds": "3"}}')
    with pytest.raises(DataError, match=r"repeats\.json: damaged .*folds"):
        evaluate.evaluate(Config(run_dir=str(folds)))


def test_several_seeds_are_not_evaluated_together(folds):
    (folds / run_folder.REPEATS).write_text('{"settings": {"folds": 0}}')
    with pytest.raises(
        DataError, match=r"several runs. For --run_dir, name one .*fold-0"
    ):
        evaluate.evaluate(Config(run_dir=str(folds)))


def test_a_comparison_takes_one_fold_and_not_the_folder_of_all(folds):
    message = f"{folds}: this folder holds .* For --runs, name one .*{folds}/fold-0 or"
    with pytest.raises(DataError, match=message):
        evaluate.compare(Config(runs=f"{folds}/fold-1,{folds}"))
