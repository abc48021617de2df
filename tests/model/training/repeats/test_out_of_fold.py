"""Doubts of all photos, at the end of a training."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from model.evaluation.held_out import label_errors
from model.training import head_solver, train_run
from model.training.repeats import out_of_fold
from pipeline.system import command_line
from tests.support import evaluated_runs

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def two_classes():
    """Features of two classes that hardly overlap, and four labels planted wrong."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 80).astype(np.int32)
    features = np.float32(random.normal(size=(80, 6)) + 4 * np.eye(2, 6)[labels])
    wrong = np.array([3, 20, 41, 77])
    labels[wrong] = 1 - labels[wrong]
    chunks = [(features[:50], labels[:50]), (features[50:], labels[50:])]
    return chunks, labels, wrong


def predict(chunks, labels, folds):
    return out_of_fold.out_of_fold(
        chunks, labels, np.asarray(folds), num_classes=2, penalty=0.1
    )


def test_labels_that_are_planted_wrong_come_first(two_classes):
    chunks, labels, wrong = two_classes
    logits, is_known = predict(chunks, labels, np.arange(80) % 5)
    assert is_known.all()
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    doubtful, *_ = label_errors.find_doubts(shares, labels)
    assert set(doubtful[:4]) == set(wrong)


def test_a_photo_has_no_part_in_its_own_prediction(two_classes):
    """Other labels of a fold change the predictions for other folds alone."""
    chunks, labels, _ = two_classes
    folds = np.arange(80) % 4
    before, _ = predict(chunks, labels, folds)
    changed = np.where(folds == 2, 1 - labels, labels).astype(np.int32)
    chunks = [(chunks[0][0], changed[:50]), (chunks[1][0], changed[50:])]
    after, _ = predict(chunks, changed, folds)
    assert (after[folds == 2] == before[folds == 2]).all()
    assert (after[folds != 2] != before[folds != 2]).any()


def test_a_class_that_lies_in_one_fold_cannot_be_doubted(two_classes):
    chunks, labels, _ = two_classes
    _, is_known = predict(chunks, labels, labels)
    assert not is_known.any()


@pytest.fixture
def misfiled(tmp_path):
    return evaluated_runs.misfiled_records(tmp_path)


def doubts_of(run_dir):
    return json.loads((Path(run_dir) / "evaluation" / "doubts.json").read_text())


def test_a_training_ends_with_the_doubts_of_all_photos(tiny_config, misfiled, capsys):
    config = dataclasses.replace(tiny_config, data=str(misfiled.directory))
    run_dir = train_run.train(config)
    doubts = doubts_of(run_dir)
    assert doubts["num_examples"] == 60
    assert "by heads of 5 folds on features of the pretrained" in doubts["source"]
    path = run_dir / "evaluation" / "doubts.csv"
    line = f"doubtful labels: {doubts['num_doubts']} of 60 photos"
    assert line in capsys.readouterr().err
    assert len(path.read_text().splitlines()) == 1 + doubts["num_doubts"]


def test_deeper_training_does_not_hide_what_pretrained_layers_doubt(tiny_config):
    """Its own layers have seen the labels; the features are those of a head alone."""
    head = dataclasses.replace(tiny_config, epochs=1)
    deeper = dataclasses.replace(
        head, train_from="conv1", run_dir=f"{head.run_dir}-deeper"
    )
    features = doubts_of(train_run.train(head)), doubts_of(train_run.train(deeper))
    assert features[0]["photos"] == features[1]["photos"]


def test_without_pretrained_layers_a_line_says_why_there_are_none(tiny_config, capsys):
    config = dataclasses.replace(tiny_config, ckpt="none", arch="tiny", epochs=1)
    run_dir = train_run.train(config)
    assert "no doubts about labels: they need pretrained layers" in (
        capsys.readouterr().err
    )
    assert not (run_dir / "evaluation").exists()


def test_a_run_that_was_killed_while_looking_for_doubts_resumes_to_them(
    tiny_config, monkeypatch
):
    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    config = dataclasses.replace(tiny_config, snapshot_steps=1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(label_errors, "write", kill)
        train_run.train(config)
    run_dir = Path(config.run_dir)
    assert not (run_dir / "evaluation" / "doubts.json").exists()
    train_run.resume(run_dir)
    assert doubts_of(run_dir)["num_examples"] == 60


def test_a_signal_while_looking_for_doubts_leaves_a_snapshot(tiny_config, monkeypatch):
    def stop(*_, **__):
        raise command_line.Stopped(2, in_order=True)

    with monkeypatch.context() as patch, pytest.raises(command_line.Stopped):
        patch.setattr(head_solver.LinearLayer, "solve", stop)
        train_run.train(tiny_config)
    run_dir = Path(tiny_config.run_dir)
    assert (run_dir / "model.keras").exists()
    train_run.resume(run_dir)
    assert doubts_of(run_dir)["num_examples"] == 60


def test_photos_of_one_group_are_in_one_fold(found):
    groups = ["a", "a", "a", "b", "b"]
    rows = [
        dataclasses.replace(row, group=groups[n]) if n < len(groups) else row
        for n, row in enumerate(found.included())
    ]
    grouped = dataclasses.replace(found, rows=tuple(rows))
    folds = out_of_fold._folds(grouped)
    assert len({*folds[:3]}) == len({*folds[3:5]}) == 1
    assert {*folds} == {*range(5)}


def test_photos_that_all_belong_together_have_no_folds(found):
    rows = tuple(dataclasses.replace(row, group="a") for row in found.included())
    with pytest.raises(out_of_fold._NotPossible, match="in one group"):
        out_of_fold._folds(dataclasses.replace(found, rows=rows))


def test_too_many_numbers_are_refused_before_they_are_computed(
    tiny_config, monkeypatch, capsys
):
    monkeypatch.setattr(out_of_fold.stages, "MOST_SOLVED_BYTES", 1000)
    run_dir = train_run.train(tiny_config)
    assert "take too much memory" in capsys.readouterr().err
    assert not (run_dir / "evaluation").exists()
