"""Measure how well the stranger score separates other photos from flowers.

    python benchmarks/strangers.py FLOWERS STRANGERS... [--networks=,alexnet]

Trains a head on five folds of FLOWERS with each network; an empty name is the default
one. Test photos of each fold are compared with each folder of strangers. The
table has the mean AUROC over the folds and its range; the shares of strangers and of
test photos that reach the threshold; and the AUROC of softmax alone, and of the cosine
to the five nearest training photos.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import measure  # noqa: F401

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import keras
import numpy as np

from model.evaluation import strangers
from model.loop.inputs import feature_cache, near_copies
from model.networks import head
from model.predict import classifier, photo_batches
from model.runs import finished_run
from pipeline.batches import image_batches
from pipeline.images import photo_files

NUM_FOLDS, NUM_NEAREST = 5, 5


def features_of(run_dir: Path, folders: list[str]) -> dict[str, np.ndarray]:
    """Return the input of the head for all photos of the run ("") and of folders."""
    known = classifier.load_run(str(run_dir))
    run = cast(finished_run.FinishedRun, known.run)
    step = feature_cache.as_stored(
        keras.Model(known.model.input, head.input_tensor(known.model)), np.float32
    )
    records = run.read_records()
    images = image_batches.Images(
        records, records.included(), known.spec, batch_size=64
    )
    batches: dict[str, Any] = {"": (batch["image"] for batch in images)}
    for folder in folders:
        paths = [p for p in photo_files.find([folder], {}) if not p.endswith(".txt")]
        read = photo_batches.read(paths, known.spec, batch_size=64)
        batches[folder] = (batch.images for batch in read)
    return {n: np.concatenate(list(map(step, x))) for n, x in batches.items()}


def measure_fold(
    run_dir: Path, features: dict[str, np.ndarray]
) -> dict[str, list[float]]:
    """Return the figures of a fold, {folder: [AUROC, found, false alarms, ...]}."""
    known = classifier.load_run(str(run_dir))
    rows = cast(finished_run.FinishedRun, known.run).read_records().included()
    splits = np.array([row.split for row in rows])
    scorer = cast(strangers.Scorer, known.stranger_scorer)
    tail = keras.Model(head.input_tensor(known.model), known.model.output)
    vectors = {name: near_copies.unit_vectors(x) for name, x in features.items()}
    training = vectors[""][splits == "train"]

    def all_scores(name: str, chosen: Any) -> tuple[np.ndarray, ...]:
        nearest, _ = near_copies.nearest(vectors[name][chosen], [training], NUM_NEAREST)
        photos = features[name][chosen]
        sure = known.probabilities(tail(photos)).max(axis=1)
        return scorer.scores(photos), 1 - sure, -nearest.mean(axis=1)

    inside = all_scores("", splits == "test")
    figures = {}
    for name in features.keys() - {""}:
        outside = all_scores(name, slice(None))
        areas = [
            strangers.auroc(*pair)[0] for pair in zip(inside, outside, strict=True)
        ]
        shares = [(x[0] >= strangers.THRESHOLD).mean() for x in (outside, inside)]
        figures[name] = [areas[0], *shares, *areas[1:]]
    return figures


def run(*command: str) -> None:
    """Run a Python command; its log stays on the terminal."""
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Print one row for each network and folder of strangers."""
    flowers, *folders = [a for a in sys.argv[1:] if not a.startswith("--")]
    networks = [a.split("=")[1] for a in sys.argv if a.startswith("--networks=")]
    print(
        "network, strangers | AUROC (range) | found | false alarms | softmax | nearest"
    )
    with tempfile.TemporaryDirectory() as scratch:
        records = f"{scratch}/records"
        run("-m", "pipeline.convert", flowers, f"--out={records}")
        for network in (networks or [""])[0].split(","):
            runs = f"{scratch}/runs/{network or 'default'}"
            flags = [f"--ckpt={network}"] if network else []
            flags += [f"--folds={NUM_FOLDS}", f"--run_dir={runs}", f"--data={records}"]
            run("train.py", *flags)
            folds = sorted(Path(runs).glob("fold-*"))
            features = features_of(folds[0], folders)
            results = [measure_fold(fold, features) for fold in folds]
            for folder in folders:
                rows = np.array([result[folder] for result in results])
                low, high, mean = rows[:, 0].min(), rows[:, 0].max(), rows.mean(axis=0)
                print(
                    f"{network or 'default'}, {folder} | {mean[0]:.4f} "
                    f"({low:.4f} to {high:.4f}) | "
                    + " | ".join(f"{value:.4f}" for value in mean[1:]),
                    flush=True,
                )


if __name__ == "__main__":
    main()
