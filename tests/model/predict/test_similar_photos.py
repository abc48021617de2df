"""Nearest training photos, against a search by hand; the cache that they come from."""

import shutil

import keras
import numpy as np
import pytest

from model.loop import feature_cache, training_loop
from model.networks import architecture, head
from model.predict import classifier, similar_photos
from model.runs import finished_run
from pipeline import split
from pipeline.batches import crop_and_resize, image_batches
from pipeline.system.errors import DataError
from tests import small_runs


@pytest.fixture
def finished(shared_run, tmp_path):
    """A copy of the run, with the features that its training left."""
    runs = tmp_path / "runs"
    shutil.copytree(shared_run, runs / "run")
    shutil.copytree(shared_run.parent / "cache", runs / "cache")
    return finished_run.read(str(runs / "run"))


def embeddings(finished, model, found, rows):
    """What the network says of some photos, computed here."""
    both = similar_photos.embedder(finished, model)
    images = image_batches.Images(found, rows, finished.spec, batch_size=8)
    views = crop_and_resize.central_views(images.sizes, finished.spec)
    batches = images.run(np.arange(len(rows)), views)
    return np.concatenate(
        [both(np.float32(batch["image"]), training=False)[0] for batch in batches]
    )


def test_nearest(finished, found):
    model = finished.load_model()
    index = similar_photos.build(finished, model)
    train_rows, test_rows = found.included("train"), found.included("test")
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
    monkeypatch.setattr(similar_photos, "_ROWS_AT_ONCE", 7)  # several blocks
    model = finished.load_model()
    index = similar_photos.build(finished, model)
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

    monkeypatch.setattr(feature_cache, "as_stored", never)
    assert len(similar_photos.build(finished, finished.load_model()).rows) == len(
        found.included("train")
    )


def test_logits_are_those_of_the_network(finished, found):
    model = finished.load_model()
    both = similar_photos.embedder(finished, model)
    image = np.random.default_rng(0).uniform(0, 255, (2, *model.input.shape[1:]))
    image = image.astype(np.float32)
    assert np.allclose(
        both(image)[1], training_loop.make_predict_step(model)(image), atol=1e-5
    )


def test_records_that_have_changed(finished, shared_records, tmp_path):
    records = tmp_path / "records"
    shutil.copytree(shared_records, records)
    split.resplit(split.Config(data=str(records), seed=7))
    with pytest.raises(DataError, match="manifest digest"):
        similar_photos.build(finished, finished.load_model(), str(records))


def test_records_that_were_moved(finished, shared_records):
    finished.config["data"]["path"] = "gone"
    model = finished.load_model()
    with pytest.raises(DataError, match="gone: no manifest"):
        similar_photos.build(finished, model)
    assert similar_photos.build(finished, model, str(shared_records)).rows


def small(folder, found, *, has_head, has_map=True):
    """A classifier by a run whose network ends in a vector, with a head or without."""
    spec, kinds = small_runs.SPEC, keras.layers
    image = keras.Input((spec.size_px, spec.size_px, 3), name=architecture.INPUT)
    x = architecture.normalisation(spec)(image)
    if has_map:
        x = kinds.Conv2D(4, 3, name="part_of_another")(x)
    x = kinds.GlobalAveragePooling2D(name="end_of_another")(x)
    if has_head:
        x = kinds.Flatten(name=head.FLATTEN_LAYER)(x)
    model = keras.Model(image, kinds.Dense(3, name=head.FINAL_LAYER)(x))
    finished = small_runs.write_run(folder / "run", found, model)
    finished.config["features"] = "another"  # a model, of which these layers are
    return classifier.Classifier(
        name="small",
        model=finished.load_model(),
        spec=spec,
        class_names=found.class_names,
        finished=finished,
    )


def test_a_head_on_a_model_inside_another(found, tmp_path):
    """Its name is that of no layer."""
    chosen = small(tmp_path, found, has_head=True)
    explainer = classifier.Explainer(chosen)
    assert explainer.missing == []
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3)).astype(np.uint8)
    _, seen = explainer.classify(images)
    assert seen.embeddings.shape == (2, 4)
    found = explainer.explain(seen, (0, 1), 3)
    assert [len(one.nearest) for one in found] == [3, 3]


def test_no_map(found, tmp_path):
    """There is no Grad-CAM, but there are photos that are alike."""
    explainer = classifier.Explainer(
        small(tmp_path, found, has_head=True, has_map=False)
    )
    (line,) = explainer.missing
    assert "so there is no Grad-CAM" in line
    images = np.zeros((2, 24, 24, 3), np.uint8)
    logits, seen = explainer.classify(images)
    assert (logits.shape, seen.embeddings.shape, seen.heat) == ((2, 3), (2, 3), None)
    (one,) = explainer.explain(seen, (1,), 3)
    assert one.overlay is None
    assert len(one.nearest) == 3


def test_no_head(found, tmp_path):
    chosen = small(tmp_path, found, has_head=False)
    explainer = classifier.Explainer(chosen)
    (line,) = explainer.missing
    assert line.startswith("no nearest training photos: ")
    assert "expected head_pool or head_flatten" in line
