import json
import shutil

import cv2
import numpy as np
import pytest

from model.evaluation import evaluation_settings
from model.predict import stranger_evaluation
from model.runs import finished_run
from pipeline.images import isolated_decoder
from pipeline.records import stored_photo
from pipeline.system.errors import DataError
from tests.support import conversions


@pytest.fixture(autouse=True)
def decoded_here(monkeypatch):
    monkeypatch.setattr(isolated_decoder, "Decoders", conversions.Decoders)


@pytest.fixture
def noise(tmp_path):
    """A folder of four photos of noise in two folders, and a damaged one."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / "noise" / f"folder{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    (tmp_path / "noise" / "bad.jpg").write_bytes(b"text")
    (tmp_path / "noise" / "notes.txt").write_bytes(b"text")
    return tmp_path / "noise"


def config(run_dir, folder):
    return evaluation_settings.Config(run_dir=str(run_dir), strangers=str(folder))


class TestCompare:
    def test_shares_are_counted_at_the_threshold(self):
        scores = np.array([0.1, 0.5, 0.9, 1.2]), np.array([0.8, 1.0, 3.0])
        sure = np.array([0.99, 0.6, 0.9, 0.8]), np.array([0.7, 0.5, 0.95])
        figures = stranger_evaluation.compare(
            (scores[0], sure[0]), (scores[1], sure[1]), np.arange(4)
        )
        score, softmax = figures["score"], figures["softmax"]
        assert score["auroc"] == pytest.approx((2 + 3 + 4) / 12)
        assert (score["recognised"], score["false_alarms"]) == (2 / 3, 1 / 4)
        # One false alarm, that of 0.6; both 0.7 and 0.5 are less sure than 0.8.
        assert softmax["auroc"] == pytest.approx((3 + 4 + 1) / 12)
        assert (softmax["recognised"], softmax["false_alarms"]) == (2 / 3, 1 / 4)
        low, high = score["recognised_ci95"]
        assert (low, high) == pytest.approx((0.2077, 0.9385), abs=1e-3)

    def test_no_false_alarm_leaves_none_to_softmax(self):
        inside = np.array([0.5, 0.6]), np.array([0.9, 0.8])
        outside = np.array([2.0, 3.0]), np.array([0.85, 0.1])
        figures = stranger_evaluation.compare(inside, outside, np.arange(2))
        assert figures["softmax"]["false_alarms"] == 0
        assert figures["softmax"]["recognised"] == 0.5


def test_a_folder_of_strangers_is_compared_with_the_test_photos(
    shared_run, noise, tmp_path, capsys
):
    run = shutil.copytree(shared_run, tmp_path / "run")
    figures = stranger_evaluation.evaluate(config(run, noise))
    assert (figures["num_strangers"], figures["num_unreadable"]) == (4, 1)
    assert figures["num_test"] == 6
    assert figures["score"]["recognised"] == 1
    written = json.loads((run / "evaluation" / "strangers.json").read_text())
    assert written == {n: v for n, v in figures.items() if n != "written"}
    assert f"skipped {noise}/bad.jpg: not an image" in capsys.readouterr().err
    lines = stranger_evaluation.as_text(figures).splitlines()
    assert lines[0] == f"run, 4 photos of {noise} (strangers), 6 test photos"
    low = figures["score"]["recognised_ci95"][0]
    assert f"  1.0000 ({low:.4f}..1.0000)" in lines[3]
    assert lines[-2] == "not readable, and listed above: 1"


def test_photos_of_the_run_are_named_as_no_strangers(
    shared_run, noise, tmp_path, capsys
):
    run = shutil.copytree(shared_run, tmp_path / "run")
    records = finished_run.read(str(run)).read_records()
    row = next(row for row in records.included("test") if row.action == "copied")
    encoded = stored_photo.StoredPhotos(records.directory).record(row).encoded
    (noise / "own.jpg").write_bytes(encoded)
    stranger_evaluation.evaluate(config(run, noise))
    assert "1 of 5 photos are the run's own" in capsys.readouterr().err


def test_a_run_without_a_scorer_is_refused(shared_run, noise, tmp_path):
    run = shutil.copytree(shared_run, tmp_path / "run")
    (run / "strangers.npz").unlink()
    with pytest.raises(DataError, match=r"the run has no strangers.npz. Train again"):
        stranger_evaluation.evaluate(config(run, noise))


def test_a_folder_without_a_photo_that_can_be_read_is_refused(shared_run, noise):
    for path in noise.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="no photo can be read"):
        stranger_evaluation.evaluate(config(shared_run, noise))


@pytest.mark.parametrize("other", [{"runs": "a,b"}, {"tta": "flip"}])
def test_strangers_are_evaluated_alone(other):
    with pytest.raises(ValueError, match="--strangers and --"):
        evaluation_settings.Config(strangers="folder", **other)
