"""Weights reused block by block, and a pretrained network judged as it is."""

import dataclasses
import json

import keras
import numpy as np
import pytest

import evaluate
from model.checkpoints import errors, reading
from model.evaluation import evaluation_settings
from model.export import export_settings, exporting
from model.runs import finished_run, run_folder
from model.training import settings, train_run
from model.weights import model_variables, preprocessing_overrides, weight_file
from tests.support import drawn_photos

LAYERS = ("conv1", "conv2", "fc3", "fc4", "fc5")


def tiny_arrays(tiny, layers=LAYERS, num_classes=0):
    """{"layer/variable": array} that keep the features of an image alive."""
    random = np.random.default_rng(3)
    shapes = tiny.variable_shapes(tiny.input_spec, num_classes)
    return {
        f"{layer}/{name}": random.normal(0, 0.3, shape).astype(np.float32)
        for layer, variables in shapes.items()
        for name, shape in variables.items()
        if layer in layers
    }


def write(tiny, path, arrays):
    weight_file.write(path, arrays, weight_file.describe("tiny", tiny.input_spec))
    return str(path)


@pytest.fixture
def quick(tiny, shared_records, tmp_path):
    """Settings of a training of the tiny network."""
    return settings.Config(
        ckpt=write(tiny, tmp_path / "w.safetensors", tiny_arrays(tiny)),
        data=str(shared_records),
        run_dir=str(tmp_path / "run"),
        epochs=2,
        batch_size=16,
        learning_rate=1e-2,
        precision="float32",
    )


def ledger(config):
    tensors = json.loads((run_folder.Path(config.run_dir) / "ledger.json").read_text())
    found = {}
    for entry in tensors["tensors"]:
        found.setdefault(entry["status"], set()).add(
            (entry["variable"] or entry["tensor"]).split("/")[0]
        )
    return found, {entry["variable"] for entry in tensors["frozen"]}


def about(config):
    return json.loads((run_folder.Path(config.run_dir) / "config.json").read_text())


def test_all_that_fits_is_restored(quick):
    train_run.train(quick)
    found, frozen = ledger(quick)
    assert found == {
        "restored": {"conv1", "conv2", "fc3", "fc4"},
        "unused": {"fc5"},
        "new": {"logits"},
    }
    assert {name.split("/")[0] for name in frozen} == found["restored"]


def test_layers_left_out_on_purpose_are_new_and_train(quick):
    config = dataclasses.replace(quick, skip="fc3,fc4", features="fc4")
    train_run.train(config)
    found, frozen = ledger(config)
    assert found["restored"] == {"conv1", "conv2"}
    assert found["skipped"] == {"fc3", "fc4"}
    assert found["new"] == {"fc3", "fc4", "logits"}
    assert {name.split("/")[0] for name in frozen} == {"conv1", "conv2"}
    assert about(config)["stages"][0]["train_from"] == "fc3"


def test_a_skip_of_no_layer(quick):
    with pytest.raises(
        errors.MismatchedCheckpoint, match=r"--skip=fc9: tiny .*conv1, conv2, fc3"
    ):
        train_run.train(dataclasses.replace(quick, skip="fc3,fc9"))


def test_some_blocks_only(tiny, quick, tmp_path):
    """The new layer goes where the file's layers end, or further up if told to."""
    arrays = tiny_arrays(tiny, ("conv1", "conv2"))
    config = dataclasses.replace(quick, ckpt=write(tiny, tmp_path / "some.npy", arrays))
    train_run.train(config)
    assert about(config)["features"] == "pool2"
    deeper = dataclasses.replace(
        config, features="fc4", run_dir=str(tmp_path / "deeper")
    )
    with pytest.raises(errors.MismatchedCheckpoint, match="--skip=fc3,fc4"):
        train_run.train(deeper)
    deeper = dataclasses.replace(deeper, skip="fc3,fc4")
    train_run.train(deeper)
    assert ledger(deeper)[0]["new"] == {"fc3", "fc4", "logits"}


def test_a_near_miss_is_named(tiny, quick, tmp_path, capsys):
    arrays = tiny_arrays(tiny)
    arrays = {name.replace("fc4", "fc4_flickr"): a for name, a in arrays.items()}
    config = dataclasses.replace(
        quick, ckpt=write(tiny, tmp_path / "near.safetensors", arrays)
    )
    train_run.train(config)
    assert about(config)["features"] == "fc3"
    said = capsys.readouterr().err
    assert "the file has fc4_flickr, the network has fc4" in said
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
def test_a_runs_weights_start_another_run(quick, tmp_path, name):
    """Exported, restored: the layers and the preprocessing are those of the run."""
    first = dataclasses.replace(
        quick,
        train_from="fc4",
        overrides=dataclasses.replace(quick.overrides, scale=2.0),
    )
    train_run.train(first)
    path = tmp_path / "out" / name
    shapes = exporting.export_weights(
        export_settings.Config(run_dir=first.run_dir, weights=str(path))
    )
    assert shapes["logits/kernel"] == (7, 3)
    second = dataclasses.replace(
        quick, ckpt=str(path), run_dir=str(tmp_path / "second"), epochs=1
    )
    train_run.train(second)
    assert about(second)["input_spec"]["scale"] == 2.0
    before = model_variables.gather(finished_run.read(first.run_dir).load_model())
    after = model_variables.gather(finished_run.read(second.run_dir).load_model())
    for layer in LAYERS[:4]:
        np.testing.assert_array_equal(
            after[f"{layer}/kernel"], before[f"{layer}/kernel"]
        )
    assert "logits" in ledger(second)[0]["unused"]


def keras_file(path):
    """A model that Keras saved, of none of our networks."""
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
    first = dataclasses.replace(
        quick,
        ckpt=keras_file(tmp_path / "theirs.keras"),
        overrides=preprocessing_overrides.AS_WEIGHTS,
    )
    train_run.train(first)
    path = run_folder.Path(first.run_dir) / name
    if name != "model.keras":
        exporting.export_weights(
            export_settings.Config(run_dir=first.run_dir, weights=str(path))
        )
    second = dataclasses.replace(first, ckpt=str(path), run_dir=str(tmp_path / "b"))
    train_run.train(second)
    assert about(second)["network"] == "keras-theirs"
    assert about(second)["input_spec"] == about(first)["input_spec"]
    assert ledger(second)[0] == {
        "restored": {"first", "norm", "embedding"},
        "unused": {"logits"},
        "new": {"logits"},
    }
    with pytest.raises(errors.MismatchedCheckpoint, match="--run_dir"):
        evaluate.evaluate(evaluation_settings.Config(ckpt=str(path), data=quick.data))


def test_a_run_folder_is_no_checkpoint(quick):
    train_run.train(quick)
    again = dataclasses.replace(quick, ckpt=quick.run_dir, run_dir="x")
    with pytest.raises(errors.UnknownFormat, match=r"is the folder of a run"):
        train_run.train(again)


class TestPretrained:
    @pytest.fixture
    def file(self, tiny, quick, tmp_path):
        """The trained network with its final layer under the network's own name."""
        config = dataclasses.replace(quick, train_from="conv1", epochs=12)
        train_run.train(config)
        arrays = {
            name.replace("logits", "fc5"): array
            for name, array in model_variables.gather(
                finished_run.read(config.run_dir).load_model()
            ).items()
        }
        return write(tiny, tmp_path / "whole.safetensors", arrays)

    def test_same_figures_as_the_run(self, file, quick, shared_records):
        by_run = evaluate.evaluate(evaluation_settings.Config(run_dir=quick.run_dir))
        found = evaluate.evaluate(
            evaluation_settings.Config(
                ckpt=file, data=str(shared_records), split="test"
            )
        )
        assert found["accuracy"] == by_run["accuracy"] > 0.6
        assert found["confusion_matrix"] == by_run["confusion_matrix"]
        assert found["loss"] == pytest.approx(by_run["loss"], rel=1e-4)

    def test_a_folder_of_photos_with_labels_in_another_order(
        self, tiny, file, quick, tmp_path
    ):
        """The network's classes are named by the file, whatever the folders' order."""
        photos = drawn_photos.write_photos(tmp_path / "photos", per_class=6)
        tensors = reading.read(run_folder.Path(file)).tensors
        order = [2, 0, 1]
        arrays = {
            name: array[..., order] if name.startswith("fc5") else array
            for name, array in tensors.items()
        }
        turned = write(tiny, tmp_path / "turned.safetensors", arrays)
        (tmp_path / "labels.txt").write_text("red\nblue\ngreen\n")
        plain = evaluate.evaluate(
            evaluation_settings.Config(ckpt=file, data=str(photos), split="all")
        )
        found = evaluate.evaluate(
            evaluation_settings.Config(
                ckpt=turned,
                data=str(photos),
                split="all",
                labels=str(tmp_path / "labels.txt"),
            )
        )
        assert found["num_examples"] == 18
        assert found["accuracy"] == plain["accuracy"] > 0.6
        assert found["class_names"] == ["red", "blue", "green"]

    def test_classes_of_other_names(self, file, tmp_path):
        photos = drawn_photos.write_photos(tmp_path / "photos", per_class=3)
        (tmp_path / "labels.txt").write_text("cat\ndog\nred\n")
        with pytest.raises(errors.MismatchedCheckpoint, match="class blue of the data"):
            evaluate.evaluate(
                evaluation_settings.Config(
                    ckpt=file,
                    data=str(photos),
                    split="all",
                    labels=str(tmp_path / "labels.txt"),
                )
            )

    def test_data_are_asked_for(self):
        with pytest.raises(ValueError, match="expected --data"):
            evaluation_settings.Config(ckpt="x")
