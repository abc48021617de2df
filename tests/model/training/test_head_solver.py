"""A final layer is solved for each L2 penalty, against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.loop import train_step, training_loop
from model.networks import head
from model.training import head_solver, trunk_and_tail
from tests.support import small_training

NUM_CLASSES = 3


class Source:
    """Features of a few photos, in place of cached ones."""

    def __init__(self, features, labels):
        self.features = np.float32(features)
        self.labels = np.int32(labels)
        self.num_training = len(labels)

    def all_views(self, size):
        return small_training.in_batches(self.features, self.labels, size)

    def validation(self):
        return small_training.in_batches(self.features[::2], self.labels[::2], 7)


@pytest.fixture
def photos():
    """Overlapping classes; features of different sizes, one constant."""
    random = np.random.default_rng(0)
    labels = random.integers(0, NUM_CLASSES, 60)
    features = random.normal(size=(60, 5)) + np.eye(NUM_CLASSES, 5)[labels]
    features *= (3, 0.5, 1, 1, 0)
    return Source(features + 7, labels)


def solver(source, scaling="none", **loss):
    inputs = keras.Input(source.features.shape[1:])
    (layer,) = head.make_layers(NUM_CLASSES, dropout=0.0, seed=0)
    model = keras.Model(inputs, layer(head.scale_features(inputs, scaling)))
    best = training_loop.BestWeights(variables=trunk_and_tail.weights(model))
    return head_solver.HeadSolver(model, train_step.Loss(**loss), source, best=best)


def solve(training, most=99):
    results = []
    while not training.done and len(results) < most:
        assert sum(training.train_epoch()) == training.source.num_training
        results.append(training.validate())
    return results


@pytest.mark.parametrize(
    "loss",
    [{}, {"label_smoothing": 0.1}, {"class_weights": (0.5, 2.0, 1.0)}],
    ids=str,
)
def test_the_solution_has_no_slope(photos, loss, monkeypatch):
    """The gradient of mean loss and penalty is zero, for features of variance 1."""
    monkeypatch.setattr(head_solver, "CHUNK", 7)
    training = solver(photos, **loss)
    (result,) = solve(training, most=1)
    assert (result.epoch, result.learning_rate) == (1, None)
    assert result.l2 == head_solver.PENALTIES[0]
    kernel, bias = (v.numpy() for v in training.model.get_layer("logits").weights)
    deviation = np.sqrt(photos.features.var(0).mean())
    scaled = (photos.features - photos.features.mean(0)) / deviation
    logits = photos.features.astype(np.float64) @ kernel + bias
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    smoothing = loss.get("label_smoothing", 0)
    targets = (1 - smoothing) * np.eye(NUM_CLASSES)[photos.labels]
    targets += smoothing / NUM_CLASSES
    weights = np.array(loss.get("class_weights", (1, 1, 1)))[photos.labels]
    of_logits = weights[:, None] * (shares - targets) / len(targets)
    slope = scaled.T @ of_logits + result.l2 * kernel * deviation
    np.testing.assert_allclose(slope, 0, atol=1e-4)
    np.testing.assert_allclose(of_logits.sum(0), 0, atol=1e-4)
    losses_of_photos = -(targets * np.log(shares)).sum(1) * weights
    assert result.loss == pytest.approx(losses_of_photos.mean(), rel=1e-3)
    assert result.accuracy == (logits.argmax(1) == photos.labels).mean()


def test_weaker_penalties_end_when_they_stop_to_help(photos, monkeypatch):
    monkeypatch.setattr(head_solver, "_LEAST_GAIN", 0.0)
    validation = photos.features[::2], photos.labels[::2].copy()
    photos.labels[::2] = np.roll(photos.labels[::2], 1)  # half of the labels are noise
    photos.validation = lambda: [validation]
    training = solver(photos)
    results = solve(training)
    losses_ = [result.validation_loss for result in results]
    assert len(results) < len(head_solver.PENALTIES)
    assert np.argmin(losses_) == len(results) - 3  # patience 2, after the best
    assert training.best.epoch == len(results) - 2
    assert training.best.validation_loss == min(losses_)
    np.testing.assert_array_equal(
        training.best.values["logits/kernel"] * 0 + 1, np.ones((5, NUM_CLASSES))
    )


def test_separable_photos_end_the_search_when_the_loss_hardly_falls(photos):
    """Otherwise each weaker penalty lowers their loss, to the last one."""
    photos.features = 4 * np.eye(NUM_CLASSES, 5)[photos.labels]
    losses_ = [result.validation_loss for result in solve(solver(photos))]
    gains = -np.diff(losses_)
    least = 0.002 * np.log(NUM_CLASSES)
    assert all(gains[:-1] >= least)
    assert 0 < gains[-1] < least
    assert len(losses_) < len(head_solver.PENALTIES)


def test_stopped_anywhere_it_ends_with_the_same_bytes(photos):
    undisturbed = solver(photos)
    expected = solve(undisturbed)
    first = solver(photos)
    solve(first, most=2)
    list(first.train_epoch())  # solved, but not validated
    second = solver(photos)
    second.model.set_weights(first.model.get_weights())
    second.best.epoch = first.best.epoch
    second.best.validation_loss = first.best.validation_loss
    second.restore(first.state())
    results = solve(second)
    assert [r.validation_loss for r in results] == [
        r.validation_loss for r in expected[2:]
    ]
    for a, b in zip(
        second.model.get_weights(), undisturbed.model.get_weights(), strict=True
    ):
        assert a.tobytes() == b.tobytes()


def test_a_solved_head_leaves_the_memory_of_its_features(photos):
    solved = solver(photos)
    assert solved._linear.chunks
    solve(solved)
    assert not solved._linear.chunks


def test_roots_of_zeros_have_finite_gradients(photos):
    photos.features = np.maximum(photos.features - 8, 0)
    training = solver(photos, scaling="roots")
    assert all(np.isfinite(result.loss) for result in solve(training))
    inputs = keras.Variable(np.zeros((2, 5), np.float32))
    with tf.GradientTape() as tape:
        outputs = training.model(inputs.value)
    assert np.isfinite(tape.gradient(outputs, inputs.value)).all()


def test_infinite_features_are_named(photos):
    photos.features[0, 0] = np.inf
    with pytest.raises(training_loop.NonFiniteLoss, match="features that are infinite"):
        solver(photos)
