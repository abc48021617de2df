"""Measure how well the first BatchNorm shows the preprocessing of a network.

    python benchmarks/preprocessing.py FOLDER [OTHER_FOLDER ...]

Trains small networks in plain Keras on photos of 32 pixels, each with the five usual
preprocessings. The table shows what Graft finds with 60 photos of each folder that no
network was trained on (right, open or wrong), and the distances of the best and of the
next preprocessing. Networks of the last kind have no BatchNorm.
"""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import keras
import measure
import numpy as np
from keras import layers

from model.networks.keras_models import from_keras_config
from model.weights import usual_preprocessing

SIZE_PX = 32
_TRAINED, _EPOCHS = 500, 8
_FIRST: dict[str, Sequence[Any]] = {
    "convolution": [lambda: layers.Conv2D(24, 3, strides=2, use_bias=False)],
    "ReLU between": [lambda: layers.Conv2D(24, 5, strides=2, activation="relu")],
    "separable": [lambda: layers.SeparableConv2D(24, 3, strides=2)],
    "on pixels": [],
    "7 x 7": [layers.ZeroPadding2D, lambda: layers.Conv2D(32, 7, strides=2)],
    "two layers": [
        lambda: layers.Conv2D(24, 3, activation="relu"),
        layers.MaxPooling2D,
        lambda: layers.Conv2D(24, 3),
    ],
    "no BatchNorm": [lambda: layers.Conv2D(24, 3, strides=2, activation="relu")],
}


def read_photos(folder: Path, parts: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return every so many photos of each class of a folder, and their labels."""
    images, labels = [], []
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    for label, path in enumerate(classes):
        for file in sorted(path.iterdir())[parts]:
            image = cv2.imread(str(file))
            if image is not None:
                size = (SIZE_PX, SIZE_PX)
                small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                images.append(small[..., ::-1])
                labels.append(label)
    return np.array(images), np.array(labels)


def train(kind: str, flags: str, images: np.ndarray, labels: np.ndarray) -> Any:
    """Return a Keras model that was trained with a usual preprocessing."""
    keras.utils.set_random_seed(1)
    norm = [] if kind == "no BatchNorm" else [layers.BatchNormalization(momentum=0.95)]
    model = keras.Sequential(
        [
            keras.Input((SIZE_PX, SIZE_PX, 3)),
            *(make() for make in _FIRST[kind]),
            *norm,
            layers.ReLU(),
            layers.Conv2D(48, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(int(labels.max()) + 1, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    pixels = usual_preprocessing.normalised(images, flags)
    model.fit(pixels, labels, batch_size=32, epochs=_EPOCHS, verbose=0)
    return model


def decide(model: Any, flags: str, images: np.ndarray) -> tuple[str, str]:
    """Return "right", "open" or "wrong", and the two distances as text."""
    network = from_keras_config.rebuild(model.to_json(), "a trained network")
    values = {
        layer.name: {v.name: v.numpy() for v in layer.weights} for layer in model.layers
    }
    spec, is_bgr = usual_preprocessing.by_first_batchnorm(
        network, network.input_spec, values, lambda *_: images
    )
    expected, expects_bgr = usual_preprocessing.USUAL[flags]
    verdict = "open"
    if not spec.is_assumed:
        pixels = [(s.scale, s.mean, s.std) for s in (spec, expected)]
        is_right = pixels[0] == pixels[1] and is_bgr == expects_bgr
        verdict = "right" if is_right else "wrong"
    _, _, figures = spec.source.partition("distance ")
    numbers = [part.split()[0] for part in figures.split(", ") if part]
    return verdict, ", ".join(numbers)


def main() -> None:
    """Train and print one line per network."""
    parser = measure.argument_parser(__doc__)
    parser.add_argument("others", nargs="*", type=Path, metavar="OTHER_FOLDER")
    options = parser.parse_args()
    images, labels = read_photos(options.folder, slice(0, None, 2))
    chosen = np.random.default_rng(0).permutation(len(images))[:_TRAINED]
    tests = {}
    for folder in (options.folder, *options.others):
        held_out, _ = read_photos(folder, slice(1, None, 2))
        tests[folder.name] = np.random.default_rng(0).permutation(held_out)[:60]
    counts = {name: collections.Counter[str]() for name in tests}
    rows = []
    for kind in _FIRST:
        for flags in usual_preprocessing.USUAL:
            model = train(kind, flags, images[chosen], labels[chosen])
            cells = []
            for name, photos in tests.items():
                verdict, distances = decide(model, flags, photos)
                counts[name][verdict] += kind != "no BatchNorm"
                cells.append(f"{verdict} {distances}")
            rows.append([kind, flags, *cells])
    header = ["first layers", "trained with", *tests]
    measure.print_table("verdict, distance of the best, of the next", [header, *rows])
    for name, verdicts in counts.items():
        print(f"{name}: {dict(verdicts)}")


if __name__ == "__main__":
    main()
