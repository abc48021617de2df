"""Steps worked out by hand, and compared with those of Keras' optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.loop.optimization import Settings
from model.loop.train_step import ParameterUpdate

START = {"fc/kernel": [[1.0, -2.0], [3.0, 0.5]], "fc/bias": [0.1, -0.3]}


def variables(start=START):
    return {name: keras.Variable(value, name="v") for name, value in start.items()}


def gradients(number):
    """Random numbers that differ by step; their norm is never below 1."""
    random = np.random.default_rng(number)
    return [random.normal(0, 2, np.shape(v)).astype("f4") for v in START.values()]


def values(arrays):
    """Return the numbers of arrays or of {name: variable} in one row."""
    if isinstance(arrays, dict):
        arrays = [variable.numpy() for variable in arrays.values()]
    return np.concatenate([np.ravel(array) for array in arrays])


def steps(settings, rates, *, count=1.0, start=START):
    """The variables after a step for each rate, in one row each."""
    changed = variables(start)
    updated = ParameterUpdate(changed, settings)

    @tf.function
    def step(rate, *gradients):
        updated.apply(gradients, tf.constant(count), rate)

    rows = []
    for number, rate in enumerate(rates):
        step(tf.constant(rate), *gradients(number))
        rows.append(values(changed))
    return np.array(rows)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd", keras.optimizers.SGD, {}),
        ("sgd", keras.optimizers.SGD, {"momentum": 0.9}),
        ("sgd", keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
        ("adam", keras.optimizers.Adam, {}),
        ("adamw", keras.optimizers.AdamW, {"weight_decay": 0.01}),
        ("rmsprop", keras.optimizers.RMSprop, {"momentum": 0.9}),
    ],
)
def test_steps_are_those_of_keras_optimizers(name, kind, options):
    settings = Settings(optimizer=name, **options)
    theirs, optimizer = variables(), kind(0.1, **options)
    expected = []
    for number in range(4):
        optimizer.apply(gradients(number), list(theirs.values()))
        expected.append(values(theirs))
    np.testing.assert_allclose(steps(settings, [0.1] * 4), expected, 1e-6, 1e-6)


def test_gradients_become_means_over_the_examples():
    settings = Settings(optimizer="sgd")
    many = steps(settings, [0.4], count=4.0)
    np.testing.assert_allclose(many, steps(settings, [0.1]), rtol=1e-6)


def test_momentum_keeps_what_was_moved_at_an_earlier_rate():
    """As in Caffe."""
    rows = steps(Settings(optimizer="sgd", momentum=0.5), [0.1, 0.0])
    first = rows[0] - values(START.values())
    np.testing.assert_allclose(rows[1] - rows[0], 0.5 * first, rtol=1e-5)


class TestLayerRates:
    rates = "fc/*=10,*/bias=20"

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
    def test_rates_scale_the_move_and_not_the_gradient(self, optimizer):
        start = values(START.values())
        plain = steps(Settings(optimizer=optimizer), [0.01])[0] - start
        scaled = steps(Settings(optimizer=optimizer, rates=self.rates), [0.01])[0]
        times = np.array([10, 10, 10, 10, 20, 20])
        np.testing.assert_allclose(scaled - start, plain * times, rtol=1e-4)

    def test_a_factor_of_0_freezes(self):
        updated = ParameterUpdate(variables(), Settings(rates="*/kernel=0"))
        assert [v.shape for v in updated.variables] == [(2,)]

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_a_decay_factor_of_0_leaves_biases_alone(self, optimizer):
        settings = Settings(optimizer=optimizer, weight_decay=0.5, rates="*/bias=1:0")
        without = steps(Settings(optimizer=optimizer), [0.1])[0]
        moved = steps(settings, [0.1])[0] - without
        start = values(START.values())
        np.testing.assert_allclose(moved[:4], -0.1 * 0.5 * start[:4], rtol=1e-4)
        np.testing.assert_allclose(moved[4:], 0, atol=1e-7)

    def test_l2_decay_is_part_of_the_gradient(self):
        """As in Caffe, so that Adam scales it away."""
        adam = steps(Settings(optimizer="adam", weight_decay=0.5), [0.1])[0]
        start = values(START.values())
        np.testing.assert_allclose(np.abs(adam - start), 0.1, rtol=1e-3)


def test_clipping_limits_the_norm_over_all_variables():
    start = values(START.values())
    plain = steps(Settings(optimizer="sgd"), [1.0])[0] - start
    clipped = steps(Settings(optimizer="sgd", clip_norm=0.5), [1.0])[0] - start
    assert np.linalg.norm(plain) > 0.5
    np.testing.assert_allclose(clipped, plain * 0.5 / np.linalg.norm(plain), rtol=1e-5)
    large = steps(Settings(optimizer="sgd", clip_norm=1e3), [1.0])[0] - start
    np.testing.assert_allclose(large, plain, rtol=1e-6)


def test_accumulated_batches_make_one_step():
    """As one batch of all their examples, whatever their sizes."""
    changed = variables()
    updated = ParameterUpdate(changed, Settings(optimizer="sgd", iter_size=2))
    for number, size in enumerate((3.0, 1.0)):
        updated.accumulate(gradients(number), tf.constant(size))
    updated.apply_accumulated(tf.constant(0.1))
    total = values(gradients(0)) + values(gradients(1))
    expected = values(START.values()) - 0.1 * total / 4
    np.testing.assert_allclose(values(changed), expected)
    updated.accumulate(gradients(2), tf.constant(2.0))
    updated.apply_accumulated(tf.constant(0.1))
    expected = expected - 0.1 * values(gradients(2)) / 2
    np.testing.assert_allclose(values(changed), expected, rtol=1e-6)


def test_clipping_limits_the_sum_of_accumulated_batches():
    """As in Caffe, where each batch adds its mean, and the clipped sum is divided."""
    changed = variables()
    settings = Settings(optimizer="sgd", iter_size=2, clip_norm=0.5)
    updated = ParameterUpdate(changed, settings)
    for number in range(2):
        updated.accumulate(gradients(number), tf.constant(4.0))
    updated.apply_accumulated(tf.constant(0.1))
    total = values(gradients(0)) / 4 + values(gradients(1)) / 4
    assert np.linalg.norm(total) > 0.5
    expected = values(START.values()) - 0.1 * 0.5 * total / np.linalg.norm(total) / 2
    np.testing.assert_allclose(values(changed), expected, rtol=1e-6)


def test_the_moving_average_follows_the_weights_closely_at_first():
    changed = variables()
    updated = ParameterUpdate(changed, Settings(optimizer="sgd", ema=0.25))
    expected = values(START.values())
    for number, kept in enumerate((2 / 11, 3 / 12, 0.25)):
        updated.apply(gradients(number), tf.constant(1.0), tf.constant(0.1))
        expected = kept * expected + (1 - kept) * values(changed)
    own = values(changed)
    with updated.averaged():
        np.testing.assert_allclose(values(changed), expected, rtol=1e-5)
    np.testing.assert_array_equal(values(changed), own)


def test_state_is_all_that_a_resumed_training_needs():
    settings = Settings(optimizer="adam", ema=0.9, rates=TestLayerRates.rates)

    def run(first, second):
        changed = variables()
        updated = ParameterUpdate(changed, settings)
        for number in range(first):
            updated.apply(gradients(number), tf.constant(1.0), tf.constant(0.1))
        state = {name: v.numpy() for name, v in updated.state.items()}
        weights = {name: v.numpy() for name, v in changed.items()}
        changed = variables(weights)
        updated = ParameterUpdate(changed, settings)
        for name, variable in updated.state.items():
            variable.assign(state[name])
        for number in range(first, first + second):
            updated.apply(gradients(number), tf.constant(1.0), tf.constant(0.1))
        return values(changed | updated.state)

    np.testing.assert_array_equal(run(2, 3), run(5, 0))
