"""Models that --format=keras writes are weight files, too, with the run's answers."""

import dataclasses
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from model import inspect
from model.checkpoints import errors, reading
from model.export import exportable
from model.networks import head, registry
from model.networks.keras_models import from_keras_config
from model.predict import classifier, predict_settings, predicting
from model.training import settings, starting_point
from model.weights import pretrained_classifier, weight_file
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest
from tests.support import exports, small_runs

SPEC = InputSpec(
    size_px=32,
    short_side_px=40,
    mean=(100.0, 110.0, 120.0),
    std=(50.0, 60.0, 70.0),
    resize="pad",
    source="assumed, by nobody",
)


def users_network():
    """A network of a user, with a layer that has a name of Graft's."""
    kinds = keras.layers
    image = keras.Input((32, 32, 3))
    x = kinds.Conv2D(4, 3, 2, activation="relu", name="first")(image)
    x = kinds.Conv2D(6, 3, 2, activation="relu", name="features")(x)
    x = kinds.GlobalAveragePooling2D(name="mean")(x)
    model = keras.Model(image, kinds.Dense(4, name="classes")(x), name="users")
    return from_keras_config.rebuild(model.to_json(), "file")


HEADS = {  # network, layers, pooling, scaling, hidden units
    "roots": ("cifar10_quick", ("pool3",), "average", "roots", 0),
    "all numbers": ("cifar10_quick", ("ip1",), "none", "none", 3),
    "groups": ("caffenet", ("conv5",), "average", "length", 0),
    "statistics": ("", ("first", "features_in_file"), "statistics", "none", 5),
    "layers": (
        *("", ("first", "features_in_file"), "statistics", "length_per_layer", 0),
    ),
    "whole": ("", ("first", "features_in_file"), "statistics", "length", 0),
    "own roots": ("", ("first", "features_in_file"), "average", "roots", 0),
}


@pytest.fixture(scope="module", params=HEADS)
def run(request, shared_records, tmp_path_factory):
    """A finished run with random weights, on one of HEADS."""
    found, folder = manifest.read(shared_records), tmp_path_factory.mktemp("exported")
    name, features, pooling, scaling, hidden = HEADS[request.param]
    network = registry.NETWORKS[name] if name else users_network()
    size_px = 64 if name == "caffenet" else SPEC.size_px
    spec = dataclasses.replace(SPEC, size_px=size_px, short_side_px=size_px + 8)
    keras.utils.set_random_seed(1)
    part = network.build_part(spec, features)
    output = head.pool_features(part.output, features, pooling, scaling)
    output = head.scale_features(output, scaling)
    for layer in head.make_layers(3, hidden=hidden, dropout=0.4, seed=0):
        output = layer(output)
    model = keras.Model(part.input, output, name=network.name)
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        fan_in = np.prod(variable.shape[:-1])
        scale = 3 if "logits" in variable.path else 1
        variable.assign(random.normal(0, scale * fan_in**-0.5, variable.shape))
    config = {"features": ",".join(features), "pooling": pooling, "scaling": scaling}
    config |= {"hidden": hidden, "data": {"resize_min": 99, "white_level": 4095}}
    return small_runs.write_run(
        folder / "run", found, model, spec, network.name, **config
    )


@pytest.fixture(scope="module")
def path(run):
    """The exported model, elsewhere."""
    return export(run, run.directory.with_name("moved.keras"))


def export(run, path):
    """Write what --format=keras does, without the proof; return the path."""
    source = exportable.load_run(run)
    source.model.save(path)
    weight_file.mark_keras(path, source.metadata)
    return str(path)


def test_it_answers_as_the_run_wherever_it_lies(run, path):
    of_run = classifier.load_run(str(run.directory))
    config = predict_settings.Config(photos=("a.jpg",), ckpt=path)
    of_file = predicting.load_classifier(config)
    assert of_file.class_names == of_run.class_names
    assert of_file.spec == dataclasses.replace(of_run.spec, source=of_file.spec.source)
    assert of_file.spec.source == "stated by the file, an exported run"
    assert (of_file.resize_min, of_file.white_level) == (99, 4095)
    size_px = of_run.spec.size_px
    images = np.random.default_rng(2).uniform(0, 255, (4, size_px, size_px, 3))
    images[:, size_px // 2 :] *= np.eye(4, 3)[:, None, None]  # of different colours
    images = images.astype(np.float32)
    expected, found = (
        one.probabilities(one.predict_step()(images)[0]) for one in (of_run, of_file)
    )
    assert expected.std(axis=0).max() > 1e-4
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("keep_head", [True, False])
def test_a_training_starts_where_the_head_of_the_run_sat(run, path, found, keep_head):
    config = settings.Config(
        ckpt=path, keep_head=keep_head, hidden=run.config["hidden"]
    )
    start = starting_point.choose(config, found)
    assert ",".join(start.features) == run.config["features"]
    assert start.spec == run.spec
    assert start.train_from == head.FINAL_LAYER
    assert ("logits" in start.restored.values) == keep_head
    if keep_head:
        assert start.scaling == run.config["scaling"]


@pytest.mark.parametrize("run", ["roots"], indirect=True)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", "nan", "ip2 of cifar10_quick cannot be restored"),
        ("temperature", "0", "ip2 of cifar10_quick cannot be restored"),
        ("features", "pool9", "ip2 of cifar10_quick cannot be restored"),
        ("features", "", "ip2 of cifar10_quick cannot be restored"),
        ("features", "ip1", "ip1 of cifar10_quick is not a feature map"),
        ("pooling", "none", "logits of cifar10_quick cannot be restored"),
        ("scaling", "cubes", "ip2 of cifar10_quick cannot be restored"),
    ],
)
def test_what_a_file_states_wrongly_is_refused(run, tmp_path, name, value, message):
    source = exportable.load_run(run)
    source.metadata[name] = value
    source.model.save(tmp_path / "a.keras")
    weight_file.mark_keras(tmp_path / "a.keras", source.metadata)
    with pytest.raises(errors.CheckpointError, match=message):
        pretrained_classifier.load(str(tmp_path / "a.keras"))


@pytest.mark.parametrize("run", ["own roots"], indirect=True)
def test_inspect_says_what_it_holds(path):
    checkpoint = reading.read(Path(path))
    text = inspect.report_fittings(checkpoint)
    assert "fits keras-users" in text
    assert "a new head may sit on features_in_file" in text


def test_another_export_leaves_no_scores_of_an_earlier_one(small_run, tmp_path):
    run = dataclasses.replace(small_run, directory=tmp_path / "run")
    shutil.copytree(small_run.directory, run.directory)
    out = tmp_path / "out" / "a.keras"
    exports.export(run, "keras", out)
    (out.parent / "b-strangers.keras").touch()  # not beside this file
    names = {"README.md", "a.keras", "a-strangers.keras", "b-strangers.keras"}
    assert {path.name for path in out.parent.iterdir()} == names | {"labels.txt"}
    (run.directory / "strangers.npz").unlink()
    exports.export(run, "keras", out)
    names -= {"a-strangers.keras"}
    assert {path.name for path in out.parent.iterdir()} == names | {"labels.txt"}
