import dataclasses

import ml_dtypes
import numpy as np
import pytest

from model.checkpoints import errors
from model.checkpoints.checkpoint import Checkpoint
from model.weights import restore, weight_settings
from tests.support import networks


@pytest.fixture
def tensors(tiny):
    return networks.tiny_tensors()


def refused(message):
    return pytest.raises(errors.MismatchedCheckpoint, match=message)


def restored_from(tensors, **options):
    checkpoint = Checkpoint(tensors=tensors, format="test", where="w.npy")
    return restore.restore_checkpoint(checkpoint, **options)


def test_all_of_a_complete_file_is_restored(tensors):
    restored = restored_from(tensors)
    assert (restored.where, restored.network.name) == ("w.npy", "tiny")
    assert tuple(restored.shapes) == networks.TINY_LAYERS
    assert all(restored.is_complete(layer) for layer in networks.TINY_LAYERS)
    assert {entry.status for entry in restored.entries} == {"restored"}
    assert len(restored.entries) == 10
    assert restored.deepest_feature() == "fc4"
    assert restored.missing_layers("fc5") == []
    restored.require("fc5")


def test_entries_state_variables_and_tensors(tensors):
    tensors |= {"step": np.array(7), "ema/fc3": np.zeros((2, 3), np.float16)}
    first, *_, ema, step = restored_from(tensors).entries
    assert first == restore.Entry(
        status="restored",
        variable="conv1/kernel",
        shape=(3, 3, 3, 4),
        tensor="tiny/conv1/weights",
        file_shape=(3, 3, 3, 4),
        file_dtype="float32",
    )
    unused = restore.Entry(status="unused", tensor="step", file_dtype="int64")
    assert step == unused
    changes = {"tensor": "ema/fc3", "file_shape": (2, 3), "file_dtype": "float16"}
    assert ema == dataclasses.replace(unused, **changes)


def test_a_file_that_ends_early_carries_a_head_where_it_ends(tensors):
    short = {n: t for n, t in tensors.items() if "fc4" not in n and "fc5" not in n}
    restored = restored_from(short)
    assert restored.deepest_feature() == "fc3"
    assert restored.missing_layers("fc5") == ["fc4", "fc5"]
    with refused(r"w\.npy: fc4 of tiny cannot be restored.*missing.*--features=fc3"):
        restored.require("fc4")


@pytest.mark.parametrize("lost", ["tiny/fc3/weights", "tiny/fc3/biases"])
def test_half_a_layer_does_not_count(tensors, lost):
    del tensors[lost]
    restored = restored_from(tensors)
    assert not restored.is_complete("fc3")
    assert restored.deepest_feature() == "pool2"
    with refused("fc3 of tiny"):
        restored.require("fc4")
    restored.require("flatten")


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(tensors):
    tensors["tiny/fc4/weights"] = np.zeros((8, 9), np.float32)
    restored = restored_from(tensors)
    (entry,) = [e for e in restored.entries if e.status == "mismatched"]
    assert (entry.shape, entry.file_shape) == ((8, 7), (8, 9))
    assert restored.deepest_feature() == "fc3"
    with refused(
        r"fc4 of tiny .* tiny/fc4/weights is float32 \[8, 9\], expected "
        r"float \[8, 7\].*--features=fc3"
    ):
        restored.require("fc4")


def test_a_file_without_the_first_layer_carries_no_head(tensors):
    tensors["tiny/conv1/weights"] = np.zeros((5, 5, 3, 4), np.float32)
    with refused(
        r"w\.npy: conv1 of tiny .* \[5, 5, 3, 4\], expected float "
        r"\[3, 3, 3, 4\].*may belong to another network"
    ):
        restored_from(tensors).deepest_feature()


def test_a_position_below_all_features_is_suggested(tensors):
    """A run has such a file if its head sat deeper than any by default."""
    of_conv1 = {name: a for name, a in tensors.items() if "/conv1/" in name}
    with refused("--features=pool1"):
        restored_from(of_conv1, arch="tiny").deepest_feature()


def test_a_network_is_only_evaluated_with_all_of_its_weights(tensors):
    del tensors["tiny/fc5/weights"]
    with refused(r"evaluated.*--run_dir"):
        restored_from(tensors).require("fc5", for_evaluation=True)


def test_layers_of_nearly_the_same_name_are_pointed_out(tensors):
    tensors["tiny/fc3b/weights"] = tensors.pop("tiny/fc3/weights")
    tensors["tiny/fc3b/biases"] = tensors.pop("tiny/fc3/biases")
    message = "the file has tiny/fc3b, the network has tiny/fc3"
    restored = restored_from(tensors)
    assert restored.near_misses() == [message]
    with refused(message):
        restored.require("fc3")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_floats_of_any_width_become_float32(tensors, dtype):
    whole = {name: np.rint(9 * array).astype(dtype) for name, array in tensors.items()}
    restored = restored_from(whole)
    assert {entry.status for entry in restored.entries} == {"restored"}
    kernel = restored.values["fc3"]["kernel"]
    assert kernel.dtype == np.float32
    assert (kernel == np.rint(9 * tensors["tiny/fc3/weights"])).all()


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.bool_, np.complex64])
def test_numbers_that_are_no_floats_are_no_weights(tensors, dtype):
    tensors["tiny/fc3/weights"] = np.ones((24, 8), dtype)
    restored = restored_from(tensors)
    assert "mismatched" in {entry.status for entry in restored.entries}
    kind = np.dtype(dtype).name
    with refused(rf"is {kind} \[24, 8\], expected float \[24, 8\]"):
        restored.require("fc3")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("f4", np.nan), ("f4", np.inf), ("f2", -np.inf), ("f8", 1e39)],
)
def test_weights_that_are_not_finite_are_refused(tensors, dtype, value):
    tensors["tiny/fc3/biases"] = np.array([0.0] * 7 + [value], dtype)
    message = r"w\.npy: tiny/fc3/biases holds weights"
    with pytest.raises(errors.CorruptCheckpoint, match=message):
        restored_from(tensors)


def test_another_input_size_changes_the_expected_shapes(tensors):
    larger = weight_settings.Overrides(image_size=32)
    assert restored_from(tensors, overrides=larger).missing_layers("fc5") == ["fc3"]
