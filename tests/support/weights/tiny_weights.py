"""A complete weight file of the tiny network, by the names of its own naming."""

import numpy as np

from pipeline.batches.input_spec import InputSpec

SPEC = InputSpec(size_px=16, short_side_px=18, source="test")
LAYERS = ("conv1", "conv2", "fc3", "fc4", "fc5")
SUFFIXES = {"kernel": "weights", "bias": "biases"}


def tensors(tiny):
    """{"tiny/layer/weights" or "tiny/layer/biases": array}."""
    random = np.random.default_rng(4)
    return {
        f"tiny/{layer}/{SUFFIXES[variable]}": random.normal(size=shape).astype("f4")
        for layer, pair in tiny.variable_shapes(SPEC).items()
        for variable, shape in pair.items()
    }
