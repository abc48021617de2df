import json

import h5py
import numpy as np
import pytest

from model.checkpoints import errors, reading
from model.weights import model_variables, preprocessing_overrides, restore, weight_file

FORMATS = ("w.safetensors", "w.h5", "w.npy")


@pytest.fixture
def arrays(tiny):
    """{"layer/variable": array} of the tiny network's convolutions and first dense."""

    random = np.random.default_rng(0)
    return {
        f"{layer}/{name}": random.normal(size=shape).astype(np.float32)
        for layer, shapes in tiny.variable_shapes(tiny.input_spec).items()
        for name, shape in shapes.items()
        if layer != "fc5"
    }


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_restored(tiny, arrays, tmp_path, name):
    """In the same network, whatever habits there are; and its preprocessing with it."""
    spec = preprocessing_overrides.Overrides(image_size=16, scale=3.0).apply(
        tiny.input_spec
    )
    weight_file.write(tmp_path / name, arrays, weight_file.describe("tiny", spec))
    checkpoint = reading.read(tmp_path / name)
    found = restore.restore_checkpoint(checkpoint, name)
    assert found.network is tiny
    assert found.spec == spec
    assert found.arrays().keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(found.arrays()[key], array)
    assert found.deepest_feature() == "fc4"


@pytest.mark.parametrize("name", FORMATS)
def test_variables_of_every_kind(tmp_path, name):
    arrays = {
        f"bn/{variable}": np.full(3, number, np.float32)
        for number, variable in enumerate(weight_file.CAFFE_TENSORFLOW)
    }
    weight_file.write(tmp_path / name, arrays, {})
    found = reading.read(tmp_path / name).tensors
    assert sorted(float(array[0]) for array in found.values()) == list(range(6))


@pytest.mark.parametrize("name", weight_file.WRITERS)
def test_others_can_read_it_as_any_file(tmp_path, name):
    plain = tmp_path / "plain"
    plain.touch()
    path = tmp_path / f"w{name}"
    weight_file.write(path, {"a/kernel": np.ones((2, 3), np.float32)}, {})
    assert path.stat().st_mode == plain.stat().st_mode


def test_npy_as_caffe_tensorflow_reads_it(arrays, tmp_path):
    weight_file.write(tmp_path / "w.npy", arrays, {"network": "tiny"})
    found = np.load(tmp_path / "w.npy", allow_pickle=True).item()
    np.testing.assert_array_equal(found["conv1"]["weights"], arrays["conv1/kernel"])
    np.testing.assert_array_equal(found["fc4"]["biases"], arrays["fc4/bias"])
    assert found.keys() == {name.split("/")[0] for name in arrays}


def test_h5_as_keras_reads_it_by_name(tiny, arrays, tmp_path):

    weight_file.write(tmp_path / "w.h5", arrays, {})
    model = tiny.build(tiny.input_spec, last="fc4")
    model.load_weights(tmp_path / "w.h5", by_name=True)
    for name, array in model_variables.gather(model).items():
        np.testing.assert_array_equal(array, arrays[name])
    with h5py.File(tmp_path / "w.h5") as file:
        assert json.loads(file.attrs["graft"]) == {}


def test_another_ending(arrays, tmp_path):
    with pytest.raises(errors.UnknownFormat, match=r"w\.pth: expected .*safetensors"):
        weight_file.write(tmp_path / "w.pth", arrays, {})
    assert list(tmp_path.iterdir()) == []
