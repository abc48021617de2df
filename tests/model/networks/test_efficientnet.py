"""EfficientNet-Lite0 against NumPy, with weights named as its PyTorch file has them.

The image has 70 pixels: 35, 18, 9, 5, 3 after the strides, so that SAME pads both even
and odd sizes.
"""

import dataclasses

import numpy as np
import pytest

from model.checkpoints import reading
from model.networks import registry
from model.weights import restore
from tests import numpy_networks as ref

COUNT = 4_652_008  # of those that are trained; 2 x 21,008 moving means and variances
LITE0 = registry.NETWORKS["efficientnet_lite0"]
# Kernel size, stride, expansion, filters: a line for each of the 16 blocks.
BLOCKS = [
    (3, 1, 1, 16),
    (3, 2, 6, 24),
    (3, 1, 6, 24),
    (5, 2, 6, 40),
    (5, 1, 6, 40),
    (3, 2, 6, 80),
    (3, 1, 6, 80),
    (3, 1, 6, 80),
    (5, 1, 6, 112),
    (5, 1, 6, 112),
    (5, 1, 6, 112),
    (5, 2, 6, 192),
    (5, 1, 6, 192),
    (5, 1, 6, 192),
    (5, 1, 6, 192),
    (3, 1, 6, 320),
]
WITH_SHORTCUT = [2, 4, 6, 7, 9, 10, 12, 13, 14]


def norm_tensors(random, name, channels, scale=1.0):
    return {
        f"{name}.weight": random.uniform(0.8, 1.6, channels) * scale,
        f"{name}.bias": random.normal(0.5, 0.5, channels),
        f"{name}.running_mean": random.normal(0, 0.3, channels),
        f"{name}.running_var": random.uniform(0.3, 1.5, channels),
    }


def make_tensors(random):
    """As efficientnet_lite_pytorch's state dict; without its counters of batches."""
    tensors = {}

    def conv(name, *shape):
        tensors[f"{name}.weight"] = ref.draw(random, shape, np.prod(shape[1:]))

    conv("_conv_stem", 32, 3, 3, 3)
    tensors |= norm_tensors(random, "_bn0", 32)
    channels = 32
    for number, (size, _, expansion, filters) in enumerate(BLOCKS):
        block, wide = f"_blocks.{number}", channels * expansion
        if expansion > 1:
            conv(f"{block}._expand_conv", wide, channels, 1, 1)
            tensors |= norm_tensors(random, f"{block}._bn0", wide)
        conv(f"{block}._depthwise_conv", wide, 1, size, size)
        tensors |= norm_tensors(random, f"{block}._bn1", wide)
        conv(f"{block}._project_conv", filters, wide, 1, 1)
        # Larger, and rounding errors would grow from block to block a hundredfold.
        tensors |= norm_tensors(random, f"{block}._bn2", filters, scale=0.3)
        channels = filters
    conv("_conv_head", 1280, 320, 1, 1)
    tensors |= norm_tensors(random, "_bn1", 1280)
    conv("_fc", 1000, 1280)
    tensors["_fc.bias"] = random.standard_normal(1000)
    return {name: array.astype(np.float32) for name, array in tensors.items()}


def forward(tensors, image):
    """{step: output} as efficientnet_lite_pytorch computes it, without dropout."""

    def norm(x, name):
        parts = ("weight", "bias", "running_mean", "running_var")
        return ref.batch_norm(x, *(tensors[f"{name}.{p}"] for p in parts), 1e-3)

    def conv(x, name, stride=1):
        kernel = tensors[f"{name}.weight"]
        border = ref.same_border(x.shape[1], kernel.shape[-1], stride)
        return ref.convolution(x, kernel, stride=stride, border=border)

    x = ref.chw((image - np.float64(127)) / 128)
    x = ref.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    found = {"stem": x}
    for number, (size, stride, expansion, _) in enumerate(BLOCKS):
        block, inputs = f"_blocks.{number}", x
        if expansion > 1:
            x = ref.relu6(norm(conv(x, f"{block}._expand_conv"), f"{block}._bn0"))
        border = ref.same_border(x.shape[1], size, stride)
        kernel = tensors[f"{block}._depthwise_conv.weight"]
        x = ref.depthwise(x, kernel, stride=stride, border=border)
        x = ref.relu6(norm(x, f"{block}._bn1"))
        x = norm(conv(x, f"{block}._project_conv"), f"{block}._bn2")
        if number in WITH_SHORTCUT:
            x = x + inputs
        found[f"block_{number}"] = x
    found["head"] = x = ref.relu6(norm(conv(x, "_conv_head"), "_bn1"))
    found["pool"] = x = x.mean(axis=(1, 2))
    found["fc"] = ref.dense(x, tensors["_fc.weight"], tensors["_fc.bias"])
    return found


@pytest.fixture(scope="module")
def tensors():
    return make_tensors(np.random.default_rng(6))


@pytest.fixture(scope="module")
def model():
    spec = dataclasses.replace(LITE0.input_spec, size_px=70, short_side_px=80)
    return ref.every_step(LITE0, spec)


IMAGE = np.random.default_rng(2).integers(0, 256, (70, 70, 3)).astype(np.float32)


def fit(tensors):
    checkpoint = reading.Checkpoint(tensors=tensors, format="PyTorch (zip)")
    return restore.restore_checkpoint(checkpoint, "file")


def test_parameters():
    name = "efficientnet_lite0"
    assert ref.num_parameters(name, trained_only=True) == COUNT
    channels = [32, 1280]
    before = 32
    for _, _, expansion, filters in BLOCKS:
        channels += [before * expansion] * (1 + (expansion > 1)) + [filters]
        before = filters
    assert ref.num_parameters(name) == COUNT + 2 * sum(channels)


def test_built_variables_are_those_that_were_computed(model):
    built = {
        layer.name: {one.name: tuple(one.shape) for one in layer.weights}
        for layer in model.layers
        if layer.weights and "drop" not in layer.name
    }
    assert built == LITE0.variable_shapes(LITE0.input_spec)


def test_steps():
    shapes = ref.shapes("efficientnet_lite0", 224)
    sizes = [112, 56, 56, 28, 28, *[14] * 6, *[7] * 5]
    assert list(shapes.items()) == [
        ("stem", (112, 112, 32)),
        *(
            (f"block_{number}", (size, size, block[-1]))
            for number, (size, block) in enumerate(zip(sizes, BLOCKS, strict=True))
        ),
        ("head", (7, 7, 1280)),
        ("pool", (1280,)),
        ("drop", (1280,)),
        ("fc", (1000,)),
    ]


def test_every_step(model, tensors):
    counters = {"_bn0.num_batches_tracked": np.array(5)}
    found = fit({**tensors, **counters})
    assert found.network is LITE0
    assert found.spec == LITE0.input_spec
    unused = [entry.tensor for entry in found.entries if entry.status == "unused"]
    assert unused == list(counters)
    ref.fill(model, fit(tensors))
    expected = forward(tensors, IMAGE)
    assert list(expected) == [name for name in LITE0.step_names() if name != "drop"]
    assert (expected["stem"] == 6).any()  # the upper bound of ReLU6 is met
    ref.check(model, IMAGE, expected)


def turned(kernel):
    return kernel.swapaxes(2, 3)


def exchanged(kernel):
    return kernel[:, ::-1]


@pytest.mark.parametrize(
    ("tensor", "change", "step"),
    [
        ("_conv_stem.weight", exchanged, "stem"),
        ("_conv_stem.weight", turned, "stem"),
        ("_blocks.3._depthwise_conv.weight", turned, "block_3"),
        ("_blocks.5._bn1.running_var", lambda array: array + 0.002, "block_5"),
        ("_blocks.8._bn0.bias", np.flip, "block_8"),
        ("_conv_head.weight", np.flip, "head"),
    ],
    ids=["blue first", "turned", "depthwise", "epsilon", "expansion", "head"],
)
def test_a_wrong_weight_is_noticed(model, tensors, tensor, change, step):
    """The comparison above is fine enough to tell."""
    wrong = tensors | {tensor: np.ascontiguousarray(change(tensors[tensor]))}
    ref.fill(model, fit(wrong))
    with pytest.raises(AssertionError, match=f"step {step};"):
        ref.check(model, IMAGE, forward(tensors, IMAGE))
