"""Measure how well photos of none of the classes are told from flowers.

    python benchmarks/strangers.py FLOWERS STRANGERS... [--networks=,alexnet]

Trains a head on five folds of FLOWERS with each network; an empty name is the default
one. Test photos of each fold stand against the photos of each folder of strangers. The
table has the mean AUROC over the folds and its range; the shares of strangers and of
test photos that reach the threshold; and the AUROC of softmax alone, and of the cosine
to the five nearest training photos.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import measure  # noqa: F401

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import numpy as np

from model.evaluation import strangers
from model.loop import traced_function
from model.loop.inputs import near_copies
from model.networks import batch_norm_folding
from model.predict import classifier, photo_batches, similar_photos
from pipeline.batches import image_batches
from pipeline.images import photo_files

NUM_FOLDS, NUM_NEAREST = 5, 5


def embed(
    step: Callable[[Any], Any], known: classifier.Classifier, images: Iterable[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return features and probabilities of the best class of batches of images."""
    parts = [[np.asarray(part) for part in step(np.float32(x))] for x in images]
    features, logits = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return features, known.probabilities(logits).max(axis=1)


def measure_fold(run_dir: Path, folders: list[str]) -> dict[str, list[float]]:
    """Return the figures of a fold, {folder: [AUROC, found, false alarms, ...]}."""
    known = classifier.load_run(str(run_dir))
    embedder = similar_photos.build_embedder(known.run, known.model)
    step = traced_function.for_any_batch(batch_norm_folding.folded(embedder))
    records = known.run.read_records()  # type: ignore[union-attr]

    def of_split(split: str) -> tuple[np.ndarray, np.ndarray]:
        rows = records.included(split)
        images = image_batches.Images(records, rows, known.spec, batch_size=64)
        return embed(step, known, (batch["image"] for batch in images))

    training = near_copies.unit_vectors(of_split("train")[0])

    def distance(features: np.ndarray) -> np.ndarray:
        vectors = near_copies.unit_vectors(features)
        return -near_copies.nearest(vectors, [training], NUM_NEAREST)[0].mean(axis=1)

    features, sure = of_split("test")
    scores, nearest = known.stranger_scorer.scores(features), distance(features)
    figures = {}
    for folder in folders:
        paths = [p for p in photo_files.find([folder], {}) if not p.endswith(".txt")]
        read = photo_batches.read(paths, known.spec, batch_size=64)
        others, unsure = embed(step, known, (batch.images for batch in read))
        of_others = known.stranger_scorer.scores(others)
        figures[folder] = [
            strangers.auroc(scores, of_others)[0],
            (of_others >= strangers.THRESHOLD).mean(),
            (scores >= strangers.THRESHOLD).mean(),
            strangers.auroc(1 - sure, 1 - unsure)[0],
            strangers.auroc(nearest, distance(others))[0],
        ]
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
            results = [measure_fold(fold, folders) for fold in folds]
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
