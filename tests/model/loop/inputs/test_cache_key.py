import dataclasses

import keras
import numpy as np
import pytest

from model.loop.inputs import feature_cache
from model.networks import registry
from tests.model.loop.inputs.test_feature_cache import SPEC, build_trunk


@pytest.fixture
def describe():
    def describe(**changes):
        facts = {
            "trunk": build_trunk(),
            "layer": "conv",
            "spec": SPEC,
            "precision": "float32",
        }
        return feature_cache.identity_of(**facts | changes)

    return describe


def test_the_same_weights_have_the_same_features(describe):
    assert describe() == describe(trunk=build_trunk())


def test_every_fact_changes_the_description(describe):
    others = [
        describe(trunk=build_trunk(seed=1)),
        describe(layer="pool"),
        describe(spec=dataclasses.replace(SPEC, short_side_px=10)),
        describe(spec=dataclasses.replace(SPEC, mean=(1.0, 0.0, 0.0))),
        describe(precision="bfloat16"),
    ]
    texts = {repr(other) for other in (describe(), *others)}
    assert len(texts) == len(others) + 1


def key(records, row, **changes):
    """The key of a row, in records with other settings or versions."""
    info = dataclasses.replace(records.info, **changes)
    records = dataclasses.replace(records, info=info)
    (key,) = feature_cache.photo_keys(records, [row])
    return key


def test_class_split_and_place_do_not_change_the_key_of_a_photo(found):
    for row in (found.included()[0], reencoded(found)):
        longer = row.length + len("another/")
        other = dataclasses.replace(
            row,
            path=f"another/{row.path}",
            split="test",
            fold=1,
            offset=7,
            length=longer,
        )
        assert key(found, other) == key(found, row)
        # As long as the name is, the record is longer.
        name = row.class_name + "2"
        other = dataclasses.replace(row, class_name=name, length=row.length + 1)
        assert key(found, other) == key(found, row)


def reencoded(found):
    return dataclasses.replace(found.included()[0], action="reencoded")


def test_whatever_decides_stored_pixels_changes_the_key_of_a_photo(found):
    copied, row = found.included()[0], reencoded(found)
    info = found.info
    keys = [
        key(found, copied),
        key(found, dataclasses.replace(copied, sha256="ab" * 32)),
        key(found, row),
        key(found, dataclasses.replace(row, sha256="ab" * 32)),
        *(
            key(found, dataclasses.replace(row, **{name: getattr(row, name) + 1}))
            for name in ("height", "width", "length")
        ),
        key(found, dataclasses.replace(row, format="png")),
        key(found, row, settings=info.settings | {"resize_min": 100}),
        key(found, row, settings=info.settings | {"white_level": 4095}),
        key(found, row, versions=info.versions | {"decoder": "1"}),
        key(found, row, versions=info.versions | {"opencv": "4.0"}),
    ]
    assert len(set(keys)) == len(keys)
    # A copied photo is the source, however others are converted.
    assert key(found, copied, settings={}, versions={}) == keys[0]


def test_random_numbers_of_a_photo_depend_on_its_key_and_the_seed(found):
    keys = feature_cache.photo_keys(found, found.included())
    numbers = feature_cache.uniform_numbers(keys, 2)
    assert numbers.shape == (len(keys), 3)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert len(np.unique(numbers)) == numbers.size
    assert (feature_cache.uniform_numbers(keys[::-1], 2) == numbers[::-1]).all()
    assert not (feature_cache.uniform_numbers(keys, 3) == numbers).any()


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
