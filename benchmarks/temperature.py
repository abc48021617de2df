"""Compare ways to fit the temperature, on runs of train.py --folds.

    python train.py --ckpt=alexnet --folds=5 --run_dir=runs/folds
    for fold in runs/folds/fold-*; do
        python evaluate.py --run_dir=$fold --split=validation
    done
    python benchmarks/temperature.py runs/folds

The temperature of each fold is fitted on its validation photos. The first table shows
log loss and calibration error on the test photos of all folds. The second shows the
temperatures fitted to labels that are drawn from the probabilities of 30 and 300 test
photos: there 1 is right.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import measure
import numpy as np

from model.evaluation import calibration, stored_logits
from model.evaluation.stored_logits import Examples
from model.loop import metrics

_GRID = np.geomspace(metrics.LEAST_TEMPERATURE, metrics.MOST_TEMPERATURE, 600)
_DRAWS = 200


def minimize(prior: Callable[[np.ndarray], np.ndarray]) -> Callable[..., float]:
    """Return a fit of the lowest mean loss + prior(log T) / number of photos."""

    def fit(logits: np.ndarray, labels: np.ndarray) -> float:
        losses = [metrics.mean_loss(logits / t, labels) for t in _GRID]
        penalized = losses + prior(np.log(_GRID)) / len(labels)
        return float(_GRID[np.argmin(penalized)])

    return fit


WAYS: dict[str, Callable[..., float]] = {
    "none": lambda logits, labels: 1.0,
    "likelihood": minimize(np.zeros_like),
    "normal, deviation 0.15": minimize(lambda log_t: (log_t / 0.15) ** 2 / 2),
    "normal, deviation 0.2": minimize(lambda log_t: (log_t / 0.2) ** 2 / 2),
    "normal, deviation 0.5": minimize(lambda log_t: (log_t / 0.5) ** 2 / 2),
    "Laplace, scale 0.2": minimize(lambda log_t: np.abs(log_t) / 0.2),
    "as in Graft": metrics.fit_temperature,
}


def read_fold(run: Path) -> tuple[Examples, Examples]:
    """Return the logits of a fold for its validation and for its test photos."""
    held_out, tested = (
        stored_logits.read(run / "evaluation" / f"{split}.npz")
        for split in ("validation", "test")
    )
    return held_out, tested


def print_losses(folds: Sequence[tuple[Examples, Examples]]) -> None:
    """Print how well each way calibrates the test photos of all folds."""
    labels = np.concatenate([tested.label for _, tested in folds])
    rows = [["fit", "temperatures", "log loss", "calibration error", "by chance"]]
    for name, fit in WAYS.items():
        fitted = [fit(held_out.logits, held_out.label) for held_out, _ in folds]
        logits = np.concatenate(
            [tested.logits / t for t, (_, tested) in zip(fitted, folds, strict=True)]
        )
        probabilities = np.exp(metrics.log_softmax(logits))
        figures = calibration.figures(probabilities, probabilities, labels)
        errors = (figures["calibration"][key] for key in ("ece", "ece_by_chance"))
        temperatures = " ".join(f"{temperature:.2f}" for temperature in fitted)
        loss = metrics.mean_loss(logits, labels)
        rows.append([name, temperatures, f"{loss:.4f}", *map("{:.4f}".format, errors)])
    measure.print_table(f"{len(labels)} test photos of {len(folds)} folds", rows)


def print_draws(logits: np.ndarray, num_photos: int) -> None:
    """Print the temperatures of photos with labels that the logits predict."""
    random = np.random.default_rng(0)
    chances = np.exp(metrics.log_softmax(logits)).cumsum(axis=1)
    drawn = []
    for _ in range(_DRAWS):
        photos = random.integers(0, len(logits), num_photos)
        labels = (chances[photos] < random.random((num_photos, 1))).sum(axis=1)
        drawn.append((logits[photos], np.minimum(labels, logits.shape[1] - 1)))
    rows = [["fit", "median", "10 % of draws", "90 % of draws"]]
    for name, fit in WAYS.items():
        low, median, high = np.quantile([fit(*draw) for draw in drawn], [0.1, 0.5, 0.9])
        rows.append([name, *(f"{value:.2f}" for value in (median, low, high))])
    title = f"{_DRAWS} draws of {num_photos} photos with calibrated logits"
    measure.print_table(title, rows)


def main() -> None:
    """Print the tables."""
    parser = measure.argument_parser(__doc__, photos=False)
    parser.add_argument(
        "folds", type=Path, metavar="FOLDS", help="folder of the runs of all folds"
    )
    folds = [read_fold(run) for run in sorted(parser.parse_args().folds.glob("fold-*"))]
    print_losses(folds)
    logits = np.concatenate([tested.logits for _, tested in folds])
    for num_photos in (30, 300):
        print_draws(logits, num_photos)


if __name__ == "__main__":
    main()
