"""The peer: Keras' fit of a whole network on records, the way a plain script does it.

    python benchmarks/keras_fit.py MODEL RECORDS BATCHES BATCH_SIZE

For each line on stdin it trains so many batches and prints the seconds that they took.
MODEL is a .keras file, 224 x 224 -> logits; everything is float32, and TensorFlow is
imported as it comes, without pipeline.system.tensorflow_import and what that switches
on.
"""

import sys
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

SHORT_SIDE, SIZE = 256, 224


def parse(record: Any) -> tuple[Any, Any]:
    """A record -> a random window of its photo, mirrored or not, and its label."""
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


def main() -> None:
    """Trains as often as it is asked to."""
    file, records, batches, batch_size = sys.argv[1:]
    model = keras.models.load_model(file, compile=False)
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
        began = time.perf_counter()
        model.fit(data, steps_per_epoch=int(batches), epochs=1, verbose=0)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
