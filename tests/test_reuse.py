"""Weights reused block by block, and a pretrained network evaluated as it is."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
import pytest

import evaluate
from model.checkpoints import errors, reading
from model.evaluation import evaluation_settings
from model.export import export_settings, exporting
from model.runs import finished_run
from model.training import train_run
from model.weights import model_variables
from tests.support import drawn_photos, networks

pytestmark = pytest.mark.usefixtures("only_trained")


@pytest.fixture
def quick(tiny_config):
    return dataclasses.replace(tiny_config, views=-1)


def ledger(config):
    """Return {status: layers} of all tensors, and the layers that stayed frozen."""
    content = json.loads((Path(config.run_dir) / "ledger.json").read_text())
    layers = {}
    for entry in content["tensors"]:
        name = entry["variable"] or entry["tensor"]
        layers.setdefault(entry["status"], set()).add(name.split("/")[0])
    return layers, {entry["variable"].split("/")[0] for entry in content["frozen"]}


def config_json(config):
    return json.loads((Path(config.run_dir) / "config.json").read_text())


def arrays_of(config):
    return model_variables.gather(finished_run.read(config.run_dir).load_model())


def test_all_that_fits_is_restored(quick):
    train_run.train(quick)
    layers, frozen = ledger(quick)
    assert layers == {
        "restored": {"conv1", "conv2", "fc3", "fc4"},
        "unused": {"fc5"},
        "new": {"logits"},
    }
    assert frozen == layers["restored"]


def test_skipped_layers_are_new_and_train(quick):
    config = dataclasses.replace(quick, skip="fc3,fc4", features="fc4")
    train_run.train(config)
    layers, frozen = ledger(config)
    assert layers["restored"] == frozen == {"conv1", "conv2"}
    assert layers["skipped"] == {"fc3", "fc4"}
    assert layers["new"] == {"fc3", "fc4", "logits"}
    assert config_json(config)["stages"][0]["train_from"] == "fc3"


def test_a_skip_of_no_layer_is_refused(quick):
    with pytest.raises(
        errors.MismatchedCheckpoint, match=r"--skip=fc9: tiny .*conv1, conv2, fc3"
    ):
        train_run.train(dataclasses.replace(quick, skip="fc3,fc9"))


def test_the_head_sits_where_the_layers_of_the_file_end_or_higher(quick, tmp_path):
    arrays = networks.tiny_arrays(("conv1", "conv2"))
    ckpt = networks.write_tiny(tmp_path / "some.npy", arrays)
    config = dataclasses.replace(quick, ckpt=ckpt)
    train_run.train(config)
    assert config_json(config)["features"] == "pool2"
    deeper = dataclasses.replace(config, features="fc4", run_dir=f"{tmp_path}/deeper")
    with pytest.raises(errors.MismatchedCheckpoint, match="--skip=fc3,fc4"):
        train_run.train(deeper)
    deeper = dataclasses.replace(deeper, skip="fc3,fc4")
    train_run.train(deeper)
    assert ledger(deeper)[0]["new"] == {"fc3", "fc4", "logits"}


def test_a_name_that_nearly_fits_is_reported(quick, tmp_path, capsys):
    arrays = {
        name.replace("fc4", "fc4_flickr"): array
        for name, array in networks.tiny_arrays().items()
    }
    ckpt = networks.write_tiny(tmp_path / "near.safetensors", arrays)
    config = dataclasses.replace(quick, ckpt=ckpt)
    train_run.train(config)
    assert config_json(config)["features"] == "fc3"
    message = "the file has fc4_flickr, the network has fc4"
    assert message in capsys.readouterr().err
    assert "fc4_flickr" in ledger(config)[0]["unused"]


@pytest.mark.parametrize(
    "name",
    [
        "w.safetensors",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("w.h5", "w.weights.h5", "w.npy")
        ),
    ],
)
def test_exported_weights_of_a_run_start_another_run(quick, tmp_path, name):
    """The layers and the preprocessing are those of the run."""
    overrides = dataclasses.replace(quick.overrides, scale=2.0)
    first = dataclasses.replace(quick, train_from="fc4", overrides=overrides)
    train_run.train(first)
    path = str(tmp_path / "out" / name)
    export = export_settings.Config(run_dir=first.run_dir, weights=path)
    assert exporting.export_weights(export)["logits/kernel"] == (7, 3)
    second = dataclasses.replace(quick, ckpt=path, run_dir=f"{tmp_path}/b", epochs=1)
    train_run.train(second)
    assert config_json(second)["input_spec"]["scale"] == 2.0
    before, after = arrays_of(first), arrays_of(second)
    for layer in ("conv1", "conv2", "fc3", "fc4"):
        np.testing.assert_array_equal(
            after[f"{layer}/kernel"], before[f"{layer}/kernel"]
        )
    assert "logits" in ledger(second)[0]["unused"]


def write_foreign_model(path):
    """Write a model that Keras saved and that is none of our networks."""
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(6, activation="relu", name="embedding"),
            keras.layers.Dense(4, activation="softmax", name="classes"),
        ],
        name="theirs",
    )
    model.save(path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.keras", "w.safetensors", "w.h5", "w.npy"])
def test_a_run_on_a_rebuilt_model_starts_another_run(quick, tmp_path, name):
    ckpt = write_foreign_model(tmp_path / "theirs.keras")
    first = dataclasses.replace(quick, ckpt=ckpt)
    path = str(train_run.train(first) / name)
    if name != "model.keras":
        export = export_settings.Config(run_dir=first.run_dir, weights=path)
        exporting.export_weights(export)
    second = dataclasses.replace(first, ckpt=path, run_dir=str(tmp_path / "b"))
    train_run.train(second)
    assert config_json(second)["network"] == "keras-theirs"
    assert config_json(second)["input_spec"] == config_json(first)["input_spec"]
    assert ledger(second)[0] == {
        "restored": {"first", "norm"},  # the head sits below the dense layers
        "unused": {"logits"},
        "new": {"logits"},
    }
    exported = {"ckpt": path, "data": quick.data, "split": "test"}
    if name != "model.keras":  # it has the head, class names and temperature, too
        of_run = evaluate_with(run_dir=first.run_dir)
        of_file = evaluate_with(**exported)
        assert of_file["loss"] == pytest.approx(of_run["calibrated_loss"], rel=1e-4)
        return
    with pytest.raises(errors.MismatchedCheckpoint, match="--run_dir"):
        evaluate_with(**exported)


def test_a_run_folder_is_no_checkpoint(quick, shared_run):
    config = dataclasses.replace(quick, ckpt=str(shared_run))
    with pytest.raises(errors.UnknownFormat, match=r"is the folder of a run"):
        train_run.train(config)


def evaluate_with(**flags):
    return evaluate.evaluate(evaluation_settings.Config(**flags))


class TestPretrained:
    _trained: ClassVar = []

    @pytest.fixture
    def trained(self, quick, tmp_path_factory):
        """The settings of a training of all layers, which one process does once."""
        if not self._trained:
            changes = {"train_from": "conv1", "epochs": 12}
            run_dir = str(tmp_path_factory.mktemp("whole") / "run")
            config = dataclasses.replace(quick, **changes, run_dir=run_dir)
            train_run.train(config)
            self._trained.append(config)
        return self._trained[0]

    @pytest.fixture
    def ckpt(self, trained, tmp_path):
        """The trained network, its final layer under the network's own name."""
        arrays = {
            name.replace("logits", "fc5"): array
            for name, array in arrays_of(trained).items()
        }
        return networks.write_tiny(tmp_path / "whole.safetensors", arrays)

    def test_a_pretrained_network_has_the_figures_of_the_run(self, ckpt, trained):
        by_run = evaluate_with(run_dir=trained.run_dir)
        by_weights = evaluate_with(ckpt=ckpt, data=trained.data, split="test")
        assert by_weights["accuracy"] == by_run["accuracy"] > 0.6
        assert by_weights["confusion_matrix"] == by_run["confusion_matrix"]
        assert by_weights["loss"] == pytest.approx(by_run["loss"], rel=1e-4)

    def test_labels_name_the_classes_of_a_pretrained_network(self, ckpt, tmp_path):
        """Their order differs from that of the folders."""
        photos = drawn_photos.write_photos(tmp_path / "photos", per_class=6)
        order = [2, 0, 1]
        arrays = {
            name: array[..., order] if name.startswith("fc5") else array
            for name, array in reading.read(Path(ckpt)).tensors.items()
        }
        turned = networks.write_tiny(tmp_path / "turned.safetensors", arrays)
        labels = tmp_path / "labels.txt"
        labels.write_text("red\nblue\ngreen\n")
        flags = {"data": str(photos), "split": "all"}
        plain = evaluate_with(ckpt=ckpt, **flags)
        figures = evaluate_with(ckpt=turned, labels=str(labels), **flags)
        assert figures["num_examples"] == 18
        assert figures["accuracy"] == plain["accuracy"] > 0.6
        assert figures["class_names"] == ["red", "blue", "green"]
        labels.write_text("cat\ndog\nred\n")
        with pytest.raises(errors.MismatchedCheckpoint, match="class blue of the data"):
            evaluate_with(ckpt=ckpt, labels=str(labels), **flags)
