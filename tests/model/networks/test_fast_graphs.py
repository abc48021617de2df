"""Networks with folded batch normalisation against themselves."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from model.networks import fast_graphs, registry


def with_statistics(model):
    """Give batch normalisation other numbers than those it starts with."""
    random = np.random.default_rng(0)
    for variable in model.variables:
        if "gamma" in variable.path or "variance" in variable.path:
            variable.assign(random.uniform(0.2, 2, variable.shape))
        elif "beta" in variable.path or "mean" in variable.path:
            variable.assign(random.normal(0, 0.3, variable.shape))
    return model


def num_normalisations(function, shape):
    graph = tf.function(function, autograph=False).get_concrete_function(
        tf.TensorSpec(shape, tf.float32)
    )
    return sum(node.op == "Rsqrt" for node in graph.graph.as_graph_def().node)


def check(model, num_remaining):
    """Outputs are the same, and `num_remaining` normalisations are computed."""
    with_statistics(model)
    shape = (3, *model.inputs[0].shape[1:])
    images = np.random.default_rng(1).uniform(0, 255, shape).astype(np.float32)
    compute = fast_graphs.folded(model)
    expected = np.asarray(model(images, training=False))
    found = np.asarray(compute(tf.constant(images)))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert num_normalisations(compute, shape) == num_remaining


def test_efficientnet_lite():
    network = registry.by_name("efficientnet_lite0")
    spec = dataclasses.replace(network.input_spec, size_px=32, short_side_px=36)
    check(network.build(spec, last="block_5"), 0)


def test_layers_of_all_kinds_and_what_cannot_be_folded():
    image = keras.Input((9, 9, 3))
    x = layers.RandomFlip(seed=0)(image)
    x = layers.BatchNormalization()(x)  # nothing before it: stays
    x = layers.Conv2D(4, 3, name="with_bias", bias_initializer="ones")(x)
    x = layers.BatchNormalization(scale=False, epsilon=0.1)(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(center=False)(x))
    used_twice = layers.Conv2D(8, 1)(x)
    x = layers.Add()([layers.BatchNormalization()(used_twice), used_twice])  # stays
    active = layers.Conv2D(8, 1, activation="relu")(x)
    x = layers.BatchNormalization()(active)  # stays
    inner = keras.Sequential([keras.Input((5, 5, 8)), layers.Conv2D(6, 1)])
    inner.add(layers.BatchNormalization())
    x = layers.Flatten()(layers.Dropout(0.9)(inner(x)))
    x = layers.BatchNormalization()(layers.Dense(5)(x))
    check(keras.Model(image, x), 3)


def test_without_batch_normalisation_the_bytes_are_the_same():
    network = registry.by_name("cifar10_quick")
    model = network.build(network.input_spec, last="pool3")
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    found = fast_graphs.folded(model)(images).numpy()
    assert found.tobytes() == model(images, training=False).numpy().tobytes()


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_in_narrow_precision(precision):
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, use_bias=False, dtype=precision)(image)
    x = layers.BatchNormalization(dtype=precision)(x)
    model = with_statistics(keras.Model(image, x))
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    outputs = fast_graphs.folded(model)(tf.constant(images))
    assert outputs.dtype == precision.removeprefix("mixed_")
    expected = model(images, training=False)
    assert np.allclose(
        *(tf.cast(t, tf.float32) for t in (outputs, expected)), 0.05, 0.05
    )
