"""Measure how fast a frozen network computes the features of all photos.

    python benchmarks/frozen_features.py [FOLDER] [--network=alexnet_owt] [--rounds=5]
        [--precision=auto] [--photos=0]

Compares feature_cache.extract, which turns records into cached features, with a limit,
a baseline and a peer. The limit is 1 / (1 / network + 1 / pipeline), each measured
alone on the same cores: on a CPU, the two share the cores. The baseline is the same
network in float32 with Keras' predict on image_dataset_from_directory. The peer is ONNX
Runtime with the network in float32, alone on a batch that is ready: it has neither to
decode nor to store. It is measured for networks with batch normalisation, where the
packages of `.[export]` are installed.

"auto" chooses the precision as a training does; float32 is measured, too. Networks
other than alexnet_owt have random weights here, which take as long.
"""

import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import measure

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import keras
import numpy as np
import tensorflow as tf

from model.export import converters
from model.loop import device
from model.loop.inputs import feature_cache
from model.networks import architecture, fast_graphs, registry
from model.weights import model_variables, named_weights, restore
from pipeline.batches import crop_and_resize, image_batches
from pipeline.records import manifest

BATCH_SIZE = feature_cache.BATCH_SIZE
PEER = "peer: ONNX Runtime alone, float32"


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


def in_tensorflow(trunk: Any, batch: Any) -> Callable[[], Any]:
    """Return a function that computes a batch as feature_cache does."""
    compute = tf.function(fast_graphs.folded(trunk), autograph=False)
    return lambda: compute(batch).numpy()


def can_convert(trunk: Any) -> bool:
    """Return whether a network has batch normalisation and ONNX's packages are here.

    The converter takes a minute for the large layers of networks without it.
    """
    packages = map(importlib.util.find_spec, ("onnx", "onnxruntime", "tf2onnx"))
    normalisation = keras.layers.BatchNormalization
    return all(packages) and any(isinstance(x, normalisation) for x in trunk.layers)


def in_onnx_runtime(trunk: Any, batch: Any) -> Callable[[], Any]:
    """Return a function that computes a batch with the default options."""
    import onnxruntime

    signature = keras.InputSpec(batch.dtype, (None, *batch.shape[1:]), name="image")
    with tempfile.TemporaryDirectory() as scratch:
        path = f"{scratch}/trunk.onnx"
        with converters.silence():
            trunk.export(path, format="onnx", input_signature=[signature])
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = {session.get_inputs()[0].name: batch.numpy()}
    return lambda: session.run(None, pixels)


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, rounds=5)
    parser.add_argument("--precision", default="auto", choices=device.PRECISIONS)
    parser.add_argument("--network", default="alexnet_owt", choices=registry.NETWORKS)
    parser.add_argument("--photos", type=int, default=0, help="only so many (0: all)")
    options = parser.parse_args()
    network = registry.by_name(options.network)
    spec = network.input_spec
    setup = device.choose_for_network(
        device.ComputeSetup(
            precision=device.choose_precision(options.precision), cache_dir=Path()
        ),
        *(options.precision, network, spec, network.features[-1]),
    )
    with tempfile.TemporaryDirectory() as scratch:
        records, cache_dir = Path(scratch) / "records", Path(scratch) / "cache"
        measure.convert(options.folder, str(records))
        dataset = manifest.read(records)
        rows = dataset.included()[: options.photos or None]
        order = np.arange(len(rows))
        images = image_batches.Images(dataset, rows, spec, batch_size=BATCH_SIZE)
        views = crop_and_resize.central_views(images.sizes, spec)
        trunk, exact = (
            build_trunk(network, policy) for policy in (setup.frozen_policy, "float32")
        )
        trunks = {setup.precision: trunk, "float32": exact}
        batch = next(iter(images.run(np.arange(BATCH_SIZE), views)))["image"]

        def alone(compute: Callable[[], Any]) -> int:
            num_batches = -(-len(rows) // BATCH_SIZE)
            for _ in range(num_batches):
                compute()
            return num_batches * BATCH_SIZE

        def pipeline_alone() -> int:
            return sum(len(batch["label"]) for batch in images.run(order, views))

        def extract(precision: str) -> int:
            shutil.rmtree(cache_dir, ignore_errors=True)
            feature_cache.extract(
                *(trunks[precision], images, {0: order}),
                cache_dir=cache_dir,
                identity={"precision": precision},
            )
            return len(rows)

        work: dict[str, Callable[[], int]] = {"pipeline alone": pipeline_alone}
        for name, trunk in trunks.items():
            work[f"network alone, {name}"] = partial(alone, in_tensorflow(trunk, batch))
        if can_convert(exact):
            work[PEER] = partial(alone, in_onnx_runtime(exact, batch))
        for name in trunks:
            work[f"graft: extract, {name}"] = partial(extract, name)
        work["baseline: Keras' predict, float32"] = measure.keras_predict(
            exact, options.folder, spec.size_px, BATCH_SIZE
        )
        rates = measure.run_rounds(
            {name: measure.per_second(function) for name, function in work.items()},
            options.rounds,
        )
    title = f"Features of {len(rows):,} photos, {network.name}, {setup.precision}"
    print_rates(title, rates, setup.precision)


def print_rates(title: str, rates: dict[str, list[float]], precision: str) -> None:
    """Print the table, with the limit, and ratios to the peer."""
    limit = "limit: 1/(1/network + 1/pipeline)"
    pairs = zip(
        rates[f"network alone, {precision}"], rates["pipeline alone"], strict=True
    )
    rates[limit] = [1 / (1 / network + 1 / pipeline) for network, pipeline in pairs]
    measure.print_table(title, measure.rate_rows(rates, limit))
    for name in rates:
        if name.startswith("graft") and PEER in rates:
            ratio = measure.median_ratio(rates[name], rates[PEER])
            print(f"{name} / {PEER}: {ratio:.2f}")


if __name__ == "__main__":
    main()
