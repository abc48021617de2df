"""The peer: the same task the way the Keras guides teach it.

    python benchmarks/keras_guide.py TRAIN VALIDATION TEST EPOCHS HEAD

Source: keras.io/guides/transfer_learning (frozen base, random flip and rotation, global
average pooling, dropout 0.2, dense, Adam, `fit` with validation data) with the
image_dataset_from_directory of keras.io/examples/vision/
image_classification_from_scratch. The base is the same AlexNet with the same weights as
ours. HEAD is `pooling`, as in the guide, or `flatten`, which shows its final layer all
9,216 numbers of pool5.

Keras and TensorFlow are imported as a guide's program does, without
pipeline.system.tensorflow_import.

Prints one JSON line per epoch: epoch, seconds since the process started without the
time spent on testing, and accuracy on the test folder.
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


def folder_dataset(folder: str, *, shuffle: bool) -> Any:
    """Photos of a folder, squashed to 224 x 224, as the loader does by default."""
    return keras.utils.image_dataset_from_directory(
        folder,
        label_mode="int",
        image_size=(SIZE, SIZE),
        batch_size=BATCH_SIZE,
        shuffle=shuffle,
        seed=0 if shuffle else None,
        verbose=False,
    )


class Clock(keras.callbacks.Callback):
    """Tests after every epoch, off the clock."""

    def __init__(self, test_data: Any, start: float) -> None:
        super().__init__()
        self.test_data, self.start, self.off = test_data, start, 0.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Prints the line."""
        now = time.time()
        _, accuracy = self.model.evaluate(self.test_data, verbose=0)
        line = {"epoch": epoch + 1, "seconds": now - self.start - self.off}
        print(json.dumps({**line, "accuracy": accuracy}), flush=True)
        self.off += time.time() - now


def main(train: str, validation: str, test: str, epochs: str, head: str) -> None:
    """Trains and prints."""
    start = psutil.Process().create_time()
    keras.utils.set_random_seed(0)
    train_data = folder_dataset(train, shuffle=True)
    num_classes = len(train_data.class_names)
    augment = keras.Sequential(
        [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)]
    )
    train_data = train_data.map(lambda x, y: (augment(x, training=True), y))

    chosen = registry.NETWORKS["alexnet_owt"]
    base = chosen.build(chosen.input_spec, last="pool5")
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
        validation_data=folder_dataset(validation, shuffle=False).prefetch(-1),
        epochs=int(epochs),
        callbacks=[Clock(folder_dataset(test, shuffle=False), start)],
        verbose=0,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
