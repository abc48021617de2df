import keras
import numpy as np
import pytest
import tensorflow as tf

from model.loop import dropout

LAYERS = keras.layers


def layer(rate=0.5, seed=1, noise_shape=(), name="drop", dtype="float32"):
    options = {"noise_shape": noise_shape, "name": name, "dtype": dtype}
    return dropout.StepDropout(rate, seed, **options)


def masked(layer, inputs, step):
    with dropout.at(step):
        return np.asarray(layer(inputs, training=True), np.float32)


class TestStepDropout:
    @pytest.mark.parametrize("rate", [0.5, 0.1, 0.9])
    @pytest.mark.parametrize("shape", [(64, 1001), (10, 7, 7, 33)])
    def test_dropout_keeps_the_mean(self, rate, shape):
        output = masked(layer(rate), np.ones(shape, np.float32), 3)
        share = np.mean(output == 0)
        assert abs(share - rate) < 0.02
        assert len(np.unique(output)) == 2
        # To the multiple of 1/256 that was drawn with.
        assert abs(output.max() - 1 / (1 - rate)) < 0.03 / (1 - rate)
        assert abs(output.mean() - 1) < 0.1

    def test_dropout_repeats_with_the_step(self):
        inputs = np.random.default_rng(0).normal(size=(8, 100)).astype(np.float32)
        first = masked(layer(), inputs, 7)
        assert (masked(layer(), inputs, 7) == first).all()
        for other in (
            masked(layer(), inputs, 8),
            masked(layer(seed=2), inputs, 7),
            masked(layer(name="drop2"), inputs, 7),
        ):
            assert (other != first).any()

    def test_every_position_is_dropped_at_some_step(self):
        """Each number by itself, over steps and batch."""
        share_kept = np.mean(
            [masked(layer(), np.ones((4, 37), np.float32), n) > 0 for n in range(400)],
            axis=0,
        )
        assert 0.35 < share_kept.min() < share_kept.max() < 0.65

    def test_a_graph_drops_the_same_as_eager_code(self):
        inputs = np.ones((3, 50), np.float32)
        drop = layer()

        @tf.function(autograph=False)
        def run(step):
            with dropout.at(step):
                return drop(inputs, training=True)

        for step in (0, 5):
            output = run(tf.constant(step, tf.int64))
            np.testing.assert_array_equal(output, masked(drop, inputs, step))

    @pytest.mark.parametrize("kind", ["Dropout", "SpatialDropout2D"])
    def test_a_mask_of_keras_keeps_its_shape(self, kind):
        """EfficientNet drops whole branches of single photos."""
        if kind == "Dropout":
            layer = LAYERS.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="a")
        else:
            layer = LAYERS.SpatialDropout2D(0.5, name="a")
        ones = np.ones((200, 3, 2, 5), np.float32)
        output = masked(dropout.by_step(layer, 1), ones, 1)
        shape = (200, 1, 1, 1 if kind == "Dropout" else 5)
        assert (output == output[:, :1, :1, : shape[3]]).all()
        assert 0.4 < np.mean(output == 0) < 0.6

    def test_the_gradient_passes_where_numbers_pass(self):
        inputs = tf.ones((4, 30))
        with tf.GradientTape() as tape, dropout.at(2):
            tape.watch(inputs)
            output = layer()(inputs, training=True)
        np.testing.assert_array_equal(tape.gradient(output, inputs), output)

    @pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
    def test_nothing_is_dropped_in_use_in_any_precision(self, precision):
        dtype = precision if precision == "float32" else f"mixed_{precision}"
        inputs = np.ones((2, 800), np.float32)
        in_use = layer(dtype=dtype)(inputs)
        assert in_use.dtype == precision
        np.testing.assert_array_equal(np.asarray(in_use, np.float32), inputs)
        assert {*np.unique(masked(layer(dtype=dtype), inputs, 1))} == {0, 2}

    def test_training_without_a_step_is_an_error(self):
        with pytest.raises(RuntimeError, match="drop: called in training outside"):
            layer()(np.ones((2, 3), np.float32), training=True)


def test_noise_repeats_with_the_step():
    noise = dropout.StepNoise(0.1, 1, name="noise", dtype="float32")
    inputs = np.full((50, 60), 2.0, np.float32)
    first = masked(noise, inputs, 1)
    assert abs(first.mean() - 2) < 0.01
    assert abs(first.std() - 0.1) < 0.01
    assert (masked(noise, inputs, 1) == first).all()
    assert (masked(noise, inputs, 2) != first).any()
    np.testing.assert_array_equal(noise(inputs), inputs)


class TestByStep:
    @pytest.mark.parametrize(
        ("before", "kind"),
        [
            (LAYERS.Dropout(0.3, name="a"), dropout.StepDropout),
            (LAYERS.SpatialDropout2D(0.3, name="a"), dropout.StepDropout),
            (LAYERS.GaussianNoise(0.3, name="a"), dropout.StepNoise),
            (LAYERS.Dropout(0.0, name="a"), LAYERS.Dropout),
            (LAYERS.Dense(2, name="a"), LAYERS.Dense),
        ],
    )
    def test_dropout_and_noise_layers_are_replaced(self, before, kind):
        replaced = dropout.by_step(before, 1)
        assert type(replaced) is kind
        assert replaced.name == "a"
