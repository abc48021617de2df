import numpy as np
import pytest

from model.weights import layer_naming
from tests.support.weights import foreign_weights

TORCH = foreign_weights.naming_of("torchvision", "alexnet_owt")


def test_a_depthwise_kernel_keeps_its_channels():
    """[channels, 1, height, width] -> [height, width, channels, 1]."""
    theirs = np.arange(6 * 4 * 5).reshape(6, 1, 4, 5)
    assert theirs.shape in TORCH.shapes_in_file((4, 5, 6, 1))
    ours = TORCH.to_graft("conv1", "kernel", theirs, (4, 5, 6, 1))
    assert all(
        ours[y, x, c, 0] == theirs[c, 0, y, x] for c, y, x in np.ndindex(6, 4, 5)
    )


def test_a_convolution_of_one_filter_is_not_taken_for_a_depthwise_one():
    theirs = np.arange(6 * 4 * 5).reshape(1, 6, 4, 5)
    ours = TORCH.to_graft("conv1", "kernel", theirs, (4, 5, 6, 1))
    assert ours[3, 2, 5, 0] == theirs[0, 5, 3, 2]


class TestGroupsInParts:
    KERNEL = np.arange(3 * 3 * 2 * 4, dtype=np.float32).reshape(3, 3, 2, 4)

    def test_groups_are_joined_to_one_kernel(self):
        parts = {
            "c_group1/kernel": self.KERNEL[..., :2],
            "c_group2/kernel": self.KERNEL[..., 2:],
            "d/kernel": self.KERNEL,
        }
        unified = layer_naming.unify_keras_tensors(parts)
        assert unified.keys() == {"c/kernel", "d/kernel"}
        np.testing.assert_array_equal(unified["c/kernel"], self.KERNEL)

    @pytest.mark.parametrize(
        "others",
        [
            {"c_group2/kernel": np.zeros((3, 3, 1, 2), np.float32)},
            {"c/kernel": np.zeros(1, np.float32)},
        ],
        ids=["other sizes", "already joined"],
    )
    def test_layers_that_are_no_groups_are_left_alone(self, others):
        parts = {"c_group1/kernel": self.KERNEL[..., :2], **others}
        assert layer_naming.unify_keras_tensors(parts).keys() == parts.keys()


@pytest.mark.parametrize(
    ("names", "unified"),
    [
        (["depthwise_kernel", "bias"], ["kernel", "bias"]),
        (["depthwise_kernel", "pointwise_kernel"],) * 2,
    ],
    ids=["depthwise", "separable"],
)
def test_only_a_depthwise_convolution_loses_the_name_of_keras_2(names, unified):
    tensors = {f"a/{name}": np.zeros((2, 2)) for name in names}
    expected = [f"a/{name}" for name in unified]
    assert [*layer_naming.unify_keras_tensors(tensors)] == expected
