import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications.convnext import LayerScale

from model.loop import dropout, train_step
from model.networks import registry
from model.training import stages, trunk_and_tail
from model.weights import model_variables
from tests.support import small_training

# Of the tiny network with a head on fc4: cut -> layers of the trunk that have weights.
TINY_CUTS = {
    "image": [],
    "pool1": ["conv1"],
    "flatten": ["conv1", "conv2"],
    "fc3": ["conv1", "conv2", "fc3"],
    "fc4": ["conv1", "conv2", "fc3", "fc4"],
}
TINY_SHAPES = {"image": (16, 16, 3), "pool1": (4, 4, 4), "pool2": (2, 2, 6)}


def make_plan(network, **changes):
    defaults = {
        "network": network,
        "spec": network.input_spec,
        "features": ("fc4",),
        "train_from": "",
        "cut": "fc4",
        "num_classes": 3,
        "dropout": 0.5,
        "seed": 1,
    }
    return stages.StagePlan(**defaults | changes)


def build(plan, policy="float32"):
    """Return trunk and tail with random weights, biases and final layer included."""
    trunk = trunk_and_tail.build_trunk(plan, policy)
    tail = trunk_and_tail.build_tail(plan, trunk, policy)
    random = np.random.default_rng(8)
    for part in (trunk, tail):
        weights = part.get_weights()
        part.set_weights([w + random.normal(size=w.shape) * 0.1 for w in weights])
    return trunk, tail


def assemble(plan, trunk, tail):
    values = trunk_and_tail.values(trunk) | trunk_and_tail.values(tail)
    return trunk_and_tail.assemble(plan, values)


def names_of(variables):
    return [variable.path for variable in variables]


def weights_of(layers):
    return [f"{layer}/{kind}" for layer in layers for kind in ("kernel", "bias")]


@pytest.fixture
def images():
    random = np.random.default_rng(3)
    return random.integers(0, 256, (5, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize("cut", TINY_CUTS)
def test_only_layers_above_the_cut_train(tiny, cut):
    trunk, tail = build(make_plan(tiny, cut=cut))
    frozen = TINY_CUTS[cut]
    trained = [n for n in ("conv1", "conv2", "fc3", "fc4") if n not in frozen]
    assert trunk.trainable_variables == []
    assert list(model_variables.digests(trunk.variables)) == weights_of(frozen)
    expected = weights_of([*trained, "logits"])
    assert names_of(tail.trainable_variables) == expected
    joined = trunk_and_tail.join(trunk, tail)
    assert names_of(joined.trainable_variables) == expected


@pytest.mark.parametrize("cut", TINY_CUTS)
def test_parts_joined_and_assembled_give_the_same_logits(tiny, images, cut):
    plan = make_plan(tiny, cut=cut)
    trunk, tail = build(plan)
    in_parts = np.asarray(tail(trunk(images)))
    assert in_parts.shape == (5, 3)
    assert np.ptp(in_parts, axis=0).min() > 0.01  # another image, other logits
    whole, joined = assemble(plan, trunk, tail), trunk_and_tail.join(trunk, tail)
    for model in (whole, joined):
        np.testing.assert_allclose(model(images), in_parts, rtol=1e-5, atol=1e-6)
    # The proof in the ledger; dropout's random state must not spoil it.
    parts = [*trunk.variables, *tail.variables]
    assert model_variables.digests(whole.variables) == model_variables.digests(parts)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_the_assembled_network_is_float32(tiny, images, policy):
    plan = make_plan(tiny, cut="pool1")
    trunk, tail = build(plan, policy)
    assert tail.output.dtype == "float32"
    assert {variable.dtype for variable in tail.trainable_variables} == {"float32"}
    whole = assemble(plan, trunk, tail)
    assert {layer.dtype_policy.name for layer in whole.layers} == {"float32"}
    narrow, wide = np.asarray(tail(trunk(images))), np.asarray(whole(images))
    assert 0 < np.abs(narrow - wide).max() < 0.05 * np.abs(wide).max()


def test_training_changes_the_tail_alone(tiny, images):
    trunk, tail = build(make_plan(tiny, cut="pool1"))
    joined = trunk_and_tail.join(trunk, tail)
    frozen = model_variables.digests(trunk.variables)
    before = trunk_and_tail.values(tail)
    step = train_step.TrainStep(joined, small_training.setup_of(joined, 1e-3, 1))
    step(images, np.array([0, 1, 2, 0, 1], np.int32))
    assert model_variables.digests(trunk.variables) == frozen
    after = trunk_and_tail.values(tail)
    assert all((after[name] != before[name]).any() for name in before)


def test_the_seed_decides_new_layers_and_dropout(tiny):

    def outputs(seed):
        plan = make_plan(tiny, cut="image", seed=seed)
        trunk = trunk_and_tail.build_trunk(plan, "float32")
        tail = trunk_and_tail.build_tail(plan, trunk, "float32")
        image = np.ones((4, 16, 16, 3), np.float32)
        masked = []
        for step in range(2):
            with dropout.at(step):
                masked.append(np.asarray(tail(image, training=True)))
        return masked

    first, again, other = outputs(1), outputs(1), outputs(2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(*first)  # two steps, two masks


def test_the_seed_decides_a_frozen_random_start(tiny, images):
    """As with --ckpt=none --train_from=logits."""

    def features(seed):
        trunk = trunk_and_tail.build_trunk(make_plan(tiny, seed=seed), "float32")
        return np.asarray(trunk(images))

    assert np.array_equal(features(1), features(1))
    assert not np.array_equal(features(1), features(2))


def test_frozen_dropout_does_nothing_in_training(tiny, images):
    """Frozen features are the same from the cache and in the whole network.

    Its dropout would also follow a seed of its own, another one in every process.
    """
    trunk, tail = build(make_plan(tiny, cut="fc4", dropout=0.0))
    joined = trunk_and_tail.join(trunk, tail)
    assert np.array_equal(joined(images, training=True), tail(trunk(images)))


@pytest.mark.parametrize("cut", ["pool2", "pool1", "image"])
@pytest.mark.parametrize("features", [("pool2",), ("pool1", "pool2")], ids=len)
@pytest.mark.parametrize("pooling", ["average", "statistics"])
def test_a_head_sees_pooled_features(tiny, images, pooling, features, cut, tmp_path):
    """The trunk pools if nothing below the head trains; nothing else differs."""
    plan = make_plan(tiny, features=features, pooling=pooling, cut=cut)
    trunk, tail = build(plan)
    kinds = {"average": [np.mean], "statistics": [np.mean, np.std]}[pooling]
    assert plan.num_features == len(kinds) * sum(TINY_SHAPES[n][-1] for n in features)
    assert plan.trunk_pools == (cut == "pool2")
    if plan.trunk_pools:
        name = "head_pool" + " and deviations" * (len(kinds) > 1)
        name += " of pool1, pool2" * (len(features) > 1)
        assert (plan.trunk_output, trunk.output.shape[1]) == (name, plan.num_features)
    else:
        assert (plan.trunk_output, trunk.output.shape[1:]) == (cut, TINY_SHAPES[cut])
    whole = assemble(plan, trunk, tail)
    outputs = [
        keras.Model(whole.input, whole.get_layer(name).output)(images)
        for name in features
    ]
    pooled = [kind(output, axis=(1, 2)) for output in outputs for kind in kinds]
    final = whole.get_layer("logits")
    by_hand = np.concatenate(pooled, axis=1) @ final.kernel.numpy() + final.bias.numpy()
    np.testing.assert_allclose(whole(images), by_hand, rtol=1e-3, atol=1e-4)
    joined = trunk_and_tail.join(trunk, tail)
    np.testing.assert_allclose(joined(images), whole(images), rtol=1e-4, atol=1e-5)
    whole.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(images), whole(images))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_deviations_of_narrow_numbers_are_computed_in_float32(tiny, images, policy):
    """Means may be large beside them."""
    plan = make_plan(tiny, features=("pool2",), pooling="statistics", cut="pool2")
    trunk, _ = build(plan, policy)
    outputs = [trunk.get_layer("pool2").output, trunk.output]
    maps, pooled = keras.Model(trunk.input, outputs)(images)
    assert pooled.dtype == "float32"
    deviations = np.asarray(tf.cast(maps, tf.float32)).std((1, 2))
    np.testing.assert_allclose(pooled[:, 6:], deviations, rtol=1e-4, atol=1e-4)


def test_dropout_in_front_of_frozen_layers_is_left_out():
    """The cut lies deeper than what trains, for a head on several layers."""
    plan = make_plan(
        registry.NETWORKS["cifar_cnn"],
        features=("pool_1", "pool_2"),
        pooling="average",
        train_from="block_2_1",
        cut="pool_1",
        frozen=frozenset({"block_2_0"}),
    )
    _, tail = build(plan)
    assert isinstance(tail.get_layer("drop_1"), keras.layers.Identity)
    plan = dataclasses.replace(plan, train_from="block_2_0", frozen=frozenset())
    _, tail = build(plan)
    assert isinstance(tail.get_layer("drop_1"), dropout.StepDropout)


def test_a_dropout_of_0_leaves_the_layer_out(tiny):
    plan = make_plan(tiny, dropout=0.0)
    trunk, tail = build(plan)
    features = np.random.default_rng(1).normal(size=(4, 7))
    assert np.array_equal(tail(features, training=True), tail(features))
    names = [layer.name for layer in assemble(plan, trunk, tail).layers]
    assert names[-3:] == ["fc4", "head_flatten", "logits"]


def test_a_variable_without_a_name_has_the_same_one_in_every_model():
    """ConvNeXt's scales are numbered by Keras, through all models of a process."""
    names = []
    for _ in range(2):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, LayerScale(0.5, 3, name="scale")(inputs))
        assert trunk_and_tail.changing_variables(model) == {"scale/variable"}
        names += [[*trunk_and_tail.weights(model)], [*model_variables.trainable(model)]]
    assert names == [["scale/variable"]] * 4
