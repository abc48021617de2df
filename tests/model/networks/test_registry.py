import dataclasses

import keras
import numpy as np
import pytest

from model.checkpoints import errors
from model.networks import architecture, head, registry
from model.weights import model_variables
from pipeline.batches.input_spec import InputSpec

SPEC = InputSpec(
    size_px=5,
    short_side_px=6,
    scale=2.0,
    mean=(10.0, 20.0, 30.0),
    std=(1.0, 2.0, 4.0),
    source="test",
)
NAMES = [
    "conv1",
    "pool1",
    "conv2",
    "pool2",
    "flatten",
    "fc3",
    "drop3",
    "fc4",
    "fc5",
]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_normalisation_by_hand(tiny, policy):
    """(image / scale - mean) / std, in float32 whatever the layers compute in."""
    model = tiny.build(SPEC, last=architecture.INPUT, dtype=policy)
    image = np.full((1, 5, 5, 3), [20, 50, 255], np.float32)
    found = np.asarray(model(image))
    assert found.dtype == np.float32
    expected = np.full((1, 5, 5, 3), [0, 2.5, 24.375])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_normalised_mean_is_zero_and_one_deviation_is_one():
    for chosen in registry.NETWORKS.values():
        spec = chosen.input_spec
        mean, std = np.array(spec.mean) * spec.scale, np.array(spec.std) * spec.scale
        layer = architecture.normalisation(spec)
        np.testing.assert_allclose(layer(mean[None]), [[0, 0, 0]], atol=1e-5)
        np.testing.assert_allclose(layer((mean + std)[None]), [[1, 1, 1]], rtol=1e-5)


@pytest.mark.parametrize("last", NAMES)
def test_builds_up_to_each_layer(tiny, last):
    model = tiny.build(tiny.input_spec, last=last, num_classes=11)
    found = [layer.name for layer in model.layers]
    assert found == ["image", "normalize", *NAMES[: NAMES.index(last) + 1]]
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
    found = np.asarray(narrow(image)).astype(np.float32)
    assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_between_leaves_the_lower_end_out(tiny):
    def names(after, last):
        layers = tiny.steps_between(after, last, num_classes=3, dtype="float32")
        return [layer.name for layer in layers]

    assert names("pool1", "flatten") == ["conv2", "pool2", "flatten"]
    assert names(architecture.INPUT, "conv1") == ["conv1"]
    assert names("fc4", "fc4") == []
    assert names(architecture.INPUT, "fc5") == NAMES == tiny.step_names()


def test_unknown_layers_are_named_with_the_known_ones(tiny):
    with pytest.raises(ValueError, match=r"no layer 'fc9'; there are conv1, pool1, .*"):
        tiny.build(tiny.input_spec, last="fc9")
    with pytest.raises(ValueError, match="fc3 lies above conv1"):
        tiny.steps_between("fc3", "conv1", num_classes=3, dtype="float32")


@pytest.mark.parametrize("name", registry.NETWORKS)
def test_features_are_layers_from_shallow_to_deep(name):
    chosen = registry.NETWORKS[name]
    names = chosen.step_names()
    places = [names.index(feature) for feature in chosen.features]
    assert places == sorted(places)
    assert head.FINAL_LAYER not in names
    assert architecture.INPUT not in names


@pytest.mark.parametrize("name", ["alexnet", "alexnet_owt", "bvlc_alexnet"])
def test_variable_shapes_are_those_of_the_built_network(name):
    """At a smaller size, where fc6 is another one too."""
    spec = InputSpec(size_px=70, short_side_px=80, source="test")
    chosen = registry.NETWORKS[name]
    model = chosen.build(spec, last="fc6")
    built = {f"conv{number}": {} for number in range(1, 6)} | {"fc6": {}}
    for variable, array in model_variables.gather(model).items():
        layer, _, kind = variable.partition("/")
        built[layer][kind] = array.shape
    shapes = chosen.variable_shapes(spec, num_classes=12)
    assert list(built) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6"]
    assert {layer: shapes[layer] for layer in built} == built
    assert list(shapes) == [*built, "fc7", "fc8"]
    assert shapes["fc8"] == {"kernel": (4096, 12), "bias": (12,)}


@pytest.mark.parametrize(("name", "chosen"), registry.NETWORKS.items())
def test_places_of_a_head(name, chosen):
    places = chosen.head_positions()
    assert set(chosen.features) | set(chosen.combined_features) <= set(places)
    assert sorted(places, key=chosen.step_names().index) == places
    assert not {"pad1", "drop6", "fc8", "classifier"} & set(places)


class TestFirstConvolution:
    def of(self, *layers):
        found = architecture.Network(
            name="x",
            make_steps=lambda *_: layers,
            input_spec=registry.NETWORKS["alexnet"].input_spec,
            features=(),
        )
        return found.first_convolution()

    @pytest.mark.parametrize("name", registry.NETWORKS)
    def test_every_network_has_one(self, name):
        chosen = registry.NETWORKS[name]
        assert chosen.first_convolution() == chosen.weighted_layers()[0]

    def test_behind_layers_that_leave_channels_apart(self):
        k = keras.layers
        layers = k.Rescaling(0.1), k.ZeroPadding2D(2), k.Conv2D(2, 3, name="a")
        assert self.of(*layers) == "a"

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
    def test_behind_others_is_none(self, layer):
        assert self.of(layer, keras.layers.Conv2D(2, 3)) == ""


def test_a_size_that_pools_otherwise_in_caffe():
    chosen = registry.NETWORKS["cifar10_quick"]
    spec = dataclasses.replace(chosen.input_spec, size_px=36, short_side_px=36)
    with pytest.raises(errors.MismatchedCheckpoint, match="expected a multiple of 8"):
        chosen.variable_shapes(spec)
