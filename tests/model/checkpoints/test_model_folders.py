"""Weights that come with other files: class names, a configuration, in a zip file."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from model.checkpoints import errors, reading
from model.weights import pretrained_classifier
from tests.support.weights import memory

LABELS = "0 Daisy\n1 Rose\n2 Tulip\n"


@pytest.fixture(scope="module")
def model():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv2d"),
            layers.Flatten(),
            layers.Dense(3, "softmax", name="dense"),
        ]
    )


@pytest.fixture
def folder(model, tmp_path):
    """A folder as Teachable Machine's zip file has it."""
    folder = tmp_path / "converted_keras"
    folder.mkdir()
    model.save(folder / "keras_model.h5")
    (folder / "labels.txt").write_text(LABELS)
    return folder


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def write_weights_only(path, model):
    """A file as Keras 2 wrote weights, without the network."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{variable.name}:0" for variable in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, variable in zip(names, layer.weights, strict=True):
                group[name] = variable.numpy()


class TestTeachableMachine:
    def test_class_names_come_with_file_folder_and_zip(self, folder, tmp_path, capsys):
        members = {f"x/{p.name}": p.read_bytes() for p in folder.iterdir()}
        members["__MACOSX/x/._keras_model.h5"] = b"\0\5\x16\7"
        file = zipped(tmp_path / "converted.zip", members)
        for path in (folder, folder / "keras_model.h5", file):
            classifier = pretrained_classifier.load(str(path))
            assert classifier.class_names == ("Daisy", "Rose", "Tulip")
            assert classifier.has_class_names
        assert (
            "class names that come with it are used: Daisy, Rose"
            in capsys.readouterr().err
        )

    def test_a_wrong_number_of_names_is_not_used(self, folder, capsys):
        (folder / "labels.txt").write_text("a\nb\n")
        classifier = pretrained_classifier.load(str(folder))
        assert classifier.class_names == ("class 0", "class 1", "class 2")
        assert not classifier.has_class_names
        assert "too many or too few" in capsys.readouterr().err

    def test_nothing_is_written_outside(self, folder, tmp_path):
        data = (folder / "keras_model.h5").read_bytes()
        names = ("../../keras_model.h5", "../evil.txt", "/tmp/graft-evil/labels.txt")
        file = zipped(tmp_path / "x.zip", dict.fromkeys(names, data))
        before = sorted(tmp_path.rglob("*"))
        assert reading.read(file).tensors.keys() >= {"conv2d/kernel"}
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_bomb_takes_no_memory_and_no_disk(self, tmp_path):
        file = zipped(tmp_path / "x.zip", {"keras_model.h5": bytes(200 << 20)})
        with (
            memory.at_most(8 << 20),
            pytest.raises(errors.CorruptCheckpoint, match="bytes unpacked, in a file"),
        ):
            reading.read(file)

    def test_two_models_in_one_file_are_refused(self, tmp_path):
        members = {"a/keras_model.h5": b"", "b/keras_model.h5": b""}
        with pytest.raises(errors.UnknownFormat, match="holds several models"):
            reading.read(zipped(tmp_path / "x.zip", members))

    def test_damage_is_named_by_the_zip_file(self, folder, tmp_path):
        data = (folder / "keras_model.h5").read_bytes()[:600]
        file = zipped(tmp_path / "x.zip", {"keras_model.h5": data})
        with pytest.raises(errors.CorruptCheckpoint, match=r"x\.zip/keras_model\.h5"):
            reading.read(file)


class TestConfigurationElsewhere:
    @pytest.mark.parametrize("name", ["model.json", "w.json", "config.json"])
    def test_beside_the_weights_is_used_and_said(self, model, tmp_path, name, capsys):
        write_weights_only(tmp_path / "w.h5", model)
        (tmp_path / name).write_text(model.to_json())
        classifier = pretrained_classifier.load(str(tmp_path / "w.h5"))
        assert f"described by {tmp_path / name}" in capsys.readouterr().err
        photo = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3))
        expected = model(photo.astype(np.float32) / 255)
        found = keras.ops.softmax(classifier.model(photo.astype(np.float32)))
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    @pytest.mark.parametrize("name", ["net.json", "net.keras", "net.h5"])
    @pytest.mark.parametrize("weights", ["w.h5", "w.weights.h5"])
    def test_may_be_named_by_arch(self, model, tmp_path, name, weights):
        if weights == "w.h5":
            write_weights_only(tmp_path / weights, model)
        else:
            model.save_weights(tmp_path / weights)
        arch = tmp_path / name
        if name == "net.json":
            arch.write_text(model.to_json())
        else:
            model.save(arch)
        classifier = pretrained_classifier.load(str(tmp_path / weights), arch=str(arch))
        assert len(classifier.class_names) == 3

    def test_of_another_network_is_refused_with_both_shapes(self, model, tmp_path):
        write_weights_only(tmp_path / "w.h5", model)
        other = model.to_json().replace('"filters": 4', '"filters": 5')
        (tmp_path / "other.json").write_text(other)
        message = r"conv2d/kernel is .*\[3, 3, 3, 4\], expected .*\[3, 3, 3, 5\]"
        with pytest.raises(errors.MismatchedCheckpoint, match=message):
            pretrained_classifier.load(
                str(tmp_path / "w.h5"), arch=str(tmp_path / "other.json")
            )

    def test_that_cannot_be_rebuilt_is_the_only_reason(self, model, tmp_path):
        write_weights_only(tmp_path / "w.h5", model)
        config = json.loads(model.to_json())
        config["config"]["layers"][1]["class_name"] = "Strange"
        (tmp_path / "x.json").write_text(json.dumps(config))
        with pytest.raises(errors.MismatchedCheckpoint) as caught:
            pretrained_classifier.load(
                str(tmp_path / "w.h5"), arch=str(tmp_path / "x.json")
            )
        assert "'Strange'" in str(caught.value)
        assert str(caught.value).count("w.h5") == 1

    @pytest.mark.parametrize("text", ["{}", '{"modelTopology": {}}', "\0" * 99])
    def test_of_another_kind_is_refused_or_let_alone(self, model, tmp_path, text):
        write_weights_only(tmp_path / "w.h5", model)
        (tmp_path / "model.json").write_text(text)
        assert reading.read(tmp_path / "w.h5").keras_config == ""
        with pytest.raises(errors.UnknownFormat, match="does not hold the config"):
            reading.read_keras_config(tmp_path / "model.json")


def test_a_part_of_a_checkpoint_is_called_that(tmp_path):
    file = tmp_path / "m.data-00000-of-00001"
    file.write_bytes(b"x" * 99)
    with pytest.raises(errors.MissingCheckpoint, match=r"m\.index: no .*all of them"):
        reading.read(file)


def test_a_zip_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.zip").write_bytes(io.BytesIO(b"PK\3\4" + bytes(90)).getvalue())
    with pytest.raises(errors.CorruptCheckpoint, match="damaged zip file"):
        reading.read(tmp_path / "x.zip")
