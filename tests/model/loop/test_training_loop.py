import math

import keras
import numpy as np
import pytest

from model.loop import metrics, optimization, training_loop
from model.networks import head
from tests.support.small_training import Job, in_batches, linear, separable

LN2, LN3 = math.log(2), math.log(3)


def test_a_separable_problem_is_learned():
    job = Job(linear(), *separable(np.random.default_rng(0)), epochs=20)
    results = list(job.run())
    losses = [result.loss for result in results]
    assert losses[0] == pytest.approx(LN2, rel=0.3)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 3
    assert results[-1].accuracy == results[-1].validation_accuracy == 1
    assert results[-1].validation_loss < results[0].validation_loss


def test_figures_of_an_epoch_match_those_computed_by_hand():
    """Every example counts the same, also in the smaller last batch."""
    # Probabilities are 3/4 and 1/4 for every input, and stay so at this rate.
    model = linear(bias=(LN3, 0.0))
    job = Job(model, np.zeros((4, 2)), [0, 0, 1, 0], batch_size=3, rate=0.0)
    (result,) = job.run()
    by_hand = (3 * math.log(4 / 3) + math.log(4)) / 4
    assert result.loss == pytest.approx(by_hand)
    assert result.validation_loss == pytest.approx(by_hand)
    assert result.accuracy == result.validation_accuracy == 0.75
    assert job.sizes == [3, 1]
    assert result.epoch == 1
    assert result.seconds > 0
    assert result.images_per_s >= 4 / result.seconds


def test_an_epoch_that_was_stopped_continues_after_the_last_batch():
    """In another process, from `state`, to the same bytes."""

    def finish(job, training):
        while not training.done:
            list(training.train_epoch())
            training.validate()
        return [value.tobytes() for value in job.best.values.values()]

    def start():
        examples = separable(np.random.default_rng(3), 35)
        settings = optimization.Settings(optimizer="adam", iter_size=2, ema=0.9)
        job = Job(linear(), *examples, epochs=2, settings=settings)
        training = training_loop.StepwiseTraining(
            job.model, job.setup, job, best=job.best
        )
        return job, training

    undisturbed = finish(*start())
    job, training = start()
    batches = training.train_epoch()
    for _ in range(3):
        next(batches)
    state, weights = training.state(), job.model.get_weights()
    assert training.photos_in_epoch == 30
    job, training = start()
    job.model.set_weights(weights)
    training.restore(state)
    assert training.photos_in_epoch == 30
    assert finish(job, training) == undisturbed


class TestBestWeights:
    def test_the_lowest_validation_loss_is_kept(self):
        """Epochs 1 and 2 learn the right labels, 3 and 4 the wrong ones."""
        job = Job(linear(), *separable(np.random.default_rng(1)), epochs=4)
        right = job.training

        def training(epoch, start):
            for inputs, labels in right(epoch):
                yield inputs, labels if epoch < 2 else 1 - labels

        job.training = training
        losses, weights = [], []
        for result in job.run():
            losses.append(result.validation_loss)
            weights.append([v.numpy().copy() for v in job.model.trainable_variables])
            assert job.best.validation_loss == min(losses)
        assert losses[1] < losses[0]
        assert losses[1] < losses[2] < losses[3]
        assert job.best.epoch == 2
        best = list(job.best.values.values())
        assert all(map(np.array_equal, best, weights[1]))
        assert not np.array_equal(best[0], weights[3][0])
        for variable in job.model.trainable_variables:
            variable.assign(job.best.values[variable.path])
        expected = np.asarray(job.model(job.inputs))
        np.testing.assert_allclose(job.best.validation_logits, expected, rtol=1e-5)
        assert job.best.validation_loss == pytest.approx(
            metrics.mean_loss(expected, job.labels)
        )

    def test_the_first_of_equal_epochs_is_the_best(self):
        job = Job(linear(), np.zeros((4, 2)), [0, 1, 0, 1], epochs=3, rate=0.0)
        list(job.run())
        assert job.best.epoch == 1


class TestNonFiniteLoss:
    @pytest.mark.parametrize("value", [np.inf, np.nan])
    def test_a_loss_that_is_no_number_names_epoch_and_step(self, value):
        job = Job(linear(), np.ones((40, 2)), np.zeros(40), epochs=3)
        good = job.training

        def training(epoch, start):
            for number, (inputs, labels) in enumerate(good(epoch)):
                broken = (epoch, number) == (1, 2)
                yield inputs * value if broken else inputs, labels

        job.training = training
        with pytest.raises(
            training_loop.NonFiniteLoss,
            match=r"nan at step 3 of epoch 2, at a learning rate of 0\.\d+\. Try a lo",
        ):
            list(job.run())

    def test_the_best_weights_before_it_remain(self):
        job = Job(linear(), np.ones((4, 2)), [0, 0, 0, 1], epochs=2)
        running = job.run()
        next(running)
        job.inputs[:] = np.nan
        with pytest.raises(training_loop.NonFiniteLoss, match="step 1 of epoch 2"):
            next(running)
        assert job.best.epoch == 1
        assert all(np.isfinite(values).all() for values in job.best.values.values())


def test_the_same_seed_gives_the_same_bytes():
    """Two runs with dropout and a random start end with the same weights."""

    def run(seed, dropout=0.5):
        inputs = keras.Input((6,))
        output = inputs
        for layer in head.make_layers(2, dropout=dropout, seed=seed):
            output = layer(output)
        data = np.random.default_rng(0).normal(size=(30, 6))
        job = Job(keras.Model(inputs, output), data, data[:, 0] > 0, epochs=3)
        figures = [(result.loss, result.validation_loss) for result in job.run()]
        return figures, [value.tobytes() for value in job.best.values.values()]

    first = run(seed=1)
    assert run(seed=1) == first
    assert run(seed=2) != first
    assert run(seed=1, dropout=0.0) != first


def test_predict_keeps_order_and_leaves_dropout_out():
    inputs = keras.Input((3,))
    output = keras.layers.Dropout(0.5)(inputs)
    step = training_loop.make_predict_step(
        keras.Model(inputs, keras.layers.Rescaling(2.0, dtype="bfloat16")(output))
    )
    data = np.arange(30, dtype=np.float32).reshape(10, 3)
    logits, labels = training_loop.predict(step, in_batches(data, np.arange(10), 4))
    assert logits.dtype == np.float32
    assert (logits == 2 * data).all()
    assert (labels == np.arange(10)).all()


def test_training_stops_early_when_the_validation_loss_does_not_fall():
    settings = optimization.Settings(early_stopping=2)
    examples = np.zeros((4, 2)), [0, 1, 0, 1]
    job = Job(linear(), *examples, epochs=9, rate=0.0, settings=settings)
    assert len(list(job.run())) == 3
    assert job.best.epoch == 1


def test_the_moving_average_is_validated_and_kept():
    job = Job(
        linear(),
        *separable(np.random.default_rng(1)),
        settings=optimization.Settings(optimizer="sgd", ema=0.5),
    )
    (result,) = job.run()
    last = [v.numpy() for v in job.model.trainable_variables]
    with job.setup.update.averaged():
        average = [v.numpy() for v in job.model.trainable_variables]
        logits = np.asarray(job.model(job.inputs))
    assert not np.array_equal(last[0], average[0])
    np.testing.assert_array_equal(next(iter(job.best.values.values())), average[0])
    assert result.validation_loss == pytest.approx(
        metrics.mean_loss(logits, job.labels), rel=1e-5
    )
