"""A network of one dense layer, and examples that it learns in milliseconds."""

import math

import keras
import numpy as np

from model.loop import optimization, train_step, training_loop
from model.weights import model_variables


def linear(num_inputs=2, bias=(0.0, 0.0)):
    """A network of one dense layer; its kernel starts at zero."""
    inputs = keras.Input((num_inputs,))
    layer = keras.layers.Dense(
        len(bias),
        kernel_initializer="zeros",
        bias_initializer=lambda *_, **__: bias,
        name="dense",
    )
    return keras.Model(inputs, layer(inputs))


def in_batches(inputs, labels, batch_size):
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        yield inputs[part], labels[part]


def separable(random, count=40):
    """Points left and right of a line, of class 0 and 1."""
    labels = random.integers(0, 2, count).astype(np.int32)
    inputs = random.normal(size=(count, 2)).astype(np.float32)
    inputs[:, 0] = np.abs(inputs[:, 0]) * (2 * labels - 1)
    return inputs, labels


def setup_of(model, rate, total_steps, epochs=1, **changes):
    """Adam and a half cosine, unless `settings` or other changes say otherwise."""
    settings = changes.pop("settings", optimization.Settings())
    return train_step.LearningSetup(
        update=train_step.ParameterUpdate(model_variables.trainable(model), settings),
        base_rate=rate,
        **{"schedule": settings, "epochs": epochs, "total_steps": total_steps}
        | changes,
    )


class Job:
    """A training on the same few examples in every epoch; also their source."""

    def __init__(
        self, model, inputs, labels, *, batch_size=10, epochs=1, rate=0.1, **changes
    ):
        self.model = model
        self.inputs = np.asarray(inputs, np.float32)
        self.labels = np.asarray(labels, np.int32)
        self.batch_size = batch_size
        steps = epochs * math.ceil(len(self.labels) / batch_size)
        self.setup = setup_of(model, rate, steps, epochs, **changes)
        trained = {v.path: v for v in model.trainable_variables}
        self.best = training_loop.BestWeights(variables=trained)
        self.sizes = []  # of the batches so far

    def training(self, epoch, start=0):
        done = start * self.batch_size
        return in_batches(self.inputs[done:], self.labels[done:], self.batch_size)

    def validation(self):
        return in_batches(self.inputs, self.labels, 7)

    def run(self):
        """Yield the result of each epoch."""
        training = training_loop.StepwiseTraining(
            self.model, self.setup, self, best=self.best
        )
        while not training.done:
            self.sizes.extend(training.train_epoch())
            yield training.validate()
