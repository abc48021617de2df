import json

import h5py
import numpy as np
import pytest

from model.checkpoints import errors, reading
from model.weights import model_variables, restore, weight_file, weight_settings
from tests.support import networks
from tests.support.weights import arrays

FORMATS = ("w.safetensors", "w.h5", "w.npy")


@pytest.fixture
def tiny_arrays(tiny):
    """Weights of the tiny network without its final layer."""
    return networks.tiny_arrays(("conv1", "conv2", "fc3", "fc4"))


@pytest.mark.parametrize("name", FORMATS)
def test_written_weights_are_restored_with_their_preprocessing(
    tiny, tiny_arrays, tmp_path, name
):
    spec = weight_settings.Overrides(image_size=16, scale=3.0).apply(tiny.input_spec)
    weight_file.write(tmp_path / name, tiny_arrays, weight_file.describe("tiny", spec))
    checkpoint = reading.read(tmp_path / name)
    restored = restore.restore_checkpoint(checkpoint)
    assert restored.network is tiny
    assert restored.spec == spec
    arrays.assert_same(restored.arrays(), tiny_arrays)
    assert restored.deepest_feature() == "fc4"


@pytest.mark.parametrize("name", FORMATS)
def test_every_kind_of_variable_is_written(tmp_path, name):
    variables = {
        f"bn/{variable}": np.full(3, number, np.float32)
        for number, variable in enumerate(weight_file.CAFFE_TENSORFLOW)
    }
    weight_file.write(tmp_path / name, variables, {})
    tensors = reading.read(tmp_path / name).tensors
    assert sorted(float(array[0]) for array in tensors.values()) == list(range(6))


@pytest.mark.parametrize("name", weight_file.WRITERS)
def test_a_file_has_the_permissions_of_any_new_file(tmp_path, name):
    plain = tmp_path / "plain"
    plain.touch()
    path = tmp_path / f"w{name}"
    weight_file.write(path, {"a/kernel": np.ones((2, 3), np.float32)}, {})
    assert path.stat().st_mode == plain.stat().st_mode


def test_an_npy_file_has_the_layout_of_caffe_tensorflow(tiny_arrays, tmp_path):
    weight_file.write(tmp_path / "w.npy", tiny_arrays, {"network": "tiny"})
    layers = np.load(tmp_path / "w.npy", allow_pickle=True).item()
    assert layers.keys() == {name.split("/")[0] for name in tiny_arrays}
    fc4 = {"weights": tiny_arrays["fc4/kernel"], "biases": tiny_arrays["fc4/bias"]}
    arrays.assert_same(layers["fc4"], fc4)


def test_keras_loads_an_h5_file_by_layer_name(tiny, tiny_arrays, tmp_path):
    weight_file.write(tmp_path / "w.h5", tiny_arrays, {})
    model = tiny.build(tiny.input_spec, last="fc4")
    model.load_weights(tmp_path / "w.h5", by_name=True)
    arrays.assert_same(model_variables.gather(model), tiny_arrays)
    with h5py.File(tmp_path / "w.h5") as file:
        assert json.loads(file.attrs["graft"]) == {}


def test_an_ending_without_a_format_is_refused(tmp_path):
    with pytest.raises(errors.UnknownFormat, match=r"w\.pth: .*Expected .*safetensors"):
        weight_file.write(tmp_path / "w.pth", {}, {})
    assert list(tmp_path.iterdir()) == []
