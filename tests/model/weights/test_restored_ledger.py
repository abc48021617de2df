import numpy as np

from model.checkpoints.checkpoint import Checkpoint
from model.weights import restore
from tests.support import networks


def test_the_ledger_lists_tensors_and_new_variables(tiny):
    """The model ends below fc5; fc4 does not fit; something else is in the file."""
    tensors = networks.tiny_tensors()
    tensors["tiny/fc4/weights"] = np.zeros((8, 9), np.float32)
    tensors["step"] = np.array(7)
    checkpoint = Checkpoint(tensors=tensors, format="test")
    restored = restore.restore_checkpoint(checkpoint, skip=("fc3",))
    model = tiny.build(tiny.input_spec, last="fc4")
    entries = restore.complete_ledger(restored.entries, model)
    table = {
        (entry.variable, entry.tensor.removeprefix("tiny/")): entry.status
        for entry in entries
    }
    assert table == {
        ("conv1/kernel", "conv1/weights"): "restored",
        ("conv1/bias", "conv1/biases"): "restored",
        ("conv2/kernel", "conv2/weights"): "restored",
        ("conv2/bias", "conv2/biases"): "restored",
        ("fc3/kernel", "fc3/weights"): "skipped",
        ("fc3/bias", "fc3/biases"): "skipped",
        ("fc3/kernel", ""): "new",
        ("fc3/bias", ""): "new",
        ("fc4/kernel", "fc4/weights"): "mismatched",
        ("fc4/kernel", ""): "new",
        ("fc4/bias", "fc4/biases"): "restored",
        ("", "fc5/weights"): "unused",
        ("", "fc5/biases"): "unused",
        ("", "step"): "unused",
    }
    assert len(entries) == len(table)


def test_all_variables_of_a_random_start_are_new(tiny):
    """Dropout's random state does not count as one."""
    entries = restore.complete_ledger((), tiny.build(tiny.input_spec, last="fc4"))
    shapes = tiny.variable_shapes(tiny.input_spec)
    assert [(entry.status, entry.variable, entry.shape) for entry in entries] == [
        ("new", f"{layer}/{variable}", shape)
        for layer in networks.TINY_LAYERS[:4]
        for variable, shape in shapes[layer].items()
    ]


def test_frozen_variables_are_listed_too(tiny):
    model = tiny.build(tiny.input_spec, last="pool2")
    model.trainable = False
    assert len(restore.complete_ledger((), model)) == 4
