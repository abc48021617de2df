"""SavedModels as Keras 2 writes them: the variables by TensorFlow, the rest by hand."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.checkpoints import errors, reading
from model.weights import pretrained_classifier
from tests.support import cases
from tests.support.weights import arrays, damage, protobuf

SIDE = 12
TUPLE = {"class_name": "__tuple__"}


def as_keras_2(value):
    """Mark lists as Keras 2 marks tuples."""
    if isinstance(value, dict):
        return {key: as_keras_2(item) for key, item in value.items()}
    if isinstance(value, list) and all(isinstance(i, int) for i in value):
        return TUPLE | {"items": value}
    return [*map(as_keras_2, value)] if isinstance(value, list) else value


def node(path, kind, description):
    """A SavedObject of keras_metadata.pb."""
    texts = {3: path, 4: kind, 5: json.dumps(description)}
    body = b"".join(protobuf.text(number, value) for number, value in texts.items())
    return protobuf.message(1, body)


def tracked(**attributes):
    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def write(folder, model):
    """Write a classifier of a network in a network and a dense layer; two levels."""
    inner, dense = model.layers
    nodes = [
        node("root", "_tf_keras_sequential", as_keras_2(json.loads(model.to_json()))),
        node("root.layer_with_weights-0", "_tf_keras_network", {"name": inner.name}),
        node("root.layer_with_weights-1", "_tf_keras_layer", {"name": dense.name}),
        node("root.keras_api.metrics.0", "_tf_keras_metric", {"name": "loss"}),
    ]
    children = {}
    for number, layer in enumerate(layer for layer in inner.layers if layer.weights):
        path = f"layer_with_weights-{number}"
        nodes.append(
            node(
                f"root.layer_with_weights-0.{path}",
                "_tf_keras_layer",
                {"name": layer.name},
            )
        )
        # The full names are of no use: all layers have the same.
        children[path] = tracked(
            **{v.name: tf.Variable(v.numpy(), name="v") for v in layer.weights}
        )
    last = {v.name: tf.Variable(v.numpy(), name="v") for v in dense.weights}
    root = tf.train.Checkpoint(
        **{
            "layer_with_weights-0": tracked(**children),
            "layer_with_weights-1": tracked(**last),
        }
    )
    root.write(str(folder / "variables" / "variables"))
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    (folder / "keras_metadata.pb").write_bytes(b"".join(nodes))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder and its Keras model."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    inner = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, name="stem", activation="relu"),
            layers.Conv2D(5, 3, name="top"),
            layers.GlobalAveragePooling2D(),
        ],
        name="inner",
    )
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            inner,
            layers.Dense(3, "softmax", name="answer"),
        ]
    )
    folder = tmp_path_factory.mktemp("saved") / "model.savedmodel"
    (folder / "variables").mkdir(parents=True)
    write(folder, model)
    return folder, model


def test_variables_are_named_by_their_layers(saved):
    folder, model = saved
    expected = {
        f"{layer.name}/{variable.name}": variable.numpy()
        for layer in (*model.layers[0].layers, model.layers[1])
        for variable in layer.weights
    }
    for path in (folder, folder / "saved_model.pb", folder / "keras_metadata.pb"):
        checkpoint = reading.read(path)
        assert checkpoint.format == "Keras SavedModel"
        named = {n: t for n, t in checkpoint.tensors.items() if n != "save_counter"}
        arrays.assert_same(named, expected)


def test_the_classifier_answers_as_in_keras(saved):
    folder, model = saved
    classifier = pretrained_classifier.load(str(folder))
    photo = np.random.default_rng(0).uniform(0, 255, (2, SIDE, SIDE, 3))
    found = keras.ops.softmax(classifier.model(photo.astype(np.float32)))
    expected = model(photo.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_graph_without_configuration_is_called_that(tmp_path):
    module = tracked(v=tf.Variable(np.ones((3, 3, 3, 4), np.float32)))
    tf.saved_model.save(module, tmp_path / "plain")
    message = "plain: is a SavedModel without the configuration .* plain/variables"
    with pytest.raises(
        errors.UnknownFormat, match=message.replace(" plain", ".*plain")
    ):
        reading.read(tmp_path / "plain")
    tensors = reading.read(tmp_path / "plain" / "variables").tensors
    assert [array.shape for array in tensors.values()] == [(3, 3, 3, 4)]


def copy(folder, target, metadata):
    """A SavedModel with another keras_metadata.pb."""
    target.mkdir(exist_ok=True)
    if not (target / "variables").exists():
        (target / "variables").symlink_to(folder / "variables")
    (target / "saved_model.pb").write_bytes(b"\x08\x01")
    (target / "keras_metadata.pb").write_bytes(metadata)
    return target


@cases.table(
    "metadata, message",
    {
        "nothing": (b"", "without the configuration"),
        "no JSON": (
            protobuf.message(
                1, b"".join(protobuf.text(n, t) for n, t in ((3, "root"), (5, "{")))
            ),
            "without the configuration",
        ),
        "JSON that is cut off": (
            protobuf.message(
                1,
                b"".join(
                    protobuf.text(n, t)
                    for n, t in ((3, "root"), (4, "_tf_keras_network"), (5, '{"a'))
                ),
            ),
            "the description of root is not JSON",
        ),
        "an exabyte": (
            protobuf.varint(10) + protobuf.varint(1 << 60),
            "runs past its message",
        ),
    },
)
def test_hostile_metadata_are_refused(saved, tmp_path, metadata, message):
    with pytest.raises(errors.CheckpointError, match=re.escape(message)):
        reading.read(copy(saved[0], tmp_path / "copy", metadata))


def test_damaged_metadata_are_read_or_refused(saved, tmp_path):
    data = (saved[0] / "keras_metadata.pb").read_bytes()
    counts = damage.outcomes(
        lambda metadata: reading.read(copy(saved[0], tmp_path / "copy", metadata)),
        data,
        60,
    )
    assert counts["CorruptCheckpoint"]
