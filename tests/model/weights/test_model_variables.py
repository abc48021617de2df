import numpy as np
import pytest

from model.checkpoints.checkpoint import Checkpoint
from model.weights import model_variables, restore
from tests.support import networks


@pytest.fixture
def tensors():
    return networks.tiny_tensors()


def values(tensors):
    checkpoint = Checkpoint(tensors=tensors, format="test")
    return restore.restore_checkpoint(checkpoint).values


def build(tiny, last):
    return tiny.build(tiny.input_spec, last=last)


class TestAssign:
    def test_every_value_gets_into_its_variable(self, tiny, tensors):
        model = build(tiny, "fc5")
        model_variables.assign(model, values(tensors))
        for layer in networks.TINY_LAYERS:
            for variable, suffix in networks.TINY_SUFFIXES.items():
                array = getattr(model.get_layer(layer), variable).numpy()
                assert (array == tensors[f"tiny/{layer}/{suffix}"]).all()

    def test_layers_above_the_model_are_ignored(self, tiny, tensors):
        model = build(tiny, "pool2")
        model_variables.assign(model, values(tensors))
        kernel = model.get_layer("conv2").kernel.numpy()
        assert (kernel == tensors["tiny/conv2/weights"]).all()

    def test_the_missing_half_of_a_layer_stays_new(self, tiny, tensors):
        tensors["tiny/fc4/weights"] = np.zeros((8, 9), np.float32)
        model = build(tiny, "fc4")
        before = model.get_layer("fc4").kernel.numpy()
        model_variables.assign(model, values(tensors))
        layer = model.get_layer("fc4")
        assert (layer.kernel.numpy() == before).all()
        assert (layer.bias.numpy() == tensors["tiny/fc4/biases"]).all()


class TestDigests:
    def test_digests_change_with_any_bit_and_with_nothing_else(self, tiny):
        model = build(tiny, "fc4")
        before = model_variables.digests(model.variables)
        model(np.zeros((2, 16, 16, 3)), training=True)  # turns dropout's random state
        assert model_variables.digests(model.variables) == before
        bias = model.get_layer("fc3").bias
        bias.assign(np.nextafter(bias.numpy(), np.float32(1)))
        after = model_variables.digests(model.variables)
        assert {name for name in before if before[name] != after[name]} == {"fc3/bias"}
        bias.assign(np.zeros(8))
        assert model_variables.digests(model.variables) == before

    def test_minus_zero_has_another_digest_than_zero(self, tiny):
        bias = build(tiny, "conv1").get_layer("conv1").bias
        before = model_variables.digests([bias])
        bias.assign([0.0, 0.0, 0.0, -0.0])
        assert model_variables.digests([bias]) != before
