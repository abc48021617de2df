import math

import keras
import numpy as np
import pytest

from model.loop import losses, metrics, optimization, parameter_update, training_loop
from model.networks import head
from model.weights import model_variables

LN2, LN3 = math.log(2), math.log(3)


def linear(num_inputs=2, bias=(0.0, 0.0)):
    """A network of one dense layer; its kernel starts at zero."""
    inputs = keras.Input((num_inputs,))
    layer = keras.layers.Dense(
        len(bias), kernel_initializer="zeros", bias_initializer=lambda *_, **__: bias
    )
    return keras.Model(inputs, layer(inputs))


def in_batches(inputs, labels, batch_size):
    for start in range(0, len(labels), batch_size):
        some = slice(start, start + batch_size)
        yield inputs[some], labels[some]


def separable(random, count=40):
    """Points left and right of a line, of class 0 and 1."""
    labels = random.integers(0, 2, count).astype(np.int32)
    inputs = random.normal(size=(count, 2)).astype(np.float32)
    inputs[:, 0] = np.abs(inputs[:, 0]) * (2 * labels - 1)
    return inputs, labels


def learning_of(model, rate, total_steps, epochs=1, *, precision="float32", **how):
    """Adam and a half cosine, unless `how` says otherwise."""
    settings = how.pop("settings", optimization.Settings())
    moved = parameter_update.Update(
        model_variables.trainable(model), settings, float16=precision == "float16"
    )
    how = {"schedule": optimization.Settings(), **how}
    how |= {"epochs": epochs, "total_steps": total_steps}
    return training_loop.Learning(update=moved, rate=rate, **how)


class Job:
    """A training on the same few examples in every epoch."""

    def __init__(
        self, model, inputs, labels, *, batch_size=10, epochs=1, rate=0.1, **how
    ):
        self.model = model
        self.inputs = np.asarray(inputs, np.float32)
        self.labels = np.asarray(labels, np.int32)
        self.batch_size = batch_size
        self.epochs = epochs
        steps = epochs * math.ceil(len(self.labels) / batch_size)
        self.learning = learning_of(model, rate, steps, epochs, **how)
        trained = {v.path: v for v in model.trainable_variables}
        self.best = training_loop.Best(variables=trained)
        self.num_training = len(self.labels)
        self.sizes = []

    def training(self, epoch, start=0):
        done = start * self.batch_size
        return in_batches(self.inputs[done:], self.labels[done:], self.batch_size)

    def validation(self):
        return in_batches(self.inputs, self.labels, 7)

    def run(self):
        training = training_loop.Training(
            self.model, self.learning, self, best=self.best
        )
        while not training.done:
            yield training.run_epoch(self.sizes.append)


def test_learns_a_separable_problem():
    job = Job(linear(), *separable(np.random.default_rng(0)), epochs=20)
    results = list(job.run())
    losses = [result.loss for result in results]
    assert losses[0] == pytest.approx(LN2, rel=0.3)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 3
    assert results[-1].accuracy == results[-1].validation_accuracy == 1
    assert results[-1].validation_loss < results[0].validation_loss


def test_figures_of_an_epoch_by_hand():
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


class TestLearningRate:
    # (1 + cos(pi k / 4)) / 2 for k = 0..3.
    SHARES = (1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4)

    def test_each_step_by_hand(self):
        """Under a constant gradient Adam moves by the learning rate in every step."""
        model = linear(bias=(0.0, 50.0))  # so wrong that the gradient is -1 and 1
        job = Job(model, np.zeros((2, 2)), [0, 0], batch_size=1, epochs=2, rate=0.01)
        moved = []
        step = training_loop.TrainStep(model, job.learning)
        for number in range(4):
            before = model.layers[-1].bias.numpy()
            step(job.inputs[:1], job.labels[:1])
            moved.append(model.layers[-1].bias.numpy() - before)
            expected = 0.01 * self.SHARES[number]
            np.testing.assert_allclose(moved[-1][0], expected, rtol=1e-4)
            np.testing.assert_allclose(moved[-1][1], -expected, rtol=2e-3)

    def test_result_has_that_of_its_last_step(self):
        job = Job(linear(), np.zeros((2, 2)), [0, 1], batch_size=1, epochs=2)
        rates = [result.learning_rate for result in job.run()]
        assert rates == pytest.approx([0.1 * self.SHARES[1], 0.1 * self.SHARES[3]])


def test_one_step_by_hand():
    """Adam's first step moves each weight by the rate, against its gradient's sign."""
    model = linear()
    step = training_loop.TrainStep(model, learning_of(model, 0.01, 10))
    inputs = np.array([[2.0, -1.0], [1.0, -3.0]], np.float32)
    loss, hits, *_ = step(inputs, np.array([1, 0], np.int32))
    assert float(loss) == pytest.approx(LN2)
    assert int(hits) == 1  # of equal logits the first class counts
    # d loss / d kernel = mean over examples of x (p - y), p = 1/2:
    # inputs[0] (1/2, -1/2) / 2 + inputs[1] (-1/2, 1/2) / 2 = [[.25, -.25], [.5, -.5]].
    np.testing.assert_allclose(
        model.layers[-1].kernel, [[-0.01, 0.01], [-0.01, 0.01]], rtol=1e-4
    )
    np.testing.assert_allclose(model.layers[-1].bias, [0, 0], atol=1e-6)


class TestBest:
    def test_keeps_the_lowest_and_its_weights(self):
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
        kept = list(job.best.values.values())
        assert all(map(np.array_equal, kept, weights[1]))
        assert not np.array_equal(kept[0], weights[3][0])
        for variable in job.model.trainable_variables:
            variable.assign(job.best.values[variable.path])
        expected = np.asarray(job.model(job.inputs))
        np.testing.assert_allclose(job.best.validation_logits, expected, rtol=1e-5)
        assert job.best.validation_loss == pytest.approx(
            metrics.mean_loss(expected, job.labels)
        )

    def test_of_equal_epochs_the_first(self):
        job = Job(linear(), np.zeros((4, 2)), [0, 1, 0, 1], epochs=3, rate=0.0)
        list(job.run())
        assert job.best.epoch == 1

    def test_nothing_before_the_first_epoch(self):
        best = training_loop.Best()
        assert (best.epoch, best.values, best.validation_logits) == (0, {}, None)


class TestNonFiniteLoss:
    @pytest.mark.parametrize("value", [np.inf, np.nan])
    def test_names_epoch_and_step(self, value):
        job = Job(linear(), np.ones((40, 2)), np.zeros(40), epochs=3)
        good = job.training

        def training(epoch, start):
            for number, (inputs, labels) in enumerate(good(epoch)):
                broken = (epoch, number) == (1, 2)
                yield inputs * value if broken else inputs, labels

        job.training = training
        results = []
        with pytest.raises(
            training_loop.NonFiniteLoss,
            match=r"nan at step 3 of epoch 2, at a rate of 0\.\d+; try a lower --learn",
        ):
            results.extend(job.run())
        assert len(job.sizes) == 4 + 2

    def test_what_was_reached_before_is_kept(self):
        job = Job(linear(), np.ones((4, 2)), [0, 0, 0, 1], epochs=2)
        running = job.run()
        next(running)
        job.inputs[:] = np.nan
        with pytest.raises(training_loop.NonFiniteLoss, match="step 1 of epoch 2"):
            next(running)
        assert job.best.epoch == 1
        assert all(np.isfinite(values).all() for values in job.best.values.values())


def test_same_seed_same_bytes():
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


def test_float16_scales_the_loss():
    """Gradients of 1e-8 would be zero in float16; the step is that of float32."""
    moved = {}
    for precision, policy in (("float32", "float32"), ("float16", "mixed_float16")):
        inputs = keras.Input((2,))
        hidden = keras.layers.Dense(
            2, kernel_initializer="ones", use_bias=False, dtype=policy
        )
        scaled = keras.layers.Rescaling(1e-8, dtype="float32")(hidden(inputs))
        logits = keras.layers.Dense(2, kernel_initializer="identity")(scaled)
        model = keras.Model(inputs, logits)
        step = training_loop.TrainStep(
            model, learning_of(model, 0.1, 10, precision=precision)
        )
        loss, *_ = step(np.ones((2, 2), np.float32), np.zeros(2, np.int32))
        assert float(loss) == pytest.approx(LN2, rel=1e-3)
        moved[precision] = hidden.kernel.numpy() - 1
    assert (moved["float32"][:, 0] > 0).all()
    np.testing.assert_allclose(moved["float16"], moved["float32"], rtol=0.05)


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


@pytest.mark.parametrize(
    ("num_features", "rate"), [(9216, 1e-4), (1280, 7.2e-4), (0, 1e-4)]
)
def test_suitable_rate(num_features, rate):
    assert training_loop.suitable_rate(num_features) == pytest.approx(rate)


class TestIterSize:
    def run(self, batch_size, iter_size):
        """The weights after two epochs of seven examples."""
        random = np.random.default_rng(0)
        model = linear()
        job = Job(
            model,
            *separable(random, 7),
            batch_size=batch_size,
            epochs=2,
            settings=optimization.Settings(optimizer="sgd", iter_size=iter_size),
            schedule=optimization.Settings(policy="exp", gamma=0.5),
        )
        rates = [result.learning_rate for result in job.run()]
        return model.layers[-1].kernel.numpy(), rates

    def test_as_one_large_batch(self):
        """Two batches of 2 are one of 4; what is left at the end is a step, too."""
        weights, rates = self.run(2, 2)
        expected, expected_rates = self.run(4, 1)
        np.testing.assert_allclose(weights, expected, rtol=1e-5)
        assert rates == expected_rates == [0.05, 0.0125]

    def test_smaller_batches_are_other_steps(self):
        assert self.run(2, 1)[1] == [0.1 * 2**-3, 0.1 * 2**-7]


def test_stops_when_nothing_gets_better():
    job = Job(linear(), np.zeros((4, 2)), [0, 1, 0, 1], epochs=9, rate=0.0, patience=2)
    assert len(list(job.run())) == 3
    assert job.best.epoch == 1


def test_the_moving_average_is_judged_and_kept():
    job = Job(
        linear(),
        *separable(np.random.default_rng(1)),
        settings=optimization.Settings(optimizer="sgd", ema=0.5),
    )
    (result,) = job.run()
    own = [v.numpy() for v in job.model.trainable_variables]
    with job.learning.update.averaged():
        average = [v.numpy() for v in job.model.trainable_variables]
        logits = np.asarray(job.model(job.inputs))
    assert not np.array_equal(own[0], average[0])
    np.testing.assert_array_equal(next(iter(job.best.values.values())), average[0])
    assert result.validation_loss == pytest.approx(
        metrics.mean_loss(logits, job.labels), rel=1e-5
    )


def test_the_loss_that_is_asked_for():
    loss = losses.Loss(label_smoothing=0.2, class_weights=(1.0, 3.0))
    job = Job(linear(bias=(LN3, 0.0)), [[0, 0]], [1], rate=0.0, loss=loss)
    (result,) = job.run()
    assert result.loss == pytest.approx(
        3 * (0.9 * math.log(4) + 0.1 * math.log(4 / 3)), rel=1e-5
    )
    assert result.validation_loss == pytest.approx(math.log(4), rel=1e-5)


class TestMixedLabels:
    """float32 [batch, num_classes], the share of each class."""

    def test_a_step_by_hand(self):
        """Probabilities are 3/4 and 1/4 for every input."""
        model = linear(bias=(LN3, 0.0))
        step = training_loop.TrainStep(model, learning_of(model, 0.0, 10))
        shares = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], np.float32)
        loss, hits, _ = step(np.zeros((3, 2), np.float32), shares)
        by_hand = (1.6 * math.log(4 / 3) + 1.4 * math.log(4)) / 3
        assert float(loss) == pytest.approx(by_hand, rel=1e-5)
        assert int(hits) == 2  # the greatest share is meant, the first of equal ones

    @pytest.mark.parametrize("iter_size", [1, 2])
    def test_whole_ones_train_as_labels_do(self, iter_size):
        moved = []
        inputs, labels = separable(np.random.default_rng(0), 7)
        for some in (labels, np.eye(2, dtype=np.float32)[labels]):
            model = linear()
            settings = optimization.Settings(optimizer="sgd", iter_size=iter_size)
            step = training_loop.TrainStep(
                model, learning_of(model, 0.1, 9, settings=settings)
            )
            for batch in in_batches(inputs, some, 3):
                step(*batch)
            step.finish()
            moved.append(model.layers[-1].kernel.numpy())
        assert moved[0].any()
        np.testing.assert_allclose(*moved, rtol=1e-5)

    def test_training_with_them_and_validation_without(self):
        job = Job(linear(), *separable(np.random.default_rng(0)), epochs=5)
        plain = job.training

        def training(epoch, start):
            for inputs, labels in plain(epoch):
                yield (
                    inputs,
                    0.8 * np.eye(2, dtype=np.float32)[labels] + np.float32(0.1),
                )

        job.training = training
        results = list(job.run())
        assert results[-1].accuracy > 0.9
        assert results[-1].validation_accuracy > 0.9
        assert job.sizes == [10] * 20
