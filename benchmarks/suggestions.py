"""Measure whether suggested photos raise accuracy more than random ones.

    python benchmarks/suggestions.py [FOLDER] [--seeds=20] [--start=20] [--count=100]

For each seed, --start photos of each class have labels, 400 others are for the test,
and the rest have none. A head is solved as in a training with default flags. Then
--count of the photos without a label get theirs: those that `--suggest` chooses, or
random ones; and the head is solved again, three times, with other validation photos (a
tenth of the photos with labels, by class) and other random ones.
"""

import tempfile
from collections.abc import Iterator

import measure

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import keras
import numpy as np
import scipy.stats

from model.loop import metrics, train_step, training_loop
from model.loop.inputs import near_copies
from model.networks import head
from model.predict import classifier, similar_photos
from model.predict.unlabelled import suggestions
from model.training import head_solver

NUM_TEST, NUM_SOLVED = 400, 3


class Source:
    """Features of photos with a label, as a training caches them."""

    batch_size = 64

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Take the first tenth of each class for validation, at least one photo.

        `features` are float32 [num_photos, num_features].
        """
        is_validation = np.zeros(len(labels), np.bool_)
        for label in np.unique(labels):
            places = np.flatnonzero(labels == label)
            is_validation[places[: max(1, round(len(places) / 10))]] = True
        self._train = features[~is_validation], labels[~is_validation]
        self._validation = features[is_validation], labels[is_validation]
        self.num_training = int((~is_validation).sum())

    def all_views(self, _: int) -> Iterator[training_loop.Batch]:
        """Yield the training photos."""
        yield self._train

    def validation(self) -> Iterator[training_loop.Batch]:
        """Yield the validation photos."""
        yield self._validation


def solve(features: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return calibrated probabilities of all photos after a training on some."""
    inputs = keras.Input(features.shape[1:])
    layer = keras.layers.Dense(int(labels.max()) + 1, name=head.FINAL_LAYER)
    model = keras.Model(inputs, layer(inputs))
    variables = {variable.name: variable for variable in layer.variables}
    best = training_loop.BestWeights(variables=variables)
    source = Source(features[chosen], labels[chosen])
    training = head_solver.HeadSolver(model, train_step.Loss(), source, best=best)
    while not training.done:
        list(training.train_epoch())
        training.validate()
    _, validation_labels = next(source.validation())
    temperature = metrics.fit_temperature(best.validation_logits, validation_labels)
    logits = features @ best.values["kernel"] + best.values["bias"]
    return np.exp(metrics.log_softmax(logits.astype(np.float64) / temperature))


def measure_seed(
    seed: int, features: np.ndarray, labels: np.ndarray, start: int, count: int
) -> dict[str, float]:
    """Return the accuracy on the test photos with each choice of photos."""
    order = np.random.default_rng(seed).permutation(len(labels))
    test, rest = np.split(order, [NUM_TEST])
    known = np.concatenate(
        [rest[labels[rest] == label][:start] for label in np.unique(labels)]
    )
    pool = np.setdiff1d(rest, known)

    def accuracy(probabilities: np.ndarray) -> float:
        return float((probabilities[test].argmax(1) == labels[test]).mean())

    def accuracy_with(added: np.ndarray, number: int) -> float:
        random = np.random.default_rng((seed, number))
        chosen = random.permutation(np.concatenate([known, added]))
        return accuracy(solve(features, labels, chosen))

    before = solve(features, labels, known)
    second, first = np.sort(before[pool], axis=1)[:, -2:].T
    vectors = near_copies.unit_vectors(features[pool])
    suggested = suggestions.choose(1 - (first - second), vectors, count)
    results = {"none": [accuracy(before)], "random": [], "suggested": [], "all": []}
    for number in range(NUM_SOLVED):
        random = np.random.default_rng((seed, number, 1))
        draw = random.choice(pool, count, replace=False)
        results["random"].append(accuracy_with(draw, number))
        results["suggested"].append(accuracy_with(pool[suggested], number))
        results["all"].append(accuracy_with(pool, number))
    return {name: float(np.mean(values)) for name, values in results.items()}


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--start", type=int, default=20)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--ckpt", default="efficientnet_lite0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        records, run_dir = f"{scratch}/records", f"{scratch}/run"
        measure.convert(options.folder, records)
        measure.run_python(
            *("train.py", f"--data={records}", f"--run_dir={run_dir}"),
            f"--ckpt={options.ckpt}",
        )
        trained = classifier.load_run(run_dir)
        index = similar_photos.build_index(trained.run, trained.model)
        rows = index.records.included()
        central = np.zeros(len(rows), np.int64)
        features = index.features.gather(np.arange(len(rows)), central).numpy()
    labels = np.array([index.records.labels[row.class_name] for row in rows], np.int32)
    results = [
        measure_seed(seed, features, labels, options.start, options.count)
        for seed in range(options.seeds)
    ]
    table = [["photos that get a label", "accuracy", "minus random, 95 % interval"]]
    for name in results[0]:
        values = np.array([result[name] for result in results])
        differences = values - [result["random"] for result in results]
        error = scipy.stats.sem(differences)
        half = scipy.stats.t.ppf(0.975, len(results) - 1) * error
        interval = f"{differences.mean():+.4f} +- {half:.4f}"
        table.append([name, f"{values.mean():.4f}", interval])
    measure.print_table(
        f"{options.count} of {len(labels):,} photos, {options.seeds} seeds", table
    )


if __name__ == "__main__":
    main()
