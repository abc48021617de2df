import functools

import keras
import numpy as np
import pytest

from model.checkpoints import errors
from model.networks import architecture, head, registry
from pipeline.batches.input_spec import InputSpec

SPEC = InputSpec(
    size_px=16,
    short_side_px=16,
    scale=2.0,
    mean=(10.0, 20.0, 30.0),
    std=(1.0, 2.0, 4.0),
    source="test",
)
# The networks whose description takes a moment, and one of the others.
QUICK = [n for n, network in registry.NETWORKS.items() if not network.landmark]
QUICK.append("mobilenet_v2")
# Positions of the tiny network.
NAMES = ["conv1", "pool1", "conv2", "pool2", "flatten", "fc3", "drop3", "fc4", "fc5"]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_normalisation_is_computed_in_float32(tiny, policy):
    """(image / scale - mean) / std, whatever the other layers compute in."""
    model = tiny.build(SPEC, last=architecture.INPUT, dtype=policy)
    image = np.full((1, 16, 16, 3), [20, 50, 255], np.float32)
    output = np.asarray(model(image))
    assert output.dtype == np.float32
    expected = np.full((1, 16, 16, 3), [0, 2.5, 24.375])
    np.testing.assert_allclose(output, expected, rtol=1e-6)


@pytest.mark.parametrize("name", registry.NETWORKS)
def test_mean_becomes_zero_and_one_deviation_becomes_one(name):
    spec = registry.NETWORKS[name].input_spec
    mean, std = np.array(spec.mean) * spec.scale, np.array(spec.std) * spec.scale
    layer = architecture.normalisation(spec)
    np.testing.assert_allclose(layer(mean[None]), [[0, 0, 0]], atol=1e-5)
    np.testing.assert_allclose(layer((mean + std)[None]), [[1, 1, 1]], rtol=1e-5)


def test_normalisation_repeated_per_column_gives_the_same(tiny):
    image = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    outputs = [
        np.asarray(architecture.normalisation(SPEC, repeat_per_column=repeat)(image))
        for repeat in (False, True)
    ]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("last", NAMES)
def test_a_model_ends_in_the_requested_position(tiny, last):
    model = tiny.build(tiny.input_spec, last=last, num_classes=11)
    names = [layer.name for layer in model.layers]
    assert names == ["image", "normalize", *NAMES[: NAMES.index(last) + 1]]
    assert model.input.shape == (None, 16, 16, 3)
    if last == "fc5":
        assert model.output.shape == (None, 11)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_narrow_layers_keep_wide_variables(tiny, policy):
    keras.utils.set_random_seed(1)
    wide = tiny.build(tiny.input_spec, last="fc4")
    narrow = tiny.build(tiny.input_spec, last="fc4", dtype=policy)
    narrow.set_weights(wide.get_weights())
    assert {variable.dtype for variable in narrow.trainable_variables} == {"float32"}
    assert narrow.output.dtype == policy.removeprefix("mixed_")
    image = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3))
    expected = np.asarray(wide(image))
    output = np.asarray(narrow(image)).astype(np.float32)
    assert 0 < np.abs(output - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("after", "last", "names"),
    [
        ("pool1", "flatten", ["conv2", "pool2", "flatten"]),
        (architecture.INPUT, "conv1", ["conv1"]),
        ("fc4", "fc4", []),
        (architecture.INPUT, "fc5", NAMES),
    ],
)
def test_positions_between_leave_the_lower_end_out(tiny, after, last, names):
    assert tiny.positions_between(after, last) == names


@pytest.mark.parametrize(
    ("after", "last", "message"),
    [
        (architecture.INPUT, "fc9", "no layer 'fc9'; there are conv1, pool1, "),
        ("fc3", "conv1", "fc3 lies above conv1"),
    ],
)
def test_positions_between_impossible_ends_are_refused(tiny, after, last, message):
    with pytest.raises(ValueError, match=message):
        tiny.positions_between(after, last)


def test_weight_shapes_depend_on_the_input_and_the_classes():
    network = registry.NETWORKS["alexnet"]
    spec = InputSpec(size_px=70, short_side_px=80, source="test")
    shapes = network.variable_shapes(spec, num_classes=12)
    assert shapes["fc6"] == {"kernel": (256, 4096), "bias": (4096,)}
    assert shapes["fc8"] == {"kernel": (4096, 12), "bias": (12,)}


@pytest.mark.parametrize("name", QUICK)
def test_features_and_positions_of_a_head_are_from_shallow_to_deep(name):
    network = registry.NETWORKS[name]
    names, positions = network.positions(), network.head_positions()
    for layers in (positions, network.features, network.combined_features):
        assert sorted(layers, key=names.index) == list(layers)
        assert {*layers} <= {*positions}
    assert not {"pad1", "drop6", "fc8"} & {*positions}
    assert not {head.FINAL_LAYER, architecture.INPUT} & {*names}


class TestFirstConvolution:
    def find(self, *layers):
        network = architecture.Network(
            name="x",
            connect=lambda image, _: functools.reduce(lambda x, f: f(x), layers, image),
            input_spec=registry.NETWORKS["alexnet"].input_spec,
            features=(),
        )
        return network.first_convolution()

    @pytest.mark.parametrize("name", QUICK)
    def test_is_the_first_layer_with_weights_of_every_network(self, name):
        network = registry.NETWORKS[name]
        assert network.first_convolution() == network.weighted_layers()[0]

    def test_may_follow_layers_that_keep_channels_apart(self):
        k = keras.layers
        layers = k.Rescaling(0.1), k.ZeroPadding2D(2), k.Conv2D(2, 3, name="a")
        assert self.find(*layers) == "a"

    @pytest.mark.parametrize(
        "layer",
        [
            keras.layers.BatchNormalization(),
            keras.layers.DepthwiseConv2D(3),
            keras.layers.SeparableConv2D(4, 3),
            keras.layers.Conv2D(3, 3, groups=3),
            keras.layers.Flatten(),
        ],
        ids=lambda layer: type(layer).__name__,
    )
    def test_does_not_follow_layers_that_mix_or_weigh_channels(self, layer):
        last = (
            keras.layers.Conv2D(2, 3)
            if layer.name[:4] != "flat"
            else keras.layers.Dense(2)
        )
        assert self.find(layer, last) == ""


def test_photos_that_are_too_small_for_the_layers_are_refused():
    spec = InputSpec(size_px=5, source="test")
    message = "caffenet does not take images of 5 pixels; its layers suit 227"
    with pytest.raises(errors.MismatchedCheckpoint, match=message):
        registry.by_name("caffenet").output_shape(spec, "pool5")


def test_layers_that_a_size_does_not_suit_matter_only_if_they_are_used():
    alexnet, spec = registry.by_name("alexnet_owt"), InputSpec(size_px=40, source="t")
    assert alexnet.output_shape(spec, "conv5") == (None, 1, 1, 256)
    assert alexnet.build(spec, last="conv3").output.shape == (None, 1, 1, 384)
    assert alexnet.variable_shapes(spec) == alexnet.variable_shapes(alexnet.input_spec)
    assert alexnet.suits(spec, "conv5") and not alexnet.suits(spec, "pool5")
    message = "alexnet_owt takes images of 40 pixels up to conv5 only.*--features=conv5"
    with pytest.raises(errors.MismatchedCheckpoint, match=message):
        alexnet.output_shape(spec, "pool5")
