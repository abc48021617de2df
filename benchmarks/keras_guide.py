"""Train a classifier as the Keras guides teach it: the baseline of whole_job.py.

    python benchmarks/keras_guide.py TRAIN VALIDATION TEST EPOCHS HEAD

Follows keras.io/guides/transfer_learning (frozen base, random flip and rotation, global
average pooling, dropout 0.2, dense layer, Adam, `fit` with validation data), with the
image_dataset_from_directory of keras.io/examples/vision/
image_classification_from_scratch. The base is the AlexNet that Graft uses, with the
same weights. HEAD is `pooling`, as in the guide, or `flatten`, which gives the dense
layer all 9,216 values of pool5.

Keras and TensorFlow are imported directly, as in the guides, without the settings of
pipeline.system.tensorflow_import.

Prints one JSON line per epoch: the epoch, seconds since the process started without the
time spent on testing, and the accuracy on the test folder.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import psutil

from model.networks import registry
from model.weights import model_variables, named_weights, restore

SIZE = 224
BATCH_SIZE = 64


def read_folder(folder: str, *, shuffle: bool) -> Any:
    """Return the photos of a folder, squashed to 224 x 224 as Keras does by default."""
    return keras.utils.image_dataset_from_directory(
        folder,
        label_mode="int",
        image_size=(SIZE, SIZE),
        batch_size=BATCH_SIZE,
        shuffle=shuffle,
        seed=0 if shuffle else None,
        verbose=False,
    )


class TestAfterEpoch(keras.callbacks.Callback):
    """Tests after every epoch and prints a line; the time of the tests is left out."""

    def __init__(self, test_data: Any, start: float) -> None:
        super().__init__()
        self.test_data, self.start, self.testing_s = test_data, start, 0.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Print the epoch, the seconds and the accuracy."""
        now = time.time()
        _, accuracy = self.model.evaluate(self.test_data, verbose=0)
        line = {"epoch": epoch + 1, "seconds": now - self.start - self.testing_s}
        print(json.dumps({**line, "accuracy": accuracy}), flush=True)
        self.testing_s += time.time() - now


def main(train: str, validation: str, test: str, epochs: str, head: str) -> None:
    """Train the classifier."""
    start = psutil.Process().create_time()
    keras.utils.set_random_seed(0)
    train_data = read_folder(train, shuffle=True)
    num_classes = len(train_data.class_names)
    augment = keras.Sequential(
        [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)]
    )
    train_data = train_data.map(lambda x, y: (augment(x, training=True), y))

    network = registry.NETWORKS["alexnet_owt"]
    base = network.build(network.input_spec, last="pool5")
    weights = named_weights.resolve("alexnet_conv")
    model_variables.assign(base, restore.restore_checkpoint(weights.checkpoint).values)
    base.trainable = False

    inputs = keras.Input((SIZE, SIZE, 3))
    output = base(inputs, training=False)
    if head == "pooling":
        output = keras.layers.GlobalAveragePooling2D()(output)
    else:
        output = keras.layers.Flatten()(output)
    output = keras.layers.Dropout(0.2)(output)
    model = keras.Model(inputs, keras.layers.Dense(num_classes)(output))
    model.compile(
        keras.optimizers.Adam(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        train_data.prefetch(-1),
        validation_data=read_folder(validation, shuffle=False).prefetch(-1),
        epochs=int(epochs),
        callbacks=[TestAfterEpoch(read_folder(test, shuffle=False), start)],
        verbose=0,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
