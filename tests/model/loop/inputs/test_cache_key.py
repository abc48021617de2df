import dataclasses

import keras
import numpy as np
import pytest

from model.loop.inputs import cache_key
from model.networks import registry
from tests.model.loop.inputs.test_feature_cache import SPEC, build_trunk


@pytest.fixture
def describe(found):
    def describe(**changes):
        facts = {
            "trunk": build_trunk(),
            "layer": "conv",
            "spec": SPEC,
            "precision": "float32",
            "records": found,
        }
        return cache_key.describe(**facts | changes)

    return describe


def test_the_same_weights_have_the_same_features(describe):
    assert describe() == describe(trunk=build_trunk())


def test_every_fact_changes_the_description(describe, found):
    moved = dataclasses.replace(found.rows[0], offset=found.rows[0].offset + 1)
    others = [
        describe(trunk=build_trunk(seed=1)),
        describe(layer="pool"),
        describe(spec=dataclasses.replace(SPEC, short_side_px=10)),
        describe(spec=dataclasses.replace(SPEC, mean=(1.0, 0.0, 0.0))),
        describe(precision="bfloat16"),
        describe(records=dataclasses.replace(found, rows=(moved, *found.rows[1:]))),
        describe(records=dataclasses.replace(found, rows=found.rows[1:])),
    ]
    texts = {repr(other) for other in (describe(), *others)}
    assert len(texts) == len(others) + 1


def test_all_splits_share_a_cache(describe, found):
    rows = [dataclasses.replace(row, split="test", fold=1) for row in found.rows]
    assert describe(records=dataclasses.replace(found, rows=tuple(rows))) == describe()


def test_the_random_state_of_dropout_does_not_matter(describe):
    """It differs in every process."""

    def with_dropout(seed):
        image = keras.Input((8, 8, 3), name="image")
        kernel = keras.initializers.RandomNormal(0, 1, seed=0)
        layer = keras.layers.Dense(3, kernel_initializer=kernel, name="fc6")
        output = keras.layers.Dropout(0.5, seed=seed, name="drop")(layer(image))
        return keras.Model(image, output)

    assert describe(trunk=with_dropout(1)) == describe(trunk=with_dropout(2))


def test_networks_that_differ_in_layers_without_weights_have_two_caches(describe):
    facts = []
    for name in ("caffenet", "bvlc_alexnet", "caffenet"):
        network = registry.by_name(name)
        trunk = network.build(network.input_spec, last="pool1")
        for variable in trunk.variables:
            variable.assign(np.zeros(variable.shape))
        facts.append(describe(trunk=trunk))
    assert facts[0]["weights"] == facts[1]["weights"]
    assert facts[0] != facts[1]
    assert facts[0] == facts[2]


def test_means_of_another_layer_have_another_cache(describe):
    """With the same channels, and the same weights below."""
    trunk = build_trunk()
    pooled = keras.layers.MaxPooling2D(name="pool")(trunk.output)
    whole, deeper = (
        keras.Model(
            trunk.input, keras.layers.GlobalAveragePooling2D(name="head_pool")(output)
        )
        for output in (trunk.output, pooled)
    )
    assert describe(trunk=whole) != describe(trunk=deeper)
