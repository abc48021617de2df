"""How accurate the three commands are with default flags, in five folds.

    python benchmarks/accuracy.py [FOLDER] [--folds=5] [--seeds=0,1,2]
        [--ckpts=alexnet,efficientnet_lite0]

Each photo is tested once, by a model whose training never saw its fold. The yardstick
is scikit-learn's logistic regression on the same folds, fitted to all photos outside
the fold (ours sets a tenth of them aside for validation), on what the same frozen
network says of the central window: the output of conv5, and that of pool5.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import measure

sys.path.insert(0, str(measure.ROOT))

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import json

import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from model.loop import metrics
from model.networks import registry
from model.weights import model_variables, named_weights, restore
from pipeline.batches import crop_and_resize, image_batches
from pipeline.records import manifest

NETWORK = registry.NETWORKS["alexnet_owt"]


def features_of(found: manifest.Manifest, layer: str) -> np.ndarray:
    """float32 [num_photos, num_features], of the central window."""
    base = NETWORK.build(NETWORK.input_spec, last=layer)
    weights = named_weights.resolve("alexnet_conv")
    model_variables.assign(base, restore.restore_checkpoint(weights.checkpoint).values)
    images = image_batches.Images(
        found, found.included(), NETWORK.input_spec, batch_size=64
    )
    views = crop_and_resize.central_views(images.sizes, NETWORK.input_spec)
    order = np.arange(len(images.rows))
    call = tf.function(lambda x: base(x, training=False), autograph=False)
    batches = [call(batch["image"]).numpy() for batch in images.run(order, views)]
    return np.concatenate(batches).reshape(len(order), -1)


def regression(features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> int:
    """Hits of logistic regression, each photo judged by the model of its fold."""
    hits = 0
    for fold in np.unique(folds):
        train = folds != fold
        model = LogisticRegression(max_iter=1000).fit(features[train], labels[train])
        hits += int((model.predict(features[~train]) == labels[~train]).sum())
    return hits


def ours(records: Path, runs: Path, seed: int, folds: int, ckpt: str) -> int:
    """Hits of the commands over all folds."""
    hits = 0
    for fold in range(folds):
        words = ("pipeline.split", str(records), f"--seed={seed}")
        measure.command("-m", *words, f"--folds={folds}", f"--fold={fold}")
        run = runs / f"{ckpt}-seed{seed}-fold{fold}"
        where = (f"--data={records}", f"--run_dir={run}")
        measure.command("train.py", f"--ckpt={ckpt}", *where)
        measure.command("evaluate.py", f"--run_dir={run}")
        figures = json.loads((run / "evaluation" / "test.json").read_text())
        hits += round(figures["accuracy"] * figures["num_examples"])
    return hits


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="demo/flowers", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--ckpts", default="alexnet", help="of ours, with commas")
    options = parser.parse_args()
    rows = [["", "seed of the folds", "accuracy", "95 % interval"]]
    with tempfile.TemporaryDirectory() as scratch:
        records = Path(scratch) / "records"
        convert = ("pipeline.convert", str(options.folder), f"--out={records}")
        measure.command("-m", *convert)
        found = manifest.read(records)
        features = {name: features_of(found, name) for name in ("conv5", "pool5")}
        for seed in map(int, options.seeds.split(",")):
            hits = {
                f"graft, {ckpt}": ours(
                    records, Path(scratch) / "runs", seed, options.folds, ckpt
                )
                for ckpt in options.ckpts.split(",")
            }
            taken = manifest.read(records).included()
            labels = np.array([found.labels[row.class_name] for row in taken])
            folds = np.array([row.fold for row in taken])
            for name, values in features.items():
                hits[f"logistic regression on {name}"] = regression(
                    values, labels, folds
                )
            for name, count in hits.items():
                low, high = metrics.wilson_interval(count, len(taken))
                interval = f"{low:.3f} to {high:.3f}"
                rows.append([name, str(seed), f"{count / len(taken):.4f}", interval])
    measure.table(f"Accuracy in {options.folds} folds, {len(taken):,} photos", rows)


if __name__ == "__main__":
    main()
