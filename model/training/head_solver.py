"""Solve a linear final layer on cached features, once for each of several L2 penalties.

Its cross-entropy plus an L2 penalty on its kernel has one minimum, which L-BFGS finds
without a learning rate. Features are centred and divided by one number, so that a
penalty means the same for every network; both are folded into the layer's kernel and
bias. Dividing each feature by its own deviation was worse: on EfficientNet-Lite2's
features of 1,127 flowers, in five folds, 90.9 instead of 91.6 % were right.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf

from model.loop import distributed, train_step, training_loop
from model.loop.inputs import training_data
from model.networks import head
from pipeline.system import platform_support

# Factors of half the kernel's squared norm, for scaled features; the strongest first.
PENALTIES = tuple(10 ** (-n / 2) for n in range(1, 13))
_PATIENCE = 2  # penalties in a row without a lower validation loss end the search
# So does one that lowers it by less than this share of a random guess's loss, as in
# glmnet: where planes separate the classes, ever weaker penalties lower it by ever
# less. In 40 trainings on flowers and bees, no later penalty would have been better.
_LEAST_GAIN = 0.002
_MAX_ITERATIONS = 500
_LEAST_DEVIATION = 1e-7
USUAL_ITERATIONS = 25  # for one penalty
CHUNK = 8192  # views of photos in one call of TensorFlow


class LinearLayer:
    """A linear layer on the features of photos, which are scaled for it.

    Attributes:
        chunks: Scaled features and labels of some photos each.
        solution: Kernel, then bias, for scaled features: float64 [num_features + 1,
            num_classes]. The next search starts there.
        weights: Weight of each photo in the mean loss, float32 [num_photos].
    """

    def __init__(
        self, chunks: Iterable[tuple[Any, Any]], loss: train_step.Loss, num_classes: int
    ) -> None:
        """Scale the features; chunks have those of some photos, and their labels."""
        self.chunks = list(chunks)  # no second copy: it is most of the memory
        self.weights = np.ones(sum(len(labels) for _, labels in self.chunks), "f4")
        total = sum(np.asarray(x).sum(0, np.float64) for x, _ in self.chunks)
        if not np.isfinite(total).all():
            raise training_loop.NonFiniteLoss(
                "The frozen layers give features that are infinite or NaN. Try "
                "--precision=float32, or other weights."
            )
        self._loss = loss
        self._mean = total / len(self.weights)
        squares = sum(
            np.square(np.asarray(x) - self._mean).sum() for x, _ in self.chunks
        )
        deviation = math.sqrt(squares / len(self.weights) / len(self._mean))
        self._scale = 1 / max(deviation, _LEAST_DEVIATION)
        mean, scale = np.float32(self._mean), np.float32(self._scale)
        for number, (features, labels) in enumerate(self.chunks):
            self.chunks[number] = ((features - mean) * scale, labels)
        self.solution = np.zeros((len(self._mean) + 1, num_classes))
        self._sums = tf.function(self._sums_of_chunk, autograph=False)

    def solve(self, penalty: float, tolerance: float = 1e-7) -> int:
        """Find the solution for an L2 penalty; return the number of iterations."""
        penalties = np.full_like(self.solution, penalty)
        penalties[-1] = 0  # of the bias

        def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
            solution = values.reshape(penalties.shape)
            loss, gradient, _ = self.evaluate(solution)
            loss += 0.5 * float((penalties * solution**2).sum())
            return loss, (gradient + penalties * solution).ravel()

        result = scipy.optimize.minimize(
            objective,
            self.solution.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _MAX_ITERATIONS, "ftol": tolerance, "gtol": 1e-5},
        )
        self.solution = result.x.reshape(penalties.shape)
        return int(result.nit)

    def evaluate(self, solution: np.ndarray) -> tuple[float, np.ndarray, float]:
        """Return the mean loss of a solution, its gradient and the share of hits."""
        kernel, bias = map(tf.constant, np.split(np.float32(solution), [-1]))
        ends = np.cumsum([len(labels) for _, labels in self.chunks])
        parts = np.split(self.weights, ends[:-1])
        sums = [
            self._sums(*chunk, tf.constant(part), kernel, bias[0])
            for chunk, part in zip(self.chunks, parts, strict=True)
        ]
        loss, of_kernel, of_bias, hits = (
            np.sum([np.float64(tensor) for tensor in tensors], axis=0)
            / self.weights.sum()
            for tensors in zip(*sums, strict=True)
        )
        return float(loss), np.vstack([of_kernel, of_bias]), float(hits)

    def _sums_of_chunk(
        self, features: Any, labels: Any, weights: Any, kernel: Any, bias: Any
    ) -> tuple[Any, ...]:
        """Return the sums of losses, of the gradients of both, and of hits."""
        with tf.GradientTape() as tape:
            tape.watch((kernel, bias))
            logits = features @ kernel + bias
            losses_of_photos = self._loss.per_example(logits, labels) * weights
        gradients = tape.gradient(losses_of_photos, (kernel, bias))
        hits = weights * tf.cast(
            tf.equal(tf.argmax(logits, 1, tf.int32), labels), tf.float32
        )
        loss = tf.reduce_sum(tf.cast(losses_of_photos, tf.float64))
        return loss, *gradients, tf.reduce_sum(tf.cast(hits, tf.float64))

    def logits(self) -> np.ndarray:
        """Return the logits of all photos, float32 [num_photos, num_classes]."""
        kernel, bias = np.split(np.float32(self.solution), [-1])
        return np.concatenate([np.asarray(x @ kernel) + bias for x, _ in self.chunks])

    def free(self) -> None:
        """Give up the features, which take most of the memory."""
        self.chunks = []
        platform_support.return_freed_memory()

    def unscaled(self) -> tuple[np.ndarray, np.ndarray]:
        """Return kernel and bias for features that are not scaled."""
        kernel = self.solution[:-1] * self._scale
        return kernel, self.solution[-1] - self._mean @ kernel


def head_inputs(
    model: Any, batches: Iterable[training_loop.Batch]
) -> Iterator[tuple[Any, Any]]:
    """Yield what the head of a model sees of batches of the model's inputs."""
    names = {layer.name for layer in model.layers}
    first = head.HIDDEN_LAYER if head.HIDDEN_LAYER in names else head.FINAL_LAYER
    below = keras.Model(model.input, model.get_layer(first).input)
    return ((below(inputs, training=False), labels) for inputs, labels in batches)


class HeadSolver(training_loop.TrainingLoop):
    """Solve the final layer, the only one with weights, for one penalty after another.

    Each penalty counts as an epoch. While one is solved and not yet validated,
    `photos_in_epoch` is the number of training photos, otherwise 0.
    """

    source: training_data.CachedFeatures

    def __init__(
        self,
        model: Any,
        loss: train_step.Loss,
        source: training_data.CachedFeatures,
        *,
        process_group: distributed.ProcessGroup = distributed.SINGLE_PROCESS,
        **options: Any,
    ) -> None:
        """Scale the features; `options` are those of TrainingLoop."""
        super().__init__(model, source, **options)
        self._process_group = process_group
        self._layer = model.get_layer(head.FINAL_LAYER)
        # Of the last penalty: mean training loss, share of hits, iterations, seconds.
        self._solved = np.zeros(4)
        self._gain = math.inf  # its decrease of the validation loss
        chunks = head_inputs(model, source.all_views(CHUNK))
        self._linear = LinearLayer(chunks, loss, self._layer.units)

    @property
    def done(self) -> bool:
        """Whether all penalties are solved, or weaker ones hardly help."""
        has_converged = self._gain < _LEAST_GAIN * math.log(self._layer.units)
        has_risen = self.epochs_since_best >= _PATIENCE
        return self.epoch >= len(PENALTIES) or has_risen or has_converged

    @property
    def steps(self) -> int:
        """Number of penalties that are solved."""
        return self.epoch + bool(self.photos_in_epoch)

    def train_epoch(self) -> Iterator[int]:
        """Solve for the next penalty, and yield the number of training photos."""
        if not self.photos_in_epoch:  # else a resumed training has solved it
            started_s = time.perf_counter()
            iterations = self._linear.solve(PENALTIES[self.epoch])
            solution = self._process_group.of_chief(self._linear.solution)
            self._linear.solution = solution
            kernel, bias = self._linear.unscaled()
            self._layer.kernel.assign(kernel)
            self._layer.bias.assign(bias)
            loss, _, hits = self._linear.evaluate(solution)
            seconds = time.perf_counter() - started_s
            self._solved = np.array([loss, hits, iterations, seconds])
            self.photos_in_epoch = self.source.num_training
        yield self.photos_in_epoch

    def validate(self) -> training_loop.EpochResult:
        """Validate the solution, and keep the weights if they are the best."""
        loss, accuracy, iterations, seconds = self._solved.tolist()
        figures = {"loss": loss, "accuracy": accuracy, "l2": PENALTIES[self.epoch]}
        before = self.best.validation_loss
        result = self.finish_epoch(seconds, iterations=int(iterations), **figures)
        self._gain = before - self.best.validation_loss or math.inf
        if self.done:
            self._linear.free()
        return result

    def state(self) -> dict[str, np.ndarray]:
        """Return all that a resumed training needs besides the weights."""
        counts = np.array([self.epoch, self.photos_in_epoch], np.int64)
        results = {"solution": self._linear.solution, "solved": self._solved}
        return {"counts": counts, **results, "gain": np.array(self._gain)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a result of `state`; KeyError or ValueError for others."""
        self.epoch, self.photos_in_epoch = map(int, state["counts"])
        self._linear.solution = state["solution"].reshape(self._linear.solution.shape)
        self._solved = state["solved"].reshape(4)
        self._gain = float(state.get("gain", math.inf))  # older snapshots have none
