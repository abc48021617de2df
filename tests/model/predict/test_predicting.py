import collections
import csv
import dataclasses
import io
import json
import os

import cv2
import numpy as np
import pytest

from model.predict import classifier, predicting, similar_photos
from model.runs import finished_run
from model.weights import preprocessing_overrides
from pipeline.batches import single_photo
from pipeline.sources import source_settings
from pipeline.system.errors import DataError
from tests import conftest
from tests.pipeline.batches.test_single_photo import png_with_orientation, turned_away


@pytest.fixture(scope="module")
def chosen(shared_run):
    return classifier.of_run(str(shared_run))


@pytest.fixture(scope="module")
def unsure(chosen):
    """The same with probabilities that are not all 0 or 1."""
    return dataclasses.replace(chosen, temperature=100.0)


def predictions(chosen, *names, **settings):
    config = predicting.Config(photos=tuple(map(str, names)), **settings)
    return list(predicting.predict(config, chosen))


class TestPredict:
    def test_a_folder(self, chosen, shared_run, photos):
        (photos / ".hidden.jpg").touch()
        found = predictions(chosen, photos, batch_size=7)
        assert [one.photo for one in found] == sorted(map(str, photos.rglob("[!.]*.*")))
        names = finished_run.read(str(shared_run)).class_names
        for one in found:
            classes = dict(one.classes)
            assert {*classes} == {*names}
            assert sum(classes.values()) == pytest.approx(1)
            assert list(classes.values()) == sorted(classes.values(), reverse=True)
            assert one.answer == one.classes[0][0]
        right = [one.answer in one.photo.rsplit("/", 1)[-1] for one in found]
        assert np.mean(right) > 0.9

    def test_probabilities_are_calibrated(self, chosen, photos):
        path = str(photos / "red" / "red000.jpg")
        (found,) = predictions(chosen, path)
        (batch,) = predicting.photo_batches.read([path], chosen.spec, batch_size=1)
        logits = chosen.model(np.float32(batch.images), training=False).numpy()[0]
        scaled = np.exp(logits.astype(float) / chosen.finished.temperature)
        expected = np.sort(scaled / scaled.sum())[::-1]
        shares = [share for _, share in found.classes]
        assert shares == pytest.approx(expected, rel=1e-4)

    def test_large_photos_are_shrunk_as_the_records_were(self, chosen, tmp_path):
        unsure = dataclasses.replace(chosen, temperature=5.0)
        photo = tmp_path / "large.png"
        cv2.imwrite(str(photo), conftest.draw_scene(9, 700, 900))
        assert unsure.resize_min == source_settings.RESIZE_MIN
        usual = dataclasses.replace(unsure, temperature=1.0)
        for resize_min in (0, 60):
            chosen = dataclasses.replace(usual, resize_min=resize_min)
            (found,) = predictions(chosen, photo)
            seen = single_photo.Viewer(chosen.spec).of_file(
                photo.read_bytes(), resize_min
            )
            logits = chosen.model(np.float32(seen[None]), training=False).numpy()
            expected = np.sort(chosen.probabilities(logits)[0])[::-1]
            shares = [share for _, share in found.classes]
            assert shares == pytest.approx(expected, rel=1e-5)
            (otherwise,) = predictions(usual, photo)
            others = [share for _, share in otherwise.classes]
            assert shares != pytest.approx(others, rel=1e-4)

    def test_top(self, chosen, photos):
        (found,) = predictions(chosen, photos / "red" / "red000.jpg", top=2)
        assert len(found.classes) == 2

    def test_unknown(self, unsure, photos):
        chosen = unsure
        path = photos / "red" / "red000.jpg"
        (sure,) = predictions(chosen, path)
        (found,) = predictions(chosen, path, unknown_below=sure.probability)
        assert found.answer == sure.answer
        above = min(1.0, sure.probability + 1e-6)
        (found,) = predictions(chosen, path, unknown_below=above)
        assert (found.answer, found.probability) == ("unknown", sure.probability)
        assert found.classes == sure.classes

    def test_nothing_there(self, chosen, tmp_path):
        with pytest.raises(DataError, match="no files there"):
            predictions(chosen, tmp_path)

    def test_exif_turned_photos_have_one_answer(self, unsure, tmp_path):
        upright = conftest.draw_photo("green", 5)
        for orientation in range(1, 9):
            stored = turned_away(upright, orientation)
            data = png_with_orientation(stored, orientation)
            (tmp_path / f"{orientation}.png").write_bytes(data)
        cv2.imwrite(str(tmp_path / "upright.png"), upright)
        found = [dict(one.classes) for one in predictions(unsure, tmp_path)]
        assert len(found) == 9
        assert found[0]["green"] < 0.99
        for one in found:
            assert one == pytest.approx(found[0], rel=1e-4)


class TestExplain:
    def test_pictures_and_training_photos(self, chosen, photos, tmp_path):
        folder = tmp_path / "why"
        (tmp_path / "bad.jpg").write_bytes(b"no photo")
        some = [photos / "blue" / f"blue00{n}.jpg" for n in (0, 1, 2)]
        names = (*some, tmp_path / "bad.jpg", photos / "red" / "red001.jpg")
        found = predictions(chosen, *names, explain=str(folder), batch_size=2)
        good = [one for one in found if not one.problem]
        assert sorted(one.picture for one in good) == sorted(map(str, folder.iterdir()))
        assert good[-1].picture.endswith("00004-red001.png")
        for one in good:
            assert len(one.nearest) == predicting.NEIGHBOURS
            likeness = [near.similarity for near in one.nearest]
            assert likeness == sorted(likeness, reverse=True)
            assert cv2.imread(one.picture).shape[1] > 7 * 100
        classes = collections.Counter(
            near.row.class_name == one.answer for one in good for near in one.nearest
        )
        assert classes[True] > 0.8 * classes.total()

    def test_records_that_were_moved(self, chosen, photos, shared_records, tmp_path):
        data = {**chosen.finished.config["data"], "path": str(tmp_path / "gone")}
        config = {**chosen.finished.config, "data": data}
        finished = dataclasses.replace(chosen.finished, config=config)
        moved = dataclasses.replace(chosen, finished=finished)
        how = {"explain": str(tmp_path / "why"), "data": str(shared_records)}
        (found,) = predictions(moved, photos / "red" / "red000.jpg", **how)
        assert len(found.nearest) == predicting.NEIGHBOURS

    def test_without_its_records(self, shared_run, photos, tmp_path, monkeypatch):
        def gone(*_):
            raise DataError("records: gone")

        monkeypatch.setattr(similar_photos, "build", gone)
        path = photos / "red" / "red000.jpg"
        found = predictions(
            classifier.of_run(str(shared_run)), path, explain=str(tmp_path / "why")
        )
        assert found[0].nearest == ()
        assert cv2.imread(found[0].picture).shape[1] < 3 * 130


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"arch": "vgg16"}, "--arch: expected --ckpt beside it"),
        ({"labels": "a.txt"}, "--labels: expected --ckpt"),
        (
            {
                "overrides": preprocessing_overrides.Overrides(
                    image_size=64, mean="1,2,3"
                )
            },
            "--image_size, --mean: expected --ckpt",
        ),
        ({"data": "records"}, "--data: expected --explain"),
        ({"ckpt": "a.npy", "run_dir": "runs/a"}, "not go together with --run_dir"),
        (
            {"ckpt": "a.npy", "explain": "why", "data": "records"},
            "not go together with --data",
        ),
    ],
)
def test_flags_that_would_be_ignored(how, words):
    with pytest.raises(ValueError, match=words):
        predicting.Config(photos=("a.jpg",), **how)


def test_flags_of_weights():
    how = {
        "arch": "vgg16",
        "overrides": preprocessing_overrides.Overrides(image_size=64),
    }
    assert predicting.Config(photos=("a.jpg",), ckpt="a.npy", **how)


def test_the_command(shared_run, photos, tmp_path):
    """One bad photo does not stop the others; CSV whatever the name."""
    strange = tmp_path / os.fsdecode(b"\xff\n,.jpg")
    strange.write_bytes((photos / "red" / "red000.jpg").read_bytes())
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    names = (tmp_path / "bad.jpg", tmp_path / "gone.jpg", strange)
    done = conftest.run_command(
        *("-m", "model.predict", f"--run_dir={shared_run}", "--format=csv"), *names
    )
    assert done.returncode == 2
    assert "2 of 3 photos could not be read, the first: " in done.stderr
    assert "Traceback" not in done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout, newline="")))
    assert [bool(row["problem"]) for row in rows] == [True, True, False]
    assert rows[2]["photo"] == f"{tmp_path}/\\xff\n,.jpg"
    assert rows[2]["answer"] == "red"


def test_json_lines(shared_run, photos):
    done = conftest.run_command(
        *("-m", "model.predict", f"--run_dir={shared_run}", "--format=jsonl"),
        *("--top=1", photos / "blue"),
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 12
    assert all(len(one["classes"]) == 1 for one in found)
