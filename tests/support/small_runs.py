"""Runs with small networks, made by hand: training is tested elsewhere."""

import dataclasses

import keras
import numpy as np

from model.loop.training_loop import EpochResult
from model.networks import architecture, head
from model.runs import finished_run, run_folder
from pipeline.batches.input_spec import InputSpec

SPEC = InputSpec(
    size_px=24,
    short_side_px=28,
    mean=(100.0, 110.0, 120.0),
    std=(50.0, 60.0, 70.0),
    source="test",
)
TEMPERATURE = 1.7
# Content of config.json in a bare run.
CONFIG = {
    "network": "tiny",
    "settings": {"seed": 0},
    "input_spec": dataclasses.asdict(SPEC),
    "data": {
        "path": "records",
        "manifest_digest": "0" * 64,
        "class_names": ["cat", "dog"],
    },
}


def epoch_result(epoch, **figures):
    """Return losses that fall and accuracies that rise from epoch to epoch."""
    figures = {
        "loss": 1 / epoch,
        "accuracy": 1 - 0.5 / epoch,
        "validation_loss": 1.2 / epoch,
        "validation_accuracy": 1 - 0.6 / epoch,
        "learning_rate": 0.1 / epoch,
        "images_per_s": 100.0 * epoch,
        "seconds": 2.0,
    } | figures
    return EpochResult(epoch=epoch, **figures)


def one_layer_model(seed=0):
    image = keras.Input((24, 24, 3))
    kernel = keras.initializers.RandomNormal(0, 1, seed=seed)
    layer = keras.layers.Conv2D(2, 24, kernel_initializer=kernel, name="conv1")
    return keras.Model(image, keras.layers.Flatten()(layer(image)))


def write_bare_run(directory, config=CONFIG):
    """Write a finished run of one epoch on no photos; return its RunFolder."""
    record = run_folder.RunFolder(directory=directory)
    record.start(config, config["data"]["class_names"])
    record.append_metrics(epoch_result(1))
    record.write_json("calibration.json", {"temperature": TEMPERATURE})
    record.save_model(one_layer_model(), {"network": "tiny"})
    record.point_latest()
    return record


def colour_model(spec=SPEC):
    """Tells blue, green and red apart, with some of each layer that matters."""
    keras.utils.set_random_seed(5)
    kinds = keras.layers
    image = keras.Input((spec.size_px, spec.size_px, 3), name=architecture.INPUT)
    x = architecture.normalisation(spec)(image)
    mean = kinds.GlobalAveragePooling2D(name=head.POOL_LAYER)(x)
    x = kinds.Conv2D(4, 3, padding="same", activation="relu", name="conv")(x)
    x = kinds.BatchNormalization(name="norm")(x)
    x = kinds.MaxPooling2D(3, 2, "same", name="pool")(x)
    x = kinds.Flatten(name="flat")(x)
    x = kinds.Dropout(0.5, name="drop")(x)
    x = kinds.Dense(3, name="details")(x)
    x = kinds.Rescaling(0.05, name="little")(x)
    colour = kinds.Dense(3, name="colour")
    model = keras.Model(image, kinds.Add(name="logits")([x, colour(mean)]))
    colour.set_weights([2 * np.eye(3, dtype=np.float32)[::-1], np.zeros(3)])
    return model


def write_run(folder, found, model, spec=SPEC, network_name="test", **config):
    """A finished run folder; `config` adds to its config.json."""
    record = run_folder.RunFolder(directory=folder)
    config |= {
        "network": network_name,
        "input_spec": dataclasses.asdict(spec),
        "data": {
            "path": str(found.directory),
            "manifest_digest": found.digest,
            "class_names": list(found.class_names),
            **config.pop("data", {}),
        },
    }
    record.start(config, found.class_names)
    record.write_json("calibration.json", {"temperature": TEMPERATURE})
    record.write_json("photos.json", {"train": [], "validation": []})
    record.save_model(model, {"network": network_name})
    return finished_run.read(str(folder))
