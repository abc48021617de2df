"""A classifier of a weight file, and explanations without training photos."""

import keras
import numpy as np
import pytest

from model.evaluation import grad_cam
from model.loop import training_loop
from model.predict import classifier
from pipeline.batches.input_spec import InputSpec
from pipeline.system.errors import DataError

SPEC = InputSpec(size_px=8, short_side_px=8, source="test")


def classifier_of(model):
    return classifier.Classifier(
        name="test", model=model, spec=SPEC, class_names=("a", "b", "c"), temperature=2
    )


@pytest.fixture
def convolutional():
    inputs = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    mean = keras.layers.GlobalAveragePooling2D()(maps)
    return classifier_of(keras.Model(inputs, keras.layers.Dense(3)(mean)))


def test_probabilities_are_divided_by_the_temperature(convolutional):
    logits = np.log([[1.0, 4, 16], [1, 1, 1]])
    probabilities = convolutional.probabilities(logits)
    assert probabilities == pytest.approx(
        np.array([[1 / 7, 2 / 7, 4 / 7], [1 / 3] * 3])
    )
    assert convolutional.most_probable(probabilities[0], 2) == (
        ("c", pytest.approx(4 / 7)),
        ("b", pytest.approx(2 / 7)),
    )


def test_equal_probabilities_are_in_label_order(convolutional):
    assert [n for n, _ in convolutional.most_probable(np.full(3, 1 / 3), 5)] == [*"abc"]


def test_a_weight_file_has_no_training_photos(convolutional, capsys):
    explainer = classifier.Explainer(convolutional)
    note = "note: No similar training photos: only runs have them.\n"
    assert capsys.readouterr().err == note
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    logits, _, explanations = explainer.explain(images, 3)
    step = training_loop.make_predict_step(convolutional.model)
    assert logits == pytest.approx(np.asarray(step(images.astype(np.float32))))
    heat = grad_cam.grad_cam(convolutional.model)(images, logits.argmax(axis=1))
    for explanation, *pair in zip(explanations, images, heat, strict=True):
        assert explanation.overlay == pytest.approx(grad_cam.overlay(*pair), abs=1)
        assert explanation.similar == ()


def test_a_network_without_places_and_training_photos_cannot_be_explained():
    inputs = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(inputs)
    with pytest.raises(DataError, match=r"no layer has a spatial .* only runs"):
        classifier.Explainer(
            classifier_of(keras.Model(inputs, keras.layers.Dense(3)(flat)))
        )
