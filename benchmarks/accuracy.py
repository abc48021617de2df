"""Measure the accuracy of Graft's default settings by cross-validation.

    python benchmarks/accuracy.py [FOLDER] [--folds=5] [--seeds=0,1,2]
        [--ckpts=alexnet,efficientnet_lite0]

Each photo is tested once, by a model that was trained on the other folds. The baseline
is scikit-learn's logistic regression on the same folds, with the same features as
Graft's new layer: of the central window and, in training, of its mirror image. Two more
rows use all numbers of conv5 or pool5 in the central window, which Graft's new layer
does not see. The regression is fitted to all photos of the other folds, whereas Graft
sets a tenth of them aside for validation.
"""

import tempfile
from pathlib import Path

import measure

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from model.loop import metrics
from model.networks import head
from model.training import settings, stages, starting_point, trunk_and_tail
from model.weights import model_variables
from pipeline.batches import crop_and_resize, image_batches
from pipeline.records import manifest


def compute_features(records: manifest.Manifest, config: settings.Config) -> np.ndarray:
    """Return what a new layer sees, float32 [num_views, num_photos, num_features].

    The first view is the central window, a second one its mirror image.
    """
    start = starting_point.choose(config, records)
    (stage,) = stages.plan_stages(
        start,
        config,
        num_classes=len(records.class_names),
        num_training=len(records.included("train")),
    )
    plan = stage.plan
    trunk = trunk_and_tail.build_trunk(plan, "float32")
    model_variables.assign(trunk, start.restored.values)
    images = image_batches.Images(
        records, records.included(), start.spec, batch_size=64
    )
    order = np.arange(len(images.rows))
    call = tf.function(
        lambda x: head.scale_features(trunk(x, training=False), plan.scaling),
        autograph=False,
    )
    features = []
    for mirrored in (False, True)[: config.num_views]:
        views = crop_and_resize.central_views(
            images.sizes, start.spec, mirrored=mirrored
        )
        batches = [call(batch["image"]).numpy() for batch in images.run(order, views)]
        features.append(np.concatenate(batches).reshape(len(order), -1))
    return np.stack(features)


def logistic_regression_hits(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray
) -> int:
    """Return the number of photos that logistic regression classifies correctly.

    It is fitted to all views of the features and tested on the first.
    """
    hits = 0
    for fold in np.unique(folds):
        train = folds != fold
        model = LogisticRegression(max_iter=1000).fit(
            np.concatenate(features[:, train]), np.tile(labels[train], len(features))
        )
        hits += int((model.predict(features[0, ~train]) == labels[~train]).sum())
    return hits


def graft_hits(records: str, runs: Path, seed: int, folds: int, ckpt: str) -> int:
    """Return the number of photos that Graft classifies correctly."""
    hits = 0
    for fold in range(folds):
        split = ("pipeline.split", records, f"--seed={seed}")
        measure.run_python("-m", *split, f"--folds={folds}", f"--fold={fold}")
        run = f"{runs}/{ckpt}-seed{seed}-fold{fold}"
        figures = measure.train_and_evaluate(records, run, f"--ckpt={ckpt}")
        hits += round(figures["accuracy"] * figures["num_examples"])
    return hits


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument(
        "--seeds", default="0,1,2", help="seeds of the split into folds"
    )
    parser.add_argument(
        "--ckpts", default="alexnet", help="comma-separated weights for Graft"
    )
    options = parser.parse_args()
    configs = {
        **{
            f"the features of graft, {ckpt}": settings.Config(ckpt=ckpt)
            for ckpt in options.ckpts.split(",")
        },
        **{
            f"all of {layer}": settings.Config(
                ckpt="alexnet", features=layer, pooling="none", views=1
            )
            for layer in ("conv5", "pool5")
        },
    }
    rows = [["", "seed of the folds", "accuracy", "95 % interval"]]
    with tempfile.TemporaryDirectory() as scratch:
        records, runs = f"{scratch}/records", Path(scratch) / "runs"
        measure.convert(options.folder, records)
        dataset = manifest.read(Path(records))
        features = {
            name: compute_features(dataset, config) for name, config in configs.items()
        }
        for seed in map(int, options.seeds.split(",")):
            hits = {
                f"graft, {ckpt}": graft_hits(records, runs, seed, options.folds, ckpt)
                for ckpt in options.ckpts.split(",")
            }
            photos = manifest.read(Path(records)).included()
            labels = np.array([dataset.labels[photo.class_name] for photo in photos])
            folds = np.array([photo.fold for photo in photos])
            for name, values in features.items():
                hits[f"logistic regression on {name}"] = logistic_regression_hits(
                    values, labels, folds
                )
            for name, count in hits.items():
                low, high = metrics.wilson_interval(count, len(photos))
                accuracy, interval = count / len(photos), f"{low:.3f} to {high:.3f}"
                rows.append([name, str(seed), f"{accuracy:.4f}", interval])
    measure.print_table(
        f"Accuracy in {options.folds} folds, {len(photos):,} photos", rows
    )


if __name__ == "__main__":
    main()
