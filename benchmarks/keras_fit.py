"""Time Keras' fit on records in a plain script: the baseline of training_step.py.

    python benchmarks/keras_fit.py MODEL RECORDS BATCHES BATCH_SIZE

For each line on stdin it trains on BATCHES batches and prints the seconds they took.
MODEL is a .keras file that maps photos of 224 x 224 pixels to logits. Everything is
float32. TensorFlow is imported directly, without the settings of
pipeline.system.tensorflow_import.
"""

import sys
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

SHORT_SIDE, SIZE = 256, 224


def parse(record: Any) -> tuple[Any, Any]:
    """Return a random window of a record's photo, randomly mirrored, and its label."""
    values = tf.io.parse_single_example(
        record,
        {
            "image/encoded": tf.io.FixedLenFeature([], tf.string),
            "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        },
    )
    image = tf.io.decode_image(values["image/encoded"], 3, expand_animations=False)
    image = tf.image.resize(image, (SHORT_SIDE, SHORT_SIDE))
    image = tf.image.random_flip_left_right(image)
    return tf.image.random_crop(image, (SIZE, SIZE, 3)), values["image/class/label"]


def main(model_path: str, records: str, batches: str, batch_size: str) -> None:
    """Train once for each line on stdin."""
    model = keras.models.load_model(model_path, compile=False)
    model.compile(
        keras.optimizers.Adam(1e-5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    data = (
        tf.data.TFRecordDataset(sorted(map(str, Path(records).glob("*.tfrecord"))))
        .shuffle(1000)
        .repeat()
        .map(parse, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(int(batch_size))
        .prefetch(tf.data.AUTOTUNE)
    )
    for _ in sys.stdin:
        start = time.perf_counter()
        model.fit(data, steps_per_epoch=int(batches), epochs=1, verbose=0)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
