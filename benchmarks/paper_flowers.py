"""Is the drawn data set a task? Simple features must fail where the network does not.

    python benchmarks/paper_flowers.py [--seed=0]

Logistic regressions on the mean colour, and on histograms of oriented gradients (HOG,
Dalal and Triggs 2005: 64 x 128 window, 8 x 8 cells, 2 x 2 blocks, 9 bins), are fitted
to the train and validation photos; the network is what the three commands give with
default flags. All are judged on the same test photos.
"""

import argparse
import json
import tempfile
from pathlib import Path

import cv2
import measure
import numpy as np
from skimage import feature
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HOG = {
    "orientations": 9,
    "pixels_per_cell": (8, 8),
    "cells_per_block": (2, 2),
    "block_norm": "L2-Hys",
}


def mean_colour(image: np.ndarray) -> np.ndarray:
    """float64 [3], 0..255."""
    return image.mean(axis=(0, 1))


def hog(image: np.ndarray) -> np.ndarray:
    """float64 [3,780] of the photo squashed to 128 x 64."""
    return feature.hog(cv2.resize(image, (64, 128)), channel_axis=-1, **HOG)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = [["", "test accuracy"]]
    with tempfile.TemporaryDirectory() as scratch:
        source, records, run = (f"{scratch}/{n}" for n in ("photos", "records", "run"))
        draw = ("pipeline.download", "paper-flowers", source)
        seconds = measure.command("-m", *draw, f"--seed={options.seed}")
        measure.command("-m", "pipeline.convert", source, f"--out={records}")
        measure.command("train.py", f"--data={records}", f"--run_dir={run}")
        measure.command("evaluate.py", f"--run_dir={run}")
        figures = json.loads((Path(run) / "evaluation" / "test.json").read_text())
        lines = (Path(records) / "manifest.jsonl").read_text().splitlines()
        photos = [json.loads(line) for line in lines]
        labels = np.array([photo["class_name"] for photo in photos])
        test = np.array([photo["split"] == "test" for photo in photos])
        images = [cv2.imread(f"{source}/{photo['path']}") for photo in photos]
        for name, function in (("mean colour", mean_colour), ("HOG", hog)):
            values = np.stack([function(image) for image in images])
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
            model.fit(values[~test], labels[~test])
            score = model.score(values[test], labels[test])
            rows.append([f"logistic regression on {name}", f"{score:.3f}"])
        rows.append(["graft, default flags", f"{figures['accuracy']:.3f}"])
    measure.table(
        f"{len(photos)} drawn flowers ({seconds:.0f} s), {test.sum()} for testing", rows
    )


if __name__ == "__main__":
    main()
