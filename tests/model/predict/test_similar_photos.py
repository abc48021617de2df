"""Similar training photos, compared with a search by hand; their cached features."""

import shutil

import keras
import numpy as np
import pytest

from model.loop.inputs import feature_cache
from model.networks import architecture, head
from model.predict import classifier, similar_photos
from model.runs import finished_run
from pipeline import split
from pipeline.batches import crop_and_resize, image_batches
from pipeline.system.errors import DataError
from tests.support import small_runs


@pytest.fixture
def run(shared_run, tmp_path):
    """A copy of the run with the features that its training cached."""
    runs = tmp_path / "runs"
    shutil.copytree(shared_run, runs / "run")
    shutil.copytree(shared_run.parent / "cache", runs / "cache")
    return finished_run.read(str(runs / "run"))


def embeddings(run, model, records, rows):
    """Inputs of the head for photos, computed here."""
    embedder = similar_photos.build_embedder(run, model)
    images = image_batches.Images(records, rows, run.spec, batch_size=8)
    views = crop_and_resize.central_views(images.sizes, run.spec)
    batches = images.run(np.arange(len(rows)), views)
    return np.concatenate(
        [embedder(np.float32(batch["image"]), training=False)[0] for batch in batches]
    )


def test_the_most_similar_photos_have_the_largest_cosines(run, found):
    model = run.load_model()
    index = similar_photos.build_index(run, model)
    train_rows, test_rows = found.included("train"), found.included("test")
    assert index.rows == train_rows
    train = embeddings(run, model, found, train_rows).reshape(len(train_rows), -1)
    queries = embeddings(run, model, found, test_rows)
    flat = queries.reshape(len(queries), -1)
    cosines = flat @ train.T
    cosines /= np.linalg.norm(flat, axis=1)[:, None] * np.linalg.norm(train, axis=1)
    results = index.most_similar(queries, 3)
    for photos, row in zip(results, cosines, strict=True):
        best = np.argsort(-row)[:3]
        assert [photo.row for photo in photos] == [train_rows[n] for n in best]
        similarities = [photo.similarity for photo in photos]
        assert similarities == pytest.approx(row[best], abs=1e-5)


def test_a_training_photo_is_most_similar_to_itself(run, found, monkeypatch):
    monkeypatch.setattr(similar_photos, "_BLOCK_ROWS", 7)  # several blocks
    model = run.load_model()
    index = similar_photos.build_index(run, model)
    queries = embeddings(run, model, found, index.rows)
    results = index.most_similar(queries, 2)
    for row, (first, second) in zip(index.rows, results, strict=True):
        assert first.row == row
        assert first.similarity == pytest.approx(1, abs=1e-5)
        assert second.similarity < 1
    assert len(index.most_similar(queries[:1], 10_000)[0]) == len(index.rows)


def test_features_that_training_cached_are_used(run, found, monkeypatch):
    if run.config["precision"] != "float32":
        pytest.skip("training computed features in another precision")

    def never(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(feature_cache, "as_stored", never)
    index = similar_photos.build_index(run, run.load_model())
    assert len(index.rows) == len(found.included("train"))


def test_records_that_have_changed_are_refused(run, shared_records, tmp_path):
    records = tmp_path / "records"
    shutil.copytree(shared_records, records)
    split.resplit(split.Config(data=str(records), seed=7))
    with pytest.raises(DataError, match="manifest digest"):
        similar_photos.build_index(run, run.load_model(), str(records))


def small(folder, found, *, has_head, has_places=True):
    """A classifier whose network ends in a vector, with a head or without."""
    spec, kinds = small_runs.SPEC, keras.layers
    image = keras.Input((spec.size_px, spec.size_px, 3), name=architecture.INPUT)
    x = architecture.normalisation(spec)(image)
    if has_places:
        x = kinds.Conv2D(4, 3, name="part_of_another")(x)
    x = kinds.GlobalAveragePooling2D(name="end_of_another")(x)
    if has_head:
        x = kinds.Flatten(name=head.FLATTEN_LAYER)(x)
    model = keras.Model(image, kinds.Dense(3, name=head.FINAL_LAYER)(x))
    run = small_runs.write_run(folder / "run", found, model)
    model = run.load_model()
    run.config["features"] = "another"  # a model, of which these layers are
    return classifier.Classifier(
        name="small", model=model, spec=spec, class_names=found.class_names, run=run
    )


def notes(capsys):
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("note: ")]


def test_the_head_of_a_model_inside_another_is_found(found, tmp_path, capsys):
    explainer = classifier.Explainer(small(tmp_path, found, has_head=True))
    assert notes(capsys) == []
    _, _, explanations = explainer.explain(np.zeros((2, 24, 24, 3), np.uint8), 3)
    assert [len(explanation.similar) for explanation in explanations] == [3, 3]


def test_a_network_without_places_still_finds_similar_photos(found, tmp_path, capsys):
    network = small(tmp_path, found, has_head=True, has_places=False)
    explainer = classifier.Explainer(network)
    (line,) = notes(capsys)
    assert "so there is no Grad-CAM" in line
    logits, _, explanations = explainer.explain(np.zeros((2, 24, 24, 3), np.uint8), 3)
    assert logits.shape == (2, 3)
    assert [explanation.overlay for explanation in explanations] == [None, None]
    assert [len(explanation.similar) for explanation in explanations] == [3, 3]


def test_a_network_without_a_head_finds_no_similar_photos(found, tmp_path, capsys):
    classifier.Explainer(small(tmp_path, found, has_head=False))
    (line,) = notes(capsys)
    assert line.startswith("note: No similar training photos: ")
    assert "Expected a layer head_pool or head_flatten" in line
