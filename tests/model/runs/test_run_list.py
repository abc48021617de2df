"""The list of runs, and the best of them."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.evaluation import evaluation_settings
from model.runs import run_list
from pipeline.system import config_flags
from pipeline.system.errors import DataError, UsageError
from tests.support import small_runs

DATA = small_runs.CONFIG["data"] | {
    "counts": {"cat": {"train": 7, "test": 2}, "dog": {"train": 5, "test": 1}},
    "manifest_digest": "1" * 64,
}
OTHER_DATA = DATA | {"manifest_digest": "2" * 64}


def write_run(runs, name, began, validation_loss=None, accuracy=None, data=DATA):
    """A run that began at an hour, without a network; returns its folder."""
    folder = runs / name
    folder.mkdir(parents=True)
    stages = [{"train_from": "logits"}, {"train_from": "conv5"}]
    config = small_runs.CONFIG | {"data": data, "stages": stages}
    (folder / "config.json").write_text(json.dumps(config))
    os.utime(folder / "config.json", (began * 3600, began * 3600))
    (folder / "model.keras").write_bytes(bytes(1000))
    if validation_loss is not None:
        figures = {"loss": 1.0, "accuracy": 0.5, "validation_accuracy": 0.5}
        lines = [
            {"epoch": epoch, "validation_loss": validation_loss + abs(2 - epoch)}
            for epoch in (1, 2, 3)
        ]
        text = "".join(json.dumps(line | figures) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text)
    if accuracy is not None:
        (folder / "evaluation").mkdir()
        figures = {"accuracy": accuracy, "accuracy_ci95": [accuracy - 0.1, 1.0]}
        figures["model_sha256"] = hashlib.sha256(bytes(1000)).hexdigest()
        figures["data"] = {"manifest_digest": data["manifest_digest"]}
        (folder / "evaluation" / "test.json").write_text(json.dumps(figures))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Three runs, the second one the best of those on the newest data."""
    folder = tmp_path / "runs"
    write_run(folder, "old", 10, 0.1, 0.7, data=OTHER_DATA)
    write_run(folder, "better", 20, 0.3, 0.9)
    write_run(folder, "newest", 30, 0.4)
    (folder / "latest").symlink_to("newest")
    (folder / "cache").mkdir()
    return folder


def names(entries):
    return [Path(entry["run"]).name for entry in entries]


def test_runs_are_listed_with_their_figures_the_newest_first(runs):
    entries = run_list.list_runs(str(runs))
    assert names(entries) == ["newest", "better", "old"]
    newest, better, _ = entries
    assert "accuracy" not in newest
    assert better["network"] == "tiny"
    assert better["trained"] == "head, from conv5"
    assert (better["data"], better["photos"]) == ("records", 15)
    assert (better["accuracy"], better["accuracy_ci95"]) == (0.9, [0.8, 1.0])
    assert better["validation_loss"] == 0.3
    files = [path for path in (runs / "better").rglob("*") if path.is_file()]
    assert better["bytes"] == sum(path.stat().st_size for path in files)


def test_the_most_accurate_run_can_be_first(runs):
    assert names(run_list.list_runs(str(runs), "accuracy")) == [
        "better",
        "old",
        "newest",
    ]


def test_an_evaluation_of_an_earlier_model_or_of_other_records_does_not_count(runs):
    path = runs / "better" / "evaluation" / "test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_sha256": "0"}))
    os.utime(path, (0, 0))
    path = runs / "old" / "evaluation" / "test.json"
    figures = json.loads(path.read_text())
    figures["data"]["manifest_digest"] = "3" * 64
    path.write_text(json.dumps(figures))
    assert not any("accuracy" in run for run in run_list.list_runs(str(runs)))


def test_a_copied_run_keeps_its_evaluation_and_the_time_when_it_began(runs):
    for number in (21, 20, 22):  # was resumed
        name = f"events.out.tfevents.17000000{number}100000000"
        path = runs / "better" / "tensorboard" / "training" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    shutil.copytree(runs / "better", runs / "copy", copy_function=shutil.copyfile)
    # As if the evaluation had been copied before the model.
    os.utime(runs / "copy" / "evaluation" / "test.json", (0, 0))
    entries = {names([entry])[0]: entry for entry in run_list.list_runs(str(runs))}
    copy, original = entries["copy"], entries["better"]
    assert (copy["accuracy"], copy["accuracy_ci95"]) == (0.9, [0.8, 1.0])
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1700000020.1))
    assert (copy["began"], original["began"]) == (began, began)


def test_the_table_has_a_line_for_each_run_and_one_for_what_is_damaged(runs):
    (runs / "a\nb").mkdir()
    (runs / "a\nb" / "config.json").write_text("{")
    (runs / "folds").mkdir()
    (runs / "folds" / "repeats.json").write_text('{"accuracy": 3}')
    (runs / "stopped").mkdir()
    (runs / "stopped" / "config.json").write_text("{}")
    text = run_list.show(str(runs), sort="time", as_json=False)
    header, newest, better, _, *problems = text.splitlines()
    assert header.split()[:3] == ["run", "network", "trained"]
    assert "newest" in newest
    assert "not evaluated" in newest
    assert "0.9000  0.8000 to 1.0000" in better
    assert len(problems) == 3
    assert any("a\\nb" in line for line in problems)
    assert any("stopped: model.keras is missing" in line for line in problems)


def test_runs_of_folds_are_one_entry_with_their_pooled_accuracy(runs):
    folds = runs / "folds"
    for number in (0, 1):
        write_run(folds, f"fold-{number}", 40, 0.01)
    content = {
        "settings": {"data": "records"},
        "manifest_digest": "1" * 64,
        "accuracy": {"fold-0": 0.5, "fold-1": 0.7},
        "mean": 0.6,
        "all_photos": {"accuracy": 0.62, "accuracy_ci95": [0.6, 0.64]},
    }
    (folds / "repeats.json").write_text(json.dumps(content))
    first = run_list.list_runs(str(runs))[0]
    assert (names([first]), first["repeats"]) == (["folds"], 2)
    assert (first["accuracy"], first["accuracy_ci95"]) == (0.62, [0.6, 0.64])
    del content["all_photos"]
    (folds / "repeats.json").write_text(json.dumps(content))
    first = run_list.list_runs(str(runs))[0]
    assert (first["accuracy"], "accuracy_ci95" in first) == (0.6, False)
    began = time.localtime(40 * 3600)  # of the folds, not of what is written later
    assert first["began"] == time.strftime("%Y-%m-%d %H:%M:%S", began)
    assert run_list.read(str(runs / "best")).directory == runs / "better"


def test_the_best_run_has_the_lowest_validation_loss_on_the_newest_data(runs, capsys):
    assert run_list.read(str(runs / "best")).directory == runs / "better"
    (line,) = capsys.readouterr().err.splitlines()
    assert "better, with the lowest validation loss (0.3000) of 2" in line
    assert "runs on other data, which were not considered: 1" in line
    assert run_list.read(str(runs / "newest")).directory == runs / "newest"


def test_a_run_that_diverged_is_not_the_best(runs):
    write_run(runs, "diverged", 50, float("nan"))
    assert run_list.read(str(runs / "best")).directory == runs / "better"


def test_without_a_run_there_is_no_best(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        run_list.read(str(tmp_path / "none" / "best"))
    with pytest.raises(DataError, match="holds no finished run"):
        run_list.read(str(tmp_path / "best"))


def test_the_command_prints_json_without_tensorflow(runs):
    code = (
        "import sys, evaluate; evaluate.main({'list': True, 'json': True, "
        f"'runs_dir': {str(runs)!r}}}); assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert names(json.loads(done.stdout)) == ["newest", "better", "old"]


@pytest.mark.parametrize(
    "flags", [{"list": True, "runs": "a,b"}, {"json": True}, {"sort": "accuracy"}]
)
def test_flags_that_do_not_belong_together_are_refused(flags):
    with pytest.raises(UsageError, match="expected"):
        config_flags.build(evaluation_settings.Config, flags)
