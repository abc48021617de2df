"""How fast the frozen network sees all photos of the records.

    python benchmarks/frozen_features.py [FOLDER] [--rounds=5] [--precision=auto]

Ours: features.extract, records to cached features. The limit: 1 / (1/network +
1/pipeline), both measured alone on the same cores: on a CPU they share them. The peer:
the same network in float32 under Keras' predict, fed by image_dataset_from_directory.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure

sys.path.insert(0, str(measure.ROOT))

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
from pipeline.convert import conversion, convert_settings

NETWORK = registry.NETWORKS["alexnet_owt"]
LAST = "pool5"


def build(dtype: str) -> Any:
    """The convolutions with their pretrained weights."""
    image, outputs = NETWORK.step_outputs(
        NETWORK.input_spec, last=LAST, dtype=dtype, repeat_per_column=True
    )
    trunk = keras.Model(image, outputs[LAST])
    weights = named_weights.resolve("alexnet_conv")
    model_variables.assign(trunk, restore.restore_checkpoint(weights.checkpoint).values)
    return trunk


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="demo/flowers", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="auto", choices=device.PRECISIONS)
    options = parser.parse_args()
    setup = device.ComputeSetup(
        precision=device.choose_precision(options.precision), cache_dir=Path()
    )
    precision = setup.precision
    with tempfile.TemporaryDirectory() as scratch:
        config = convert_settings.Config(
            source=str(options.folder), out=f"{scratch}/records"
        )
        found = conversion.convert(config).manifest
        rows = found.included()
        count = len(rows)
        images = image_batches.Images(
            found, rows, NETWORK.input_spec, batch_size=feature_cache.BATCH_SIZE
        )
        views = crop_and_resize.central_views(images.sizes, NETWORK.input_spec)
        trunk = build(setup.frozen_policy)
        call = tf.function(lambda x: trunk(x, training=False), autograph=False)
        batch = next(iter(images.run(np.arange(feature_cache.BATCH_SIZE), views)))[
            "image"
        ]
        cache = Path(scratch) / "cache"

        def network_alone() -> int:
            calls = -(-count // feature_cache.BATCH_SIZE)
            for _ in range(calls):
                call(batch).numpy()
            return calls * feature_cache.BATCH_SIZE

        def pipeline_alone() -> int:
            return sum(len(b["label"]) for b in images.run(np.arange(count), views))

        def extract() -> int:
            shutil.rmtree(cache, ignore_errors=True)
            identity = {"precision": precision}
            feature_cache.extract(
                trunk, images, {0: np.arange(count)}, cache_dir=cache, identity=identity
            )
            return count

        loader = keras.utils.image_dataset_from_directory(
            str(options.folder),
            image_size=(224, 224),
            batch_size=feature_cache.BATCH_SIZE,
            shuffle=False,
            verbose=False,
        )
        plain = build("float32")

        def peer() -> int:
            return len(plain.predict(loader.map(lambda x, _: x), verbose=0))

        found_rates = measure.rounds(
            {
                f"network alone, {precision}": measure.per_second(network_alone),
                "pipeline alone": measure.per_second(pipeline_alone),
                "graft: features.extract": measure.per_second(extract),
                "peer: predict, float32": measure.per_second(peer),
            },
            options.rounds,
        )
    limit = "limit: 1/(1/network + 1/pipeline)"
    network_rates, pipeline_rates = list(found_rates.values())[:2]
    found_rates[limit] = [
        1 / (1 / one + 1 / other)
        for one, other in zip(network_rates, pipeline_rates, strict=True)
    ]
    measure.table(
        f"Features of {count:,} photos", measure.rate_rows(found_rates, limit)
    )


if __name__ == "__main__":
    main()
