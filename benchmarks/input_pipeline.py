"""How fast records become training batches.

    python benchmarks/input_pipeline.py [FOLDER] [--rounds=5]
    python benchmarks/input_pipeline.py [FOLDER] --augment [--rounds=5]
    python benchmarks/input_pipeline.py --large [--photos=200] [--rounds=3]

Ours: an epoch of dataset.Training (read by offset, decode a random window, resize,
mirror, batches of 64). The limit: TensorFlow decoding the same JPEGs in full, from
memory, and forgetting them. The peer: image_dataset_from_directory with random crop and
flip. All use the same cores.

--augment compares our epochs with the random changes on, against none.

--large draws photos of 12 megapixels, converts them with the default --resize_min and
with --resize_min=0, and compares the two.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure

sys.path.insert(0, str(measure.ROOT))

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import cv2
import keras
import numpy as np
import tensorflow as tf

from model.networks import registry
from pipeline.batches import augmentation_settings, dataset
from pipeline.convert import conversion, convert_settings
from pipeline.records import manifest, stored_photo
from pipeline.system import command_line

SPEC = registry.NETWORKS["alexnet_owt"].input_spec
BATCH_SIZE = 64
MOVED = {"rotation": 20.0, "shift": 0.1, "shear": 10.0, "zoom": 0.2}
RECOLOURED = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3}
AUGMENTED: dict[str, dict[str, Any]] = {
    "none": {},
    "crop_area": {"crop_area": "0.08,1"},
    "rotation, shift, shear, zoom": MOVED,
    "brightness": {"brightness": 0.3},
    "brightness, contrast, saturation": RECOLOURED,
    "cutout": {"cutout": 0.3},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "rotation to saturation": {**MOVED, **RECOLOURED},
}


def records_of(folder: Path, out: Path, resize_min: int = 512) -> manifest.Manifest:
    """Converts a folder."""
    config = convert_settings.Config(
        source=str(folder), out=str(out), resize_min=resize_min
    )
    return conversion.convert(config).manifest


def training(found: manifest.Manifest, **settings: Any) -> Callable[[], float]:
    """Images per second of our epochs, with that augmentation."""
    data = dataset.Training(
        found,
        SPEC,
        batch_size=BATCH_SIZE,
        seed=0,
        augmentation=augmentation_settings.Augmentation(**settings),
    )
    epochs = iter(range(10**6))

    def run() -> float:
        start, count = time.perf_counter(), 0
        for batch in data.epoch(next(epochs)):
            count += len(batch["label"])
        return count / (time.perf_counter() - start)

    return run


def passes(data: Any, count: int) -> Callable[[], float]:
    """Images per second of passes over a tf.data.Dataset of `count` images."""

    def run() -> float:
        start = time.perf_counter()
        for _ in data:
            pass
        return count / (time.perf_counter() - start)

    return run


def plain_decode(found: manifest.Manifest) -> Callable[[], float]:
    """The limit."""
    rows = found.included("train")
    photos = stored_photo.StoredPhotos(found.directory)
    encoded = [photos.image(row) for row in rows]
    data = tf.data.Dataset.from_tensor_slices(encoded)

    def decode(one: Any) -> Any:
        image = tf.io.decode_jpeg(one, channels=3, dct_method="INTEGER_ACCURATE")
        return image[0, 0]

    data = data.map(decode, num_parallel_calls=command_line.available_cpus())
    return passes(data.batch(BATCH_SIZE), len(rows))


def keras_loader(folder: Path, count: int) -> Callable[[], float]:
    """The peer."""
    data = keras.utils.image_dataset_from_directory(
        str(folder), image_size=(256, 256), batch_size=BATCH_SIZE, verbose=False
    )
    augment = keras.Sequential(
        [keras.layers.RandomCrop(224, 224), keras.layers.RandomFlip("horizontal")]
    )
    data = data.map(lambda x, y: (augment(x, training=True), y)).prefetch(-1)
    return passes(data, count)


def draw_large(folder: Path, count: int) -> None:
    """Photos of 4,000 x 3,000 pixels in two classes, as a phone takes them."""
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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="demo/flowers", type=Path)
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        if options.large:
            draw_large(out / "photos", options.photos)
            small = records_of(out / "photos", out / "small")
            full = records_of(out / "photos", out / "full", resize_min=0)
            candidates = {
                "--resize_min=512 (default)": training(small),
                "--resize_min=0": training(full),
            }
            title, limit = "Training batches of 12-megapixel photos", "--resize_min=0"
        elif options.augment:
            found = records_of(options.folder, out / "records")
            candidates = {
                name: training(found, **settings)
                for name, settings in AUGMENTED.items()
            }
            title = (
                f"Training batches of {len(found.included('train')):,} photos, changed"
            )
            limit = "none"
        else:
            found = records_of(options.folder, out / "records")
            count = len(found.included())
            candidates = {
                "graft: dataset.Training": training(found),
                "limit: plain JPEG decode": plain_decode(found),
                "peer: image_dataset_from_directory": keras_loader(
                    options.folder, count
                ),
            }
            title = f"Training batches of {len(found.included('train')):,} photos"
            limit = "limit: plain JPEG decode"
        rates = measure.rounds(candidates, options.rounds)
    measure.table(title, measure.rate_rows(rates, limit))


if __name__ == "__main__":
    main()
