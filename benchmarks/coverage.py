"""Count how often the 95 % interval of the accuracy covers the true accuracy.

    python benchmarks/coverage.py [--draws=2000]

Photos are drawn in groups of the given sizes. The share of a group that is classified
correctly is drawn from a beta distribution whose mean is the true accuracy; its width
sets the correlation of two photos of a group: 0 for independent photos, near 1 for
copies. The interval gets the outcomes and the groups, as in evaluate.py. Peer: Wilson's
interval of all photos, as if each were independent.
"""

import measure
import numpy as np

from model.loop import metrics

GROUPS = {
    "50 single photos": [1] * 50,
    "112 single photos": [1] * 112,
    "700 single photos": [1] * 700,
    "100 groups of 3": [3] * 100,
    "30 groups of 10": [10] * 30,
    "15 groups of 20": [20] * 15,
    "60 single photos, 20 pairs": [1] * 60 + [2] * 20,
    "200 single photos, 10 groups of 5": [1] * 200 + [5] * 10,
    "100 single photos, 1 group of 50": [1] * 100 + [50],
}
ACCURACIES = (0.6, 0.8, 0.9, 0.96)
CORRELATIONS = (0.0, 0.1, 0.3, 0.6, 0.95)


def draw_correct(
    random: np.random.Generator, sizes: np.ndarray, accuracy: float, correlation: float
) -> np.ndarray:
    """Draw which photos are classified correctly, bool [num_photos]."""
    shares = np.full(len(sizes), accuracy)
    if correlation:
        strength = (1 - correlation) / correlation
        shares = random.beta(accuracy * strength, (1 - accuracy) * strength, len(sizes))
    return random.random(sizes.sum()) < np.repeat(shares, sizes)


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, photos=False)
    parser.add_argument("--draws", type=int, default=2000, help="draws a cell (2000)")
    draws = parser.parse_args().draws
    random = np.random.default_rng(0)
    rows = [["groups", "correlation", *(f"accuracy {a:g}" for a in ACCURACIES)]]
    for name, group_sizes in GROUPS.items():
        sizes = np.array(group_sizes)
        groups = np.repeat(np.arange(len(sizes)), sizes)
        for correlation in CORRELATIONS if sizes.max() > 1 else (0.0,):
            cells = []
            for accuracy in ACCURACIES:
                covered = np.zeros(2)
                for _ in range(draws):
                    correct = draw_correct(random, sizes, accuracy, correlation)
                    intervals = (
                        metrics.accuracy_interval(correct, groups),
                        metrics.wilson_interval(correct.sum(), len(correct)),
                    )
                    covered += [low <= accuracy <= high for low, high in intervals]
                cells.append("{:.1%} ({:.1%})".format(*covered / draws))
            rows.append([name, f"{correlation:g}", *cells])
    measure.print_table("Covered, and in brackets without groups", rows)


if __name__ == "__main__":
    main()
