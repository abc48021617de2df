"""Steps worked out by hand."""

import math

import numpy as np
import pytest

from model.loop import optimization, train_step
from tests.support.small_training import Job, in_batches, linear, separable, setup_of

LN2, LN3 = math.log(2), math.log(3)


def test_a_step_matches_one_computed_by_hand():
    """Adam's first step moves each weight by the rate, against its gradient's sign."""
    model = linear()
    step = train_step.TrainStep(model, setup_of(model, 0.01, 10))
    inputs = np.array([[2.0, -1.0], [1.0, -3.0]], np.float32)
    result = step(inputs, np.array([1, 0], np.int32))
    assert float(result.loss) == pytest.approx(LN2)
    assert int(result.num_hits) == 1  # of equal logits the first class counts
    assert int(result.num_photos) == 2
    # d loss / d kernel = mean over examples of x (p - y), p = 1/2:
    # inputs[0] (1/2, -1/2) / 2 + inputs[1] (-1/2, 1/2) / 2 = [[.25, -.25], [.5, -.5]].
    np.testing.assert_allclose(
        model.layers[-1].kernel, [[-0.01, 0.01], [-0.01, 0.01]], rtol=1e-4
    )
    np.testing.assert_allclose(model.layers[-1].bias, [0, 0], atol=1e-6)


def test_each_step_has_the_rate_of_the_schedule():
    """Under a constant gradient Adam moves by the learning rate in every step."""
    # (1 + cos(pi k / 4)) / 2 for k = 0..3.
    shares = (1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4)
    model = linear(bias=(0.0, 50.0))  # so wrong that the gradient is -1 and 1
    step = train_step.TrainStep(model, setup_of(model, 0.01, 4))
    for share in shares:
        before = model.layers[-1].bias.numpy()
        step(np.zeros((1, 2), np.float32), np.zeros(1, np.int32))
        change = model.layers[-1].bias.numpy() - before
        np.testing.assert_allclose(change[0], 0.01 * share, rtol=1e-4)
        np.testing.assert_allclose(change[1], -0.01 * share, rtol=2e-3)


def test_the_configured_loss_trains_and_the_plain_one_validates():
    loss = train_step.Loss(label_smoothing=0.2, class_weights=(1.0, 3.0))
    job = Job(linear(bias=(LN3, 0.0)), [[0, 0]], [1], rate=0.0, loss=loss)
    (result,) = job.run()
    assert result.loss == pytest.approx(
        3 * (0.9 * math.log(4) + 0.1 * math.log(4 / 3)), rel=1e-5
    )
    assert result.validation_loss == pytest.approx(math.log(4), rel=1e-5)


class TestIterSize:
    def run(self, batch_size, iter_size):
        """Return weights and rates of two epochs of seven examples."""
        model = linear()
        job = Job(
            model,
            *separable(np.random.default_rng(0), 7),
            batch_size=batch_size,
            epochs=2,
            settings=optimization.Settings(optimizer="sgd", iter_size=iter_size),
            schedule=optimization.Settings(policy="exp", gamma=0.5),
        )
        rates = [result.learning_rate for result in job.run()]
        return model.layers[-1].kernel.numpy(), rates

    def test_two_batches_make_one_step_as_one_large_batch(self):
        """The odd batch at the end of an epoch makes a step, too."""
        weights, rates = self.run(2, 2)
        expected, expected_rates = self.run(4, 1)
        np.testing.assert_allclose(weights, expected, rtol=1e-5)
        assert rates == expected_rates == [0.05, 0.0125]

    def test_smaller_batches_without_it_make_more_steps(self):
        assert self.run(2, 1)[1] == [0.1 * 2**-3, 0.1 * 2**-7]


class TestMixedLabels:
    """Labels are float32 [batch, num_classes], the share of each class."""

    def test_a_step_on_mixed_labels_matches_one_computed_by_hand(self):
        """Probabilities are 3/4 and 1/4 for every input."""
        model = linear(bias=(LN3, 0.0))
        step = train_step.TrainStep(model, setup_of(model, 0.0, 10))
        shares = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], np.float32)
        loss, num_hits, _ = step(np.zeros((3, 2), np.float32), shares)
        by_hand = (1.6 * math.log(4 / 3) + 1.4 * math.log(4)) / 3
        assert float(loss) == pytest.approx(by_hand, rel=1e-5)
        assert int(num_hits) == 2  # the largest share counts, the first of equal ones

    @pytest.mark.parametrize("iter_size", [1, 2])
    def test_shares_of_one_class_train_as_labels_do(self, iter_size):
        kernels = []
        inputs, labels = separable(np.random.default_rng(0), 7)
        for variant in (labels, np.eye(2, dtype=np.float32)[labels]):
            model = linear()
            settings = optimization.Settings(optimizer="sgd", iter_size=iter_size)
            step = train_step.TrainStep(
                model, setup_of(model, 0.1, 9, settings=settings)
            )
            for batch in in_batches(inputs, variant, 3):
                step(*batch)
            step.finish()
            kernels.append(model.layers[-1].kernel.numpy())
        assert kernels[0].any()
        np.testing.assert_allclose(*kernels, rtol=1e-5)
