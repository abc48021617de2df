"""Check that the drawn flowers are hard for simple features and easy for a network.

    python benchmarks/paper_flowers.py [--seed=0]

The baselines are logistic regressions on the mean colour and on histograms of oriented
gradients (HOG, Dalal and Triggs 2005: 64 x 128 window, 8 x 8 cells, 2 x 2 blocks,
9 bins), fitted to the photos for training and validation. They are compared with a
Graft run with default flags on the same test photos.
"""

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
    """Return float64 [3], 0 to 255."""
    return image.mean(axis=(0, 1))


def hog(image: np.ndarray) -> np.ndarray:
    """Return float64 [3780] of the photo squashed to 64 x 128."""
    return feature.hog(cv2.resize(image, (64, 128)), channel_axis=-1, **HOG)


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, photos=False)
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawing")
    options = parser.parse_args()
    rows = [["", "test accuracy"]]
    with tempfile.TemporaryDirectory() as scratch:
        source, records, run = (f"{scratch}/{n}" for n in ("photos", "records", "run"))
        draw = ("pipeline.download", "paper-flowers", source)
        seconds = measure.time_python("-m", *draw, f"--seed={options.seed}")
        measure.convert(Path(source), records)
        figures = measure.train_and_evaluate(records, run)
        lines = (Path(records) / "manifest.jsonl").read_text().splitlines()
        photos = [json.loads(line) for line in lines]
        labels = np.array([photo["class_name"] for photo in photos])
        is_test = np.array([photo["split"] == "test" for photo in photos])
        images = [cv2.imread(f"{source}/{photo['path']}") for photo in photos]
        for name, compute in (("mean colour", mean_colour), ("HOG", hog)):
            features = np.stack([compute(image) for image in images])
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
            model.fit(features[~is_test], labels[~is_test])
            accuracy = model.score(features[is_test], labels[is_test])
            rows.append([f"baseline: logistic regression on {name}", f"{accuracy:.3f}"])
        rows.append(["graft: default flags", f"{figures['accuracy']:.3f}"])
    title = (
        f"{len(photos)} flowers, drawn in {seconds:.0f} s; {is_test.sum()} for testing"
    )
    measure.print_table(title, rows)


if __name__ == "__main__":
    main()
