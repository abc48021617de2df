"""What answers without a run: weights as they are."""

import keras
import numpy as np
import pytest

from model.evaluation import grad_cam
from model.predict import classifier
from pipeline.batches.input_spec import InputSpec
from pipeline.system.errors import DataError

SPEC = InputSpec(size_px=8, short_side_px=8, source="test")


def of(model):
    return classifier.Classifier(
        name="test", model=model, spec=SPEC, class_names=("a", "b", "c"), temperature=2
    )


@pytest.fixture
def convolutional():
    inputs = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    mean = keras.layers.GlobalAveragePooling2D()(maps)
    return of(keras.Model(inputs, keras.layers.Dense(3)(mean)))


def test_probabilities(convolutional):
    logits = np.log([[1.0, 4, 16], [1, 1, 1]])
    found = convolutional.probabilities(logits)
    assert found == pytest.approx(np.array([[1 / 7, 2 / 7, 4 / 7], [1 / 3] * 3]))
    assert convolutional.likeliest(found[0], 2) == (
        ("c", pytest.approx(4 / 7)),
        ("b", pytest.approx(2 / 7)),
    )


def test_equal_ones_are_in_label_order(convolutional):
    assert [n for n, _ in convolutional.likeliest(np.full(3, 1 / 3), 5)] == [*"abc"]


def test_a_weight_file_has_no_training_photos(convolutional):
    explainer = classifier.Explainer(convolutional)
    assert explainer.missing == ["no nearest training photos: a weight file has none"]
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    logits, seen = explainer.classify(images)
    step = convolutional.predict_step()
    assert logits == pytest.approx(np.asarray(step(images.astype(np.float32))))
    heat = grad_cam.grad_cam(convolutional.model)(images, logits.argmax(axis=1))
    assert seen.heat == pytest.approx(heat, abs=1e-6)
    found = explainer.explain(seen, (1, 0), 3)
    for one, number in zip(found, (1, 0), strict=True):
        assert (one.overlay == grad_cam.overlay(images[number], heat[number])).all()
    assert [one.nearest for one in found] == [(), ()]


def test_nothing_to_explain():
    inputs = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(inputs)
    with pytest.raises(DataError, match="no layer keeps places"):
        classifier.Explainer(of(keras.Model(inputs, keras.layers.Dense(3)(flat))))
