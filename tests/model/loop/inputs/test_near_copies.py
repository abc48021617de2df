"""Near-copies of training photos: the search; listed by training, then left out."""

import csv
import json
import math

import cv2
import numpy as np
import pytest

from model.loop.inputs import near_copies
from model.runs import finished_run
from model.training import settings, train_run
from pipeline.records.manifest_row import Code
from pipeline.system.errors import DataError
from tests.support import conversions, drawn_photos

NUM_SCENES, NUM_COPIED = 36, 6


@pytest.mark.parametrize("k", [1, 3, 200])
def test_blocks_give_the_neighbours_that_a_full_sort_gives(k):
    random = np.random.default_rng(0)
    queries = near_copies.unit_vectors(random.normal(size=(50, 8)))
    vectors = near_copies.unit_vectors(random.normal(size=(101, 2, 4)))
    blocks = (vectors[start : start + 7] for start in range(0, 101, 7))
    cosines, positions = near_copies.nearest(queries, blocks, k)
    products = queries @ vectors.reshape(101, 8).T
    expected = np.argsort(-products, axis=1)[:, :k]
    assert (positions == expected).all()
    best = np.take_along_axis(products, expected, axis=1)
    assert cosines == pytest.approx(best, abs=1e-6)


def write_scenes(folder):
    """Write scenes with splits, and training photos turned by 3 degrees as test."""
    for number in range(NUM_SCENES):
        split = "test" if number % 6 == 1 else "val" if number % 6 == 2 else "train"
        photo = folder / split / "ab"[number // 6 % 2] / f"{number:02d}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        image = drawn_photos.draw_scene(number)
        cv2.imwrite(str(photo), image)
        if number % 6 == 0:
            turned = cv2.getRotationMatrix2D((160, 120), 3, 1)
            copy = folder / "test" / photo.parent.name / f"{number:02d}-turned.jpg"
            copy.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(copy), cv2.warpAffine(image, turned, (320, 240)))


def convert(folder, **options):
    return conversions.convert(folder / "photos", folder / "out", **options)


def test_copies_that_hashes_miss_are_listed_and_left_out(
    tmp_path, weights_cache, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(weights_cache))
    write_scenes(tmp_path / "photos")
    records = convert(tmp_path).manifest
    copies = [row.path for row in records.included() if "turned" in row.path]
    assert len(copies) == NUM_COPIED

    where = {"data": str(records.directory), "run_dir": str(tmp_path / "run")}
    config = settings.Config(ckpt="alexnet", epochs=1, views=1, **where)
    run = train_run.train(config)
    listed = list(csv.DictReader((run / "similar.csv").read_text().splitlines()))
    assert sorted(photo["path"] for photo in listed) == sorted(copies)
    for photo in listed:
        original = photo["path"].replace("-turned", "").replace("test", "train")
        assert photo["similar_to"] == original
    similarities = [float(photo["similarity"]) for photo in listed]
    assert similarities == sorted(similarities, reverse=True)
    warning = "6 test photos look like copies of training photos"
    assert warning in capsys.readouterr().err
    content = finished_run.read(str(run)).near_copies()
    assert [photo["path"] for photo in content["photos"]] == [p["path"] for p in listed]

    summary = convert(tmp_path, corrections=str(run / "similar.csv"))
    left_out = [row for row in summary.manifest.rows if not row.is_included]
    assert sorted(row.path for row in left_out) == sorted(copies)
    for row in left_out:
        assert row.codes == (Code.LEFT_OUT_BY_CORRECTION,)
        assert row.reason.startswith("left out by a correction: similar to train/")
    assert any("left out by corrections: 6 (" in line for line in summary.findings)
    assert not convert(tmp_path).changed  # they stay out


def test_a_damaged_list_of_a_run_is_refused(tmp_path):
    path = tmp_path / "similar.json"
    run = finished_run.FinishedRun(directory=tmp_path, config={})
    assert run.near_copies() == {}
    fitting = {"photos": [], "chance": 0.5, "num_training": 3, "num_training_in_all": 3}
    path.write_text(json.dumps(fitting))
    assert run.near_copies() == fitting
    for change in (
        {"photos": [{"path": 1}]},
        {"chance": math.nan},
        {"num_training": -1},
        {"num_training_in_all": math.inf},
    ):
        path.write_text(json.dumps(fitting | change))
        with pytest.raises(DataError, match=r"similar\.json: damaged"):
            run.near_copies()
