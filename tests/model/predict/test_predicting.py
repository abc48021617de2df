import csv
import dataclasses
import io
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from model.predict import __main__ as predict_command
from model.predict import classifier, photo_batches, predict_settings, predicting
from model.runs import finished_run
from model.weights import weight_settings
from pipeline.images import file_headers, isolated_decoder, record_image
from pipeline.system import command_line
from pipeline.system.errors import DataError
from tests.support import conversions, drawn_photos, processes


@pytest.fixture(autouse=True)
def decoded_here(monkeypatch):
    monkeypatch.setattr(isolated_decoder, "Decoders", conversions.Decoders)


@pytest.fixture(scope="module")
def run_classifier(shared_run):
    return classifier.load_run(str(shared_run))


@pytest.fixture(scope="module")
def unsure(run_classifier):
    """The same classifier with probabilities that are not all 0 or 1."""
    return dataclasses.replace(run_classifier, temperature=100.0)


def predict(photo_classifier, *names, **settings):
    config = predict_settings.Config(photos=tuple(map(str, names)), **settings)
    return list(predicting.predict(config, photo_classifier))


def numbers(result):
    return [probability for _, probability in result.classes]


class TestStrangers:
    @pytest.fixture
    def noise(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
        names = [str(tmp_path / "1.png"), str(tmp_path / "2.png")]
        for name, image in zip(names, pixels, strict=True):
            cv2.imwrite(name, image)
        return names

    def test_photos_unlike_the_training_photos_have_high_scores(
        self, run_classifier, noise, photos, tmp_path
    ):
        results = predict(run_classifier, *noise, photos)
        assert [result.is_stranger for result in results[:2]] == [True, True]
        shares = [result.is_stranger for result in results[2:]]
        assert np.mean(shares) < 0.3
        explained = predict(run_classifier, *noise, explain=str(tmp_path / "why"))
        scores = [result.stranger_score for result in explained]
        expected = [result.stranger_score for result in results[:2]]
        assert scores == pytest.approx(expected, rel=1e-3)

    def test_a_run_without_a_scorer_says_how_to_get_one(self, run_classifier, noise):
        old = dataclasses.replace(run_classifier, stranger_scorer=None)
        note = "because the run has no strangers.npz. Train again to the end"
        assert old.describe().endswith(note)
        assert note not in run_classifier.describe()
        results = predict(old, *noise)
        assert [result.stranger_score for result in results] == [None, None]
        (same, _) = predict(run_classifier, *noise)
        assert numbers(results[0]) == pytest.approx(numbers(same), abs=1e-5)

    def test_a_damaged_file_is_refused(self, shared_run, tmp_path):
        copy = shutil.copytree(shared_run, tmp_path / "run")
        (copy / "strangers.npz").write_bytes(b"text")
        with pytest.raises(DataError, match=r"strangers.npz: damaged"):
            classifier.load_run(str(copy))


class TestPredict:
    def test_each_photo_of_a_folder_gets_a_prediction(
        self, run_classifier, shared_run, photos
    ):
        (photos / ".hidden.jpg").touch()
        results = predict(run_classifier, photos, batch_size=7)
        paths = sorted(map(str, photos.rglob("[!.]*.*")))
        assert [result.photo for result in results] == paths
        names = finished_run.read(str(shared_run)).class_names
        for result in results:
            assert {*dict(result.classes)} == {*names}
            assert sum(numbers(result)) == pytest.approx(1)
            assert numbers(result) == sorted(numbers(result), reverse=True)
            assert result.answer == result.classes[0][0]
        right = [result.answer in Path(result.photo).name for result in results]
        assert np.mean(right) > 0.9

    def test_probabilities_are_calibrated(self, run_classifier, photos):
        path = str(photos / "red" / "red000.jpg")
        (result,) = predict(run_classifier, path)
        (batch,) = photo_batches.read([path], run_classifier.spec, batch_size=1)
        logits = run_classifier.model(np.float32(batch.images), training=False)[0]
        scaled = np.exp(np.float64(logits) / run_classifier.run.temperature)
        expected = np.sort(scaled / scaled.sum())[::-1]
        assert numbers(result) == pytest.approx(expected, rel=1e-4)

    def test_large_photos_are_shrunk_like_those_of_the_records(
        self, run_classifier, tmp_path
    ):
        photo = tmp_path / "large.png"
        cv2.imwrite(str(photo), drawn_photos.draw_scene(9, 700, 900))
        usual = dataclasses.replace(run_classifier, temperature=1.0)
        assert usual.resize_min == file_headers.RESIZE_MIN
        (usual_result,) = predict(usual, photo)
        for resize_min in (0, 60):
            other = dataclasses.replace(usual, resize_min=resize_min)
            (result,) = predict(other, photo)
            data = photo.read_bytes()
            stored = record_image.encode_for_record(data, resize_min=resize_min)
            view = photo_batches.NetworkInput(other.spec)(stored)
            logits = other.model(np.float32(view[None]), training=False).numpy()
            expected = np.sort(other.probabilities(logits)[0])[::-1]
            assert numbers(result) == pytest.approx(expected, rel=1e-5)
            assert numbers(result) != pytest.approx(numbers(usual_result), rel=1e-4)

    def test_an_answer_below_the_threshold_is_unknown(self, unsure, photos):
        path = photos / "red" / "red000.jpg"
        (usual,) = predict(unsure, path)
        (at_threshold,) = predict(unsure, path, unknown_below=usual.probability)
        assert at_threshold.answer == usual.answer
        threshold = min(1.0, usual.probability + 1e-6)
        (below,) = predict(unsure, path, unknown_below=threshold)
        assert (below.answer, below.probability) == ("unknown", usual.probability)
        assert below.classes == usual.classes

    @pytest.mark.parametrize("names", [(), ("notes.txt", "LICENSE", "clip.pdf")])
    def test_a_folder_without_photos_is_refused(self, run_classifier, tmp_path, names):
        for name in names:
            (tmp_path / name).write_text("%PDF-1.4 no photo")
        with pytest.raises(DataError, match="there are no photos"):
            predict(run_classifier, tmp_path)

    def test_other_files_of_a_folder_are_counted_and_bad_photos_have_a_problem(
        self, run_classifier, photos, tmp_path, capsys
    ):
        folder = tmp_path / "holiday"
        shutil.copytree(photos / "red", folder)
        for name in ("notes.txt", "zero", ".hidden", "bad.jpg"):
            (folder / name).write_text("" if name == "zero" else "no photo")
        results = predict(run_classifier, folder)
        assert len(results) == 13
        assert [Path(r.photo).name for r in results if r.problem] == ["bad.jpg"]
        line = f"ignored: 1 hidden, 2 not a photo, the first: {folder}/notes.txt"
        assert f"{line}: not an image" in capsys.readouterr().err
        (result,) = predict(run_classifier, folder / "notes.txt")
        assert "not an image" in result.problem  # it was named


class TestExplain:
    def test_each_photo_gets_a_picture_and_training_photos(
        self, run_classifier, photos, tmp_path
    ):
        folder = tmp_path / "why"
        (tmp_path / "bad.jpg").write_bytes(b"no photo")
        blue = [photos / "blue" / f"blue00{n}.jpg" for n in (0, 1, 2)]
        names = (*blue, tmp_path / "bad.jpg", photos / "red" / "red001.jpg")
        results = predict(run_classifier, *names, explain=str(folder), batch_size=2)
        good = [result for result in results if not result.problem]
        pictures = [result.picture for result in good]
        assert sorted(pictures) == sorted(map(str, folder.iterdir()))
        assert good[-1].picture.endswith("00004-red001.png")
        for result in good:
            assert len(result.similar) == predicting.NUM_SIMILAR
            assert cv2.imread(result.picture).shape[1] > 7 * 100
        same_class = [
            photo.row.class_name == result.answer
            for result in good
            for photo in result.similar
        ]
        assert np.mean(same_class) > 0.8

    def test_records_that_were_moved_are_read_from_data(
        self, run_classifier, photos, shared_records, tmp_path
    ):
        run = run_classifier.run
        data = {**run.config["data"], "path": str(tmp_path / "gone")}
        run = dataclasses.replace(run, config={**run.config, "data": data})
        moved = dataclasses.replace(run_classifier, run=run)
        settings = {"explain": str(tmp_path / "why"), "data": str(shared_records)}
        (result,) = predict(moved, photos / "red" / "red000.jpg", **settings)
        assert len(result.similar) == predicting.NUM_SIMILAR

    def test_without_its_records_the_picture_has_no_training_photos(
        self, run_classifier, photos, tmp_path
    ):
        path = photos / "red" / "red000.jpg"
        settings = {"explain": str(tmp_path / "why"), "data": str(tmp_path / "gone")}
        (result,) = predict(run_classifier, path, **settings)
        assert result.similar == ()
        assert cv2.imread(result.picture).shape[1] < 3 * 130


OVERRIDES = weight_settings.Overrides(image_size=64, mean="1,2,3")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch": "vgg16"}, "--arch can only be used with --ckpt"),
        ({"labels": "a.txt"}, "--labels can only be used with --ckpt"),
        ({"overrides": OVERRIDES}, "--image_size, --mean can only be used with --ckpt"),
        ({"data": "records"}, "--data: expected --explain"),
        (
            {"ckpt": "a.npy", "run_dir": "runs/a"},
            "--ckpt and --run_dir: expected only one",
        ),
        (
            {"ckpt": "a.npy", "explain": "why", "data": "records"},
            "--ckpt and --data: expected only one",
        ),
    ],
)
def test_flags_that_would_be_ignored_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        predict_settings.Config(photos=("a.jpg",), **settings)


def test_flags_of_weights_go_with_ckpt():
    settings = {"arch": "vgg16", "overrides": OVERRIDES, "ckpt": "a.npy"}
    assert predict_settings.Config(photos=("a.jpg",), **settings)


def test_one_bad_photo_does_not_stop_the_others(shared_run, photos, tmp_path):
    """Here, processes decode, too."""
    strange = tmp_path / os.fsdecode(b"\xff\n,.jpg")
    strange.write_bytes((photos / "red" / "red000.jpg").read_bytes())
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    names = (tmp_path / "bad.jpg", tmp_path / "gone.jpg", strange)
    done = processes.run_command(
        *("-m", "model.predict", f"--run_dir={shared_run}", "--format=csv"), *names
    )
    assert done.returncode == 2
    assert "2 of 3 photos could not be read, the first: " in done.stderr
    assert "Traceback" not in done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout, newline="")))
    assert [bool(row["problem"]) for row in rows] == [True, True, False]
    assert rows[2]["photo"] == f"{tmp_path}/\\xff\n,.jpg"
    assert rows[2]["answer"] == "red"


def test_json_lines_are_all_of_stdout(shared_run, photos, capfd):
    words = (f"--run_dir={shared_run}", "--format=jsonl", "--top=1")
    kinds = (predict_settings.Config,)
    typed = command_line.read_words([*words, str(photos / "blue")], "", kinds)
    capfd.readouterr()
    predict_command.main(typed)
    stdout, stderr = capfd.readouterr()
    assert stderr.startswith(f"run {shared_run.name}: alexnet_owt, 3 classes, ")
    results = [json.loads(line) for line in stdout.splitlines()]
    assert len(results) == 12
    assert all(len(result["classes"]) == 1 for result in results)
