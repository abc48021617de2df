import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

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
# Loads models where nothing of ours can be imported, and runs them on the same image.
PLAIN_KERAS = """
import json, sys
import keras, numpy as np
logits = []
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    image = np.arange(224 * 224 * 3).reshape(1, 224, 224, 3) % 251
    logits.append(np.asarray(model(image)).tolist())
print(json.dumps({"logits": logits, "ours": "model" in sys.modules}))
"""


def make_plan(tiny, **how):
    how = {
        "network": tiny,
        "spec": tiny.input_spec,
        "features": ("fc4",),
        "train_from": "",
        "cut": "fc4",
        "num_classes": 3,
        "dropout": 0.5,
        "seed": 1,
    } | how
    return stages.StagePlan(**how)


def build(plan, policy="float32"):
    """Trunk and tail with random weights, also for the biases and the final layer."""
    trunk = trunk_and_tail.build_trunk(plan, policy)
    tail = trunk_and_tail.build_tail(plan, trunk, policy)
    random = np.random.default_rng(8)
    for part in (trunk, tail):
        part.set_weights(
            [
                values + random.normal(size=values.shape) * 0.1
                for values in part.get_weights()
            ]
        )
    return trunk, tail


def values_of(part):
    return trunk_and_tail.values(part)


def names_of(variables):
    return [variable.path for variable in variables]


def pair(layers):
    return [f"{layer}/{kind}" for layer in layers for kind in ("kernel", "bias")]


@pytest.fixture
def images():
    random = np.random.default_rng(3)
    return random.integers(0, 256, (5, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize("cut", TINY_CUTS)
def test_only_layers_above_the_cut_train(tiny, cut):
    plan = make_plan(tiny, cut=cut)
    trunk = trunk_and_tail.build_trunk(plan, "float32")
    tail = trunk_and_tail.build_tail(plan, trunk, "float32")
    frozen = TINY_CUTS[cut]
    trained = [n for n in ("conv1", "conv2", "fc3", "fc4") if n not in frozen]
    assert trunk.trainable_variables == []
    assert list(model_variables.digests(trunk.variables)) == pair(frozen)
    assert names_of(tail.trainable_variables) == pair([*trained, "logits"])
    joined = trunk_and_tail.join(trunk, tail)
    assert names_of(joined.trainable_variables) == pair([*trained, "logits"])


@pytest.mark.parametrize("cut", TINY_CUTS)
def test_parts_joined_and_assembled_give_the_same_logits(tiny, images, cut):
    plan = make_plan(tiny, cut=cut)
    trunk, tail = build(plan)
    whole = trunk_and_tail.assemble(plan, values_of(trunk) | values_of(tail))
    in_parts = np.asarray(tail(trunk(images)))
    assert in_parts.shape == (5, 3)
    assert np.ptp(in_parts, axis=0).min() > 0.01  # another image, other logits
    np.testing.assert_allclose(whole(images), in_parts, rtol=1e-5, atol=1e-6)
    joined = trunk_and_tail.join(trunk, tail)
    np.testing.assert_allclose(joined(images), in_parts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cut", TINY_CUTS)
def test_assembled_weights_are_those_of_the_parts(tiny, cut):
    """The proof that goes into the ledger; dropout's random state must not spoil it."""
    plan = make_plan(tiny, cut=cut)
    trunk, tail = build(plan)
    whole = trunk_and_tail.assemble(plan, values_of(trunk) | values_of(tail))
    parts = model_variables.digests(trunk.variables) | model_variables.digests(
        tail.variables
    )
    assert model_variables.digests(whole.variables) == parts


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_the_assembled_network_is_float32(tiny, images, policy):
    plan = make_plan(tiny, cut="pool1")
    trunk, tail = build(plan, policy)
    assert tail.output.dtype == "float32"
    assert {variable.dtype for variable in tail.trainable_variables} == {"float32"}
    whole = trunk_and_tail.assemble(plan, values_of(trunk) | values_of(tail))
    assert {layer.dtype_policy.name for layer in whole.layers} == {"float32"}
    narrow, wide = np.asarray(tail(trunk(images))), np.asarray(whole(images))
    assert 0 < np.abs(narrow - wide).max() < 0.05 * np.abs(wide).max()


def test_training_changes_the_tail_alone(tiny, images):
    plan = make_plan(tiny, cut="pool1")
    trunk, tail = build(plan)
    joined = trunk_and_tail.join(trunk, tail)
    frozen, moving = model_variables.digests(trunk.variables), values_of(tail)
    step = train_step.TrainStep(joined, small_training.setup_of(joined, 1e-3, 1))
    step(images, np.array([0, 1, 2, 0, 1], np.int32))
    assert model_variables.digests(trunk.variables) == frozen
    after = values_of(tail)
    assert all((after[name] != moving[name]).any() for name in moving)


def test_seed_decides_new_layers_and_dropout(tiny):
    """Of layers the weights do not reach, here all of the tail."""

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


def test_frozen_dropout_does_nothing_in_training(tiny, images):
    """What is frozen says the same from the cache and in the whole network.

    Its dropout would also follow a seed of its own, another one in every process.
    """
    trunk, tail = build(make_plan(tiny, cut="fc4", dropout=0.0))
    joined = trunk_and_tail.join(trunk, tail)
    assert np.array_equal(joined(images, training=True), tail(trunk(images)))


@pytest.mark.parametrize("cut", ["pool1", "pool2"])
def test_a_head_sees_channel_means(tiny, images, cut):
    """The trunk takes them if nothing below the head trains; nothing else differs."""
    plan = make_plan(tiny, features=("pool2",), pooling="average", cut=cut)
    trunk, tail = build(plan)
    assert plan.num_features == 6
    assert trunk.output.shape[1:] == ((6,) if cut == "pool2" else (4, 4, 4))
    assert plan.trunk_output == ("head_pool" if cut == "pool2" else "pool1")
    whole = trunk_and_tail.assemble(plan, values_of(trunk) | values_of(tail))
    below = keras.Model(whole.input, whole.get_layer("pool2").output)(images)
    final = whole.get_layer("logits")
    by_hand = np.mean(below, axis=(1, 2)) @ final.kernel.numpy() + final.bias.numpy()
    np.testing.assert_allclose(whole(images), by_hand, rtol=1e-4, atol=1e-5)
    joined = trunk_and_tail.join(trunk, tail)
    np.testing.assert_allclose(joined(images), whole(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cut", ["pool2", "pool1", "image"])
def test_a_head_sees_the_means_of_several_layers(tiny, images, cut):
    """They are the trunk's output if nothing below the head trains."""
    plan = make_plan(tiny, features=("pool1", "pool2"), pooling="average", cut=cut)
    trunk, tail = build(plan)
    assert plan.num_features == 4 + 6
    trunk_gives = {"pool2": (10,), "pool1": (4, 4, 4), "image": (16, 16, 3)}
    assert trunk.output.shape[1:] == trunk_gives[cut]
    assert plan.trunk_output == ("head_pool of pool1, pool2" if cut == "pool2" else cut)
    whole = trunk_and_tail.assemble(plan, values_of(trunk) | values_of(tail))
    layers = [whole.get_layer(name) for name in ("pool1", "pool2")]
    outputs = keras.Model(whole.input, [layer.output for layer in layers])(images)
    means = np.concatenate([np.mean(one, axis=(1, 2)) for one in outputs], axis=1)
    final = whole.get_layer("logits")
    by_hand = means @ final.kernel.numpy() + final.bias.numpy()
    np.testing.assert_allclose(whole(images), by_hand, rtol=1e-4, atol=1e-5)
    joined = trunk_and_tail.join(trunk, tail)
    np.testing.assert_allclose(joined(images), whole(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cut", ["pool2", "pool1", "image"])
@pytest.mark.parametrize("features", [("pool2",), ("pool1", "pool2")])
def test_a_head_sees_means_and_deviations(tiny, images, features, cut, tmp_path):
    """The same from trunk and tail, and from a file in plain Keras."""
    plan = make_plan(tiny, features=features, pooling="statistics", cut=cut)
    trunk, tail = build(plan)
    assert plan.num_features == {1: 12, 2: 20}[len(features)]
    assert plan.trunk_pools == (cut == "pool2")
    assert plan.trunk_output == (
        "head_pool and deviations" + " of pool1, pool2" * (len(features) > 1)
        if cut == "pool2"
        else cut
    )
    whole = trunk_and_tail.assemble(plan, values_of(trunk) | values_of(tail))
    layers = [whole.get_layer(name) for name in features]
    outputs = keras.Model(whole.input, [layer.output for layer in layers])(images)
    outputs = outputs if len(features) > 1 else [outputs]
    seen = [f(one, axis=(1, 2)) for one in outputs for f in (np.mean, np.std)]
    final = whole.get_layer("logits")
    by_hand = np.concatenate(seen, axis=1) @ final.kernel.numpy() + final.bias.numpy()
    np.testing.assert_allclose(whole(images), by_hand, rtol=1e-3, atol=1e-4)
    joined = trunk_and_tail.join(trunk, tail)
    np.testing.assert_allclose(joined(images), whole(images), rtol=1e-4, atol=1e-5)
    whole.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(images), whole(images))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_deviations_are_computed_in_float32(tiny, images, policy):
    """Of what a layer gives, which may be; though means be large beside them."""
    plan = make_plan(tiny, features=("pool2",), pooling="statistics", cut="pool2")
    trunk, _ = build(plan, policy)
    layer = trunk.get_layer("pool2")
    layer_gives = keras.Model(trunk.input, [layer.output, trunk.output])
    maps, seen = layer_gives(images)
    maps = np.asarray(tf.cast(maps, tf.float32))
    assert seen.dtype == "float32"
    np.testing.assert_allclose(seen[:, 6:], maps.std((1, 2)), rtol=1e-4, atol=1e-4)


def test_dropout_in_front_of_frozen_layers_is_left_out():
    """Where the cut lies deeper than what trains, for a head on several layers."""
    chosen = registry.NETWORKS["cifar_cnn"]
    plan = make_plan(
        chosen,
        features=("pool_1", "pool_2"),
        pooling="average",
        train_from="block_2_1",
        cut="pool_1",
        frozen=frozenset({"block_2_0"}),
    )
    _, tail = build(plan)
    names = [layer.name for layer in tail.layers]
    assert "drop_1" not in names
    plan = dataclasses.replace(plan, train_from="block_2_0", frozen=frozenset())
    _, tail = build(plan)
    assert "drop_1" in [layer.name for layer in tail.layers]


def test_seed_decides_a_frozen_random_start(tiny, images):
    """As of --ckpt=none --train_from=logits."""

    def features(seed):
        plan = make_plan(tiny, seed=seed)
        return np.asarray(trunk_and_tail.build_trunk(plan, "float32")(images))

    assert np.array_equal(features(1), features(1))
    assert not np.array_equal(features(1), features(2))


def test_a_dropout_of_0_leaves_the_layer_out(tiny):
    plan = make_plan(tiny, dropout=0.0)
    trunk, tail = build(plan)
    features = np.random.default_rng(1).normal(size=(4, 7))
    assert np.array_equal(tail(features, training=True), tail(features))
    whole = trunk_and_tail.assemble(plan, values_of(trunk) | values_of(tail))
    assert [layer.name for layer in whole.layers][-3:] == [
        "fc4",
        "head_flatten",
        "logits",
    ]


def test_saved_networks_load_in_plain_keras(tmp_path):
    """In a process that has only Keras: same logits, no code of ours."""
    image = np.arange(224 * 224 * 3).reshape(1, 224, 224, 3) % 251
    paths, expected = [], []
    for name, chosen in registry.NETWORKS.items():
        if not name.startswith("alexnet"):
            continue
        plan = stages.StagePlan(
            network=chosen,
            spec=chosen.input_spec,
            features=("pool5",),
            train_from="logits",
            cut="pool5",
            num_classes=3,
            dropout=0.5,
            seed=0,
        )
        trunk = trunk_and_tail.build_trunk(plan, "float32")
        tail = trunk_and_tail.build_tail(plan, trunk, "float32")
        whole = trunk_and_tail.assemble(plan, values_of(trunk) | values_of(tail))
        path = tmp_path / f"{name}.keras"
        whole.save(path)
        paths.append(str(path))
        expected.append(np.asarray(whole(image)))
    asked = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_KERAS, *paths],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(asked.stdout)
    assert not found["ours"]
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-5)
    assert np.abs(expected).min() > 0
