"""Measure how fast a frozen network computes the features of all photos.

    python benchmarks/frozen_features.py [FOLDER] [--network=alexnet_owt] [--rounds=5]
        [--precision=auto] [--photos=0]

Compares feature_cache.extract, which turns records into cached features, with a limit
and a baseline. The limit is 1 / (1 / network + 1 / pipeline), each measured alone on
the same cores: on a CPU, the two share the cores. The baseline is the same network in
float32 with Keras' predict on image_dataset_from_directory.

For a network with batch normalisation, ONNX Runtime is measured too, where it is
installed: alone on tensors that are ready, and in feature_cache.extract. Such networks
have random weights here, which take as long. The limit is then ONNX Runtime's.
"""

import functools
import shutil
import tempfile
from collections.abc import Callable
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
from model.networks import architecture, registry
from model.networks.inference import batch_norm_folding, onnx_runtime
from model.weights import model_variables, named_weights, restore
from pipeline.batches import crop_and_resize, image_batches
from pipeline.records import manifest

BATCH_SIZE = feature_cache.BATCH_SIZE


def build_trunk(network: architecture.Network, dtype: str) -> Any:
    """Return the layers below the head; AlexNet's with their pretrained weights."""
    last = network.features[-1]
    spec = network.input_spec
    part = network.build_part(spec, [last], dtype=dtype, repeat_per_column=True)
    trunk = keras.Model(part.input, part.output[last])
    if network.name == "alexnet_owt":
        weights = named_weights.resolve("alexnet_conv")
        restored = restore.restore_checkpoint(weights.checkpoint)
        model_variables.assign(trunk, restored.values)
    return trunk


def engines_of(trunk: Any, precision: str, batch: Any) -> dict[str, Callable[[], Any]]:
    """Return {engine: function that computes a batch that is ready}.

    ONNX Runtime has its default options, the last place, and may be missing.
    """
    compute = tf.function(batch_norm_folding.folded(trunk), autograph=False)
    engines = {"tensorflow": lambda: compute(batch).numpy()}
    engine = onnx_runtime.engine_for(trunk, "onnxruntime", precision)
    if engine != "tensorflow":
        import onnxruntime

        session = onnxruntime.InferenceSession(
            onnx_runtime.to_onnx(trunk), providers=["CPUExecutionProvider"]
        )
        pixels = {"image": batch.numpy()}
        engines[engine] = lambda: session.run(None, pixels)
    return engines


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, rounds=5)
    parser.add_argument("--precision", default="auto", choices=device.PRECISIONS)
    parser.add_argument("--network", default="alexnet_owt", choices=registry.NETWORKS)
    parser.add_argument("--photos", type=int, default=0, help="only so many (0: all)")
    options = parser.parse_args()
    network = registry.by_name(options.network)
    spec = network.input_spec
    setup = device.ComputeSetup(
        precision=device.choose_precision(options.precision), cache_dir=Path()
    )
    with tempfile.TemporaryDirectory() as scratch:
        records, cache_dir = Path(scratch) / "records", Path(scratch) / "cache"
        measure.convert(options.folder, str(records))
        dataset = manifest.read(records)
        rows = dataset.included()[: options.photos or None]
        order = np.arange(len(rows))
        images = image_batches.Images(dataset, rows, spec, batch_size=BATCH_SIZE)
        views = crop_and_resize.central_views(images.sizes, spec)
        trunk = build_trunk(network, setup.frozen_policy)
        batch = next(iter(images.run(np.arange(BATCH_SIZE), views)))["image"]

        def alone(compute: Callable[[], Any]) -> int:
            num_batches = -(-len(rows) // BATCH_SIZE)
            for _ in range(num_batches):
                compute()
            return num_batches * BATCH_SIZE

        def pipeline_alone() -> int:
            return sum(len(batch["label"]) for batch in images.run(order, views))

        def extract(engine: str) -> int:
            shutil.rmtree(cache_dir, ignore_errors=True)
            identity = {"precision": setup.precision, "engine": engine}
            feature_cache.extract(
                trunk, images, {0: order}, cache_dir=cache_dir, identity=identity
            )
            return len(rows)

        keras_predict = measure.keras_predict(
            build_trunk(network, "float32"), options.folder, spec.size_px, BATCH_SIZE
        )
        engines = engines_of(trunk, setup.precision, batch)
        rates = measure.run_rounds(
            {
                name: measure.per_second(work)
                for name, work in (
                    ("pipeline alone", pipeline_alone),
                    *(
                        (f"network alone, {name}", functools.partial(alone, compute))
                        for name, compute in engines.items()
                    ),
                    *(
                        (f"graft: extract, {name}", functools.partial(extract, name))
                        for name in engines
                    ),
                    ("baseline: Keras' predict, float32", keras_predict),
                )
            },
            options.rounds,
        )
    limit = "limit: 1/(1/network + 1/pipeline)"
    pipeline_rates = rates["pipeline alone"]
    network_rates = rates[f"network alone, {[*engines][-1]}"]
    rates[limit] = [
        1 / (1 / network + 1 / pipeline)
        for network, pipeline in zip(network_rates, pipeline_rates, strict=True)
    ]
    title = f"Features of {len(rows):,} photos, {network.name}, {setup.precision}"
    measure.print_table(title, measure.rate_rows(rates, limit))


if __name__ == "__main__":
    main()
