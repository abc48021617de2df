"""Measure how many photos per second the frozen layers of networks compute.

    python benchmarks/network_speeds.py [--networks=alexnet_owt,efficientnet_lite0]
        [--rounds=3] [--precision=float32]

Each network has random weights, batch normalisation folded, batches of 32 at the size
of its weights. Photos are in memory: neither decoding nor resizing counts.
"""

import measure

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import frozen_features
import numpy as np
import tensorflow as tf

from model.networks import fast_graphs, registry

BATCH_SIZE, NUM_BATCHES = 32, 3


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, photos=False, rounds=3)
    parser.add_argument("--networks", default="", help="names with commas (all)")
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    rows = [["network", "pixels", "photos/s"]]
    for name in options.networks.split(",") if options.networks else registry.NETWORKS:
        network = registry.by_name(name)
        spec = network.input_spec
        trunk = frozen_features.build_trunk(network, options.precision)
        compute = tf.function(fast_graphs.folded(trunk), autograph=False)
        shape = (BATCH_SIZE, spec.size_px, spec.size_px, 3)
        batch = tf.constant(np.random.default_rng(0).normal(size=shape), "float32")

        def work() -> int:
            for _ in range(NUM_BATCHES):
                compute(batch).numpy()  # noqa: B023 - called at once
            return NUM_BATCHES * BATCH_SIZE

        rates = measure.run_rounds({name: measure.per_second(work)}, options.rounds)
        rows.append([name, str(spec.size_px), f"{np.median(rates[name]):,.0f}"])
    measure.print_table(f"Frozen layers, {options.precision}", rows)


if __name__ == "__main__":
    main()
