import types

import keras
import numpy as np
import pytest
import safetensors.numpy

from model import inspect
from model.checkpoints import errors, reading
from model.weights import named_weights
from tests.support import processes


def inspected(path):
    return processes.run_command("-m", "model.inspect", path)


def shown(path, capsys):
    """Return what the command prints, without a process of its own."""
    inspect.main({"file": str(path)})
    return capsys.readouterr().out


@pytest.fixture
def quick(tmp_path):
    """All weights of cifar10_quick by their names here, the first kernel constant."""
    random = np.random.default_rng(0)
    shapes = {
        "conv1": (5, 5, 3, 32),
        "conv2": (5, 5, 32, 32),
        "conv3": (5, 5, 32, 64),
        "ip1": (1024, 64),
        "ip2": (64, 10),
    }
    tensors = {}
    for layer, shape in shapes.items():
        tensors[f"{layer}/kernel"] = random.normal(size=shape).astype(np.float32)
        tensors[f"{layer}/bias"] = np.zeros(shape[-1], np.float32)
    tensors["conv1/kernel"][:] = 0.5
    path = tmp_path / "quick.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path


def test_a_file_is_shown_with_its_tensors_and_network(quick):
    done = inspected(quick)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        str(quick),
        "format: safetensors",
        "safe: read as plain data; nothing in it was executed",
        "tensors: 10, 145,578 numbers",
    ]
    table = {line.split()[0]: line.split()[1:] for line in lines if "/" in line}
    assert table["conv1/kernel"] == ["[5,", "5,", "3,", "32]", "float32", "0.5", "0"]
    assert lines[-2] == (
        "fits cifar10_quick (naming: layer names): 10 of 10 variables; a new head "
        "may sit on ip1"
    )
    assert lines[-1].startswith("warning: the preprocessing of pixels is a guess: RGB")


def test_weights_are_shown_by_their_name(quick, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    weights = types.SimpleNamespace(path=quick)
    monkeypatch.setattr(named_weights, "resolve", {"alexnet": weights}.__getitem__)
    assert shown("alexnet", capsys) == shown(quick, capsys)


def test_a_file_without_the_first_layers_cannot_carry_a_head(tmp_path):
    tensors = {"conv2/kernel": np.zeros((5, 5, 32, 32), np.float32)}
    path = tmp_path / "part.safetensors"
    safetensors.numpy.save_file(tensors, path)
    (line,) = inspect.report_fittings(reading.read(path)).splitlines()
    assert line.startswith("fits cifar10_quick (naming: layer names): 1 of 10")
    assert line.endswith("its first layers are missing, so a new head cannot use it")


def test_a_file_of_no_known_network_says_so(tmp_path, capsys):
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"w": np.array([1, np.nan], np.float32)}, path)
    text = shown(path, capsys)
    assert text.endswith("\nfits no network that Graft knows\n")
    assert "nan" in text


def test_a_keras_model_that_cannot_be_rebuilt_says_why(tmp_path, capsys):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Lambda(lambda x: x, name="strange"),
            keras.layers.Flatten(),
            keras.layers.Dense(2, name="out"),
        ]
    )
    model.save(tmp_path / "model.keras")
    text = shown(tmp_path / "model.keras", capsys)
    assert "cannot be rebuilt" in text
    assert "'strange' of class 'Lambda'" in text


class TestFileWithoutWeights:
    def test_may_be_a_mean_image(self, tmp_path):
        image = np.stack([np.full((4, 5), level) for level in (104, 117, 123.5)])
        np.save(tmp_path / "mean.npy", image)
        text = inspect.report_mean(tmp_path / "mean.npy")
        assert "format: mean image, 4 x 5\n" in text
        assert "the file's order: 104, 117, 123.5\n" in text

    @pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"a\x1b[31mred", b"\n\x00\n"])
    def test_of_an_unknown_kind_is_refused(self, tmp_path, data, capsys):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(errors.UnknownFormat):
            shown(tmp_path / "file", capsys)
        assert capsys.readouterr().out == ""

    def test_that_is_missing_is_refused(self, tmp_path):
        done = inspected(tmp_path / "none.npy")
        assert done.returncode == 2
        assert "none.npy: no such file" in done.stderr


def test_the_command_needs_one_file():
    done = processes.run_command("-m", "model.inspect")
    assert done.returncode == 2
    assert "FILE is missing" in done.stderr
