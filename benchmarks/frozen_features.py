"""Measure how fast a frozen network computes the features of all photos.

    python benchmarks/frozen_features.py [FOLDER] [--rounds=5] [--precision=auto]

Compares feature_cache.extract, which turns records into cached features, with a limit
and a baseline. The limit is 1 / (1 / network + 1 / pipeline), each measured alone on
the same cores: on a CPU, the two share the cores. The baseline is the same network in
float32 with Keras' predict on image_dataset_from_directory.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import measure

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import keras
import numpy as np
import tensorflow as tf

from model.loop import device
from model.loop.inputs import feature_cache
from model.networks import registry
from model.weights import model_variables, named_weights, restore
from pipeline.batches import crop_and_resize, image_batches
from pipeline.records import manifest

NETWORK = registry.NETWORKS["alexnet_owt"]
SPEC = NETWORK.input_spec
LAST_LAYER = "pool5"
BATCH_SIZE = feature_cache.BATCH_SIZE


def build_trunk(dtype: str) -> Any:
    """Return the convolutional layers with their pretrained weights."""
    part = NETWORK.build_part(SPEC, [LAST_LAYER], dtype=dtype, repeat_per_column=True)
    trunk = keras.Model(part.input, part.output[LAST_LAYER])
    weights = named_weights.resolve("alexnet_conv")
    model_variables.assign(trunk, restore.restore_checkpoint(weights.checkpoint).values)
    return trunk


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, rounds=5)
    parser.add_argument("--precision", default="auto", choices=device.PRECISIONS)
    options = parser.parse_args()
    setup = device.ComputeSetup(
        precision=device.choose_precision(options.precision), cache_dir=Path()
    )
    with tempfile.TemporaryDirectory() as scratch:
        records, cache_dir = Path(scratch) / "records", Path(scratch) / "cache"
        measure.convert(options.folder, str(records))
        dataset = manifest.read(records)
        rows = dataset.included()
        order = np.arange(len(rows))
        images = image_batches.Images(dataset, rows, SPEC, batch_size=BATCH_SIZE)
        views = crop_and_resize.central_views(images.sizes, SPEC)
        trunk = build_trunk(setup.frozen_policy)
        call = tf.function(lambda x: trunk(x, training=False), autograph=False)
        batch = next(iter(images.run(np.arange(BATCH_SIZE), views)))["image"]

        def network_alone() -> int:
            num_batches = -(-len(rows) // BATCH_SIZE)
            for _ in range(num_batches):
                call(batch).numpy()
            return num_batches * BATCH_SIZE

        def pipeline_alone() -> int:
            return sum(len(batch["label"]) for batch in images.run(order, views))

        def extract() -> int:
            shutil.rmtree(cache_dir, ignore_errors=True)
            identity = {"precision": setup.precision}
            feature_cache.extract(
                trunk, images, {0: order}, cache_dir=cache_dir, identity=identity
            )
            return len(rows)

        keras_predict = measure.keras_predict(
            build_trunk("float32"), options.folder, SPEC.size_px, BATCH_SIZE
        )
        rates = measure.run_rounds(
            {
                name: measure.per_second(work)
                for name, work in (
                    (f"network alone, {setup.precision}", network_alone),
                    ("pipeline alone", pipeline_alone),
                    ("graft: feature_cache.extract", extract),
                    ("baseline: Keras' predict, float32", keras_predict),
                )
            },
            options.rounds,
        )
    limit = "limit: 1/(1/network + 1/pipeline)"
    network_rates, pipeline_rates = list(rates.values())[:2]
    rates[limit] = [
        1 / (1 / network + 1 / pipeline)
        for network, pipeline in zip(network_rates, pipeline_rates, strict=True)
    ]
    title = f"Features of {len(rows):,} photos"
    measure.print_table(title, measure.rate_rows(rates, limit))


if __name__ == "__main__":
    main()
