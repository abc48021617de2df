"""Nearest training photos, against a search by hand; the cache that they come from."""

import shutil

import numpy as np
import pytest

from model import features, loop, neighbours, run
from pipeline import dataset, manifest, preprocess, schema, split


@pytest.fixture
def finished(shared_run, tmp_path):
    """A copy of the run, with the features that its training left."""
    runs = tmp_path / "runs"
    shutil.copytree(shared_run, runs / "run")
    shutil.copytree(shared_run.parent / "cache", runs / "cache")
    return run.read(str(runs / "run"))


def embeddings(finished, model, found, rows):
    """What the network says of some photos, computed here."""
    both = neighbours.embedder(model, neighbours.layer_of(finished, model))
    images = dataset.Images(found, rows, finished.spec, batch_size=8)
    views = preprocess.central_views(images.sizes, finished.spec)
    batches = images.run(np.arange(len(rows)), views)
    return np.concatenate(
        [both(np.float32(batch["image"]), training=False)[0] for batch in batches]
    )


def test_nearest(finished, found):
    model = finished.load_model()
    index = neighbours.build(finished, model)
    train_rows, test_rows = found.taken("train"), found.taken("test")
    assert index.rows == train_rows
    known = embeddings(finished, model, found, train_rows).reshape(len(train_rows), -1)
    asked = embeddings(finished, model, found, test_rows)
    flat = asked.reshape(len(asked), -1)
    cosines = flat @ known.T
    cosines /= np.linalg.norm(flat, axis=1)[:, None] * np.linalg.norm(known, axis=1)
    nearest = index.nearest(asked, 3)
    for one, row in zip(nearest, cosines, strict=True):
        best = np.argsort(-row)[:3]
        assert [neighbour.row for neighbour in one] == [train_rows[n] for n in best]
        similarities = [neighbour.similarity for neighbour in one]
        assert similarities == pytest.approx(row[best], abs=1e-5)


def test_a_training_photo_is_nearest_to_itself(finished, found, monkeypatch):
    monkeypatch.setattr(neighbours, "_ROWS_AT_ONCE", 7)  # several blocks
    model = finished.load_model()
    index = neighbours.build(finished, model)
    asked = embeddings(finished, model, found, index.rows)
    for row, one in zip(index.rows, index.nearest(asked, 2), strict=True):
        assert one[0].row == row
        assert one[0].similarity == pytest.approx(1, abs=1e-5)
        assert one[1].similarity < 1
    assert len(index.nearest(asked[:1], 10_000)[0]) == len(index.rows)


def test_features_that_training_left_are_used(finished, found, monkeypatch):
    if finished.config["precision"] != "float32":
        pytest.skip("training computed features in another precision")

    def never(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(features, "as_stored", never)
    assert len(neighbours.build(finished, finished.load_model()).rows) == len(
        found.taken("train")
    )


def test_logits_are_those_of_the_network(finished, found):
    model = finished.load_model()
    both = neighbours.embedder(model, neighbours.layer_of(finished, model))
    image = np.random.default_rng(0).uniform(0, 255, (2, *model.input.shape[1:]))
    image = image.astype(np.float32)
    assert np.allclose(both(image)[1], loop.make_predict_step(model)(image), atol=1e-5)


def test_records_that_have_changed(finished, shared_records, tmp_path):
    records = tmp_path / "records"
    shutil.copytree(shared_records, records)
    split.resplit(split.Config(data=str(records), seed=7))
    with pytest.raises(schema.DataError, match="manifest digest"):
        neighbours.build(finished, finished.load_model(), manifest.read(records))
