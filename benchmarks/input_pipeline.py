"""Measure how fast records become training batches.

    python benchmarks/input_pipeline.py [FOLDER] [--rounds=5]
    python benchmarks/input_pipeline.py [FOLDER] --augment [--rounds=5]
    python benchmarks/input_pipeline.py --large [--photos=200] [--rounds=3]

Times an epoch of image_batches.Training: read a record, decode a random window, resize,
mirror, make batches of 64. The limit is TensorFlow's full decode of the same JPEGs from
memory, without any use of the pixels. The baseline is image_dataset_from_directory with
random crop and flip. All use the same cores.

--augment compares epochs with each kind of augmentation to epochs without.

--large draws photos of 12 megapixels, converts them with the default --resize_min and
with --resize_min=0, and compares the two.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import itertools

import cv2
import keras
import numpy as np
import tensorflow as tf

from model.networks import registry
from pipeline.batches import augmentation_settings, image_batches
from pipeline.convert import conversion, convert_settings
from pipeline.records import manifest, stored_photo
from pipeline.system import command_line

SPEC = registry.NETWORKS["alexnet_owt"].input_spec
BATCH_SIZE = 64
GEOMETRIC = {"rotation": 20.0, "shift": 0.1, "shear": 10.0, "zoom": 0.2}
COLOUR = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3}
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "no augmentation": {},
    "crop_area": {"crop_area": "0.08,1"},
    "rotation, shift, shear, zoom": GEOMETRIC,
    "brightness": {"brightness": 0.3},
    "brightness, contrast, saturation": COLOUR,
    "cutout": {"cutout": 0.3},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "rotation to saturation": {**GEOMETRIC, **COLOUR},
}


def convert(folder: Path, out: Path, resize_min: int = 512) -> manifest.Manifest:
    """Convert a folder and return the manifest of the records."""
    config = convert_settings.Config(
        source=str(folder), out=str(out), resize_min=resize_min
    )
    return conversion.convert(config).manifest


def graft_rate(records: manifest.Manifest, **augmentation: Any) -> Callable[[], float]:
    """Return a function that measures an epoch of Graft's training batches."""
    data = image_batches.Training(
        records,
        SPEC,
        batch_size=BATCH_SIZE,
        seed=0,
        augmentation=augmentation_settings.Augmentation(**augmentation),
    )
    epochs = itertools.count()
    return measure.per_second(
        lambda: sum(len(batch["label"]) for batch in data.epoch(next(epochs)))
    )


def dataset_rate(data: tf.data.Dataset, count: int) -> Callable[[], float]:
    """Return a function that measures one pass over a dataset of `count` images."""

    def read_all() -> int:
        for _ in data:
            pass
        return count

    return measure.per_second(read_all)


def decode_rate(records: manifest.Manifest) -> Callable[[], float]:
    """Return the limit: plain JPEG decoding of the training photos in memory."""
    rows = records.included("train")
    photos = stored_photo.StoredPhotos(records.directory)
    data = tf.data.Dataset.from_tensor_slices([photos.image(row) for row in rows])

    def decode(encoded: Any) -> Any:
        image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
        return image[0, 0]

    data = data.map(decode, num_parallel_calls=command_line.available_cpus())
    return dataset_rate(data.batch(BATCH_SIZE), len(rows))


def keras_rate(folder: Path, count: int) -> Callable[[], float]:
    """Return the baseline: the Keras loader with random crop and flip."""
    data = keras.utils.image_dataset_from_directory(
        str(folder), image_size=(256, 256), batch_size=BATCH_SIZE, verbose=False
    )
    augment = keras.Sequential(
        [keras.layers.RandomCrop(224, 224), keras.layers.RandomFlip("horizontal")]
    )
    data = data.map(lambda x, y: (augment(x, training=True), y)).prefetch(-1)
    return dataset_rate(data, count)


def draw_large_photos(folder: Path, count: int) -> None:
    """Draw photos of 4,000 x 3,000 pixels, as large as a phone's, in two classes."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (30, 40, 3), np.uint8)
        image = cv2.resize(coarse, (4000, 3000), interpolation=cv2.INTER_CUBIC)
        noise = random.integers(0, 12, (3000, 4000, 1), np.uint8)
        target = folder / f"class{number % 2}"
        target.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(
            str(target / f"{number:03d}.jpg"), cv2.add(image, noise.repeat(3, 2))
        )


def make_candidates(
    options: argparse.Namespace, scratch: Path
) -> tuple[dict[str, Callable[[], float]], str, str]:
    """Return the candidates, the name of the one to compare with, and a title."""
    if options.large:
        photos = scratch / "photos"
        draw_large_photos(photos, options.photos)
        full = "--resize_min=0"
        candidates = {
            "--resize_min=512 (default)": graft_rate(
                convert(photos, scratch / "small")
            ),
            full: graft_rate(convert(photos, scratch / "full", resize_min=0)),
        }
        return candidates, full, "Training batches of 12-megapixel photos"
    records = convert(options.folder, scratch / "records")
    title = f"Training batches of {len(records.included('train')):,} photos"
    if options.augment:
        candidates = {
            name: graft_rate(records, **augmentation)
            for name, augmentation in AUGMENTATIONS.items()
        }
        return candidates, "no augmentation", f"{title}, augmented"
    limit = "limit: plain JPEG decode"
    candidates = {
        "graft: image_batches.Training": graft_rate(records),
        limit: decode_rate(records),
        "baseline: image_dataset_from_directory": keras_rate(
            options.folder, len(records.included())
        ),
    }
    return candidates, limit, title


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, rounds=5)
    parser.add_argument("--augment", action="store_true", help="compare augmentations")
    parser.add_argument("--large", action="store_true", help="compare --resize_min")
    parser.add_argument(
        "--photos", type=int, default=200, help="photos to draw for --large (200)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        candidates, reference, title = make_candidates(options, Path(scratch))
        rates = measure.run_rounds(candidates, options.rounds)
    measure.print_table(title, measure.rate_rows(rates, reference))


if __name__ == "__main__":
    main()
