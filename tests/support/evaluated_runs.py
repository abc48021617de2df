"""A run folder without a training, and its judgement: what tests of reports need."""

import dataclasses
import json

import cv2
import keras
import numpy as np

from model.evaluation import run_evaluation
from model.evaluation.evaluation_settings import Config
from model.evaluation.run_evaluation import EvaluationData
from model.runs import finished_run, run_folder
from tests.support import conversions, drawn_photos

SPEC = {"size_px": 16, "short_side_px": 18, "source": "test"}


def network():
    """Logits follow the mean colour: right about photos that are filed rightly."""
    image = keras.Input((16, 16, 3), name="image")
    maps = keras.layers.Conv2D(3, 1, name="conv1")(image)
    means = keras.layers.GlobalAveragePooling2D()(maps)
    model = keras.Model(image, keras.layers.Dense(3, name="logits")(means))
    model.get_layer("conv1").set_weights([np.eye(3)[None, None], np.zeros(3)])
    kernel = np.zeros((3, 3), np.float32)
    kernel[[2, 1, 0], [0, 1, 2]] = 0.05
    model.get_layer("logits").set_weights([kernel, np.zeros(3)])
    return model


# Class -> what its first photos really are.
MISFILED = {"blue": ["red"] * 3, "green": ["red"], "red": ["green", "blue"]}


def misfiled_records(folder):
    """Records of three classes with 20 photos each, some under a wrong name."""
    drawn_photos.write_photos(folder / "photos", per_class=20)
    drawn = 100  # each another one: what lies in two classes is left out
    for class_name, others in MISFILED.items():
        for number, other in enumerate(others):
            path = folder / "photos" / class_name / f"{class_name}{number:03d}.jpg"
            cv2.imwrite(str(path), drawn_photos.draw_photo(other, drawn))
            drawn += 1
    return conversions.convert(folder / "photos", folder / "records").manifest


def renamed(found, names):
    """The records with other class names, which are never written to disk."""
    new = dict(zip(found.class_names, names, strict=True))
    rows = tuple(
        dataclasses.replace(row, class_name=new.get(row.class_name, ""))
        for row in found.rows
    )
    info = dataclasses.replace(found.info, class_names=tuple(names))
    return dataclasses.replace(found, rows=rows, info=info)


def write_run(directory, found, seen=()):
    """A finished run on these records; returns it as it is read."""
    directory.mkdir(parents=True)
    record = run_folder.RunFolder(directory=directory)
    config = {
        "settings": {},
        "network": "tiny",
        "input_spec": SPEC,
        "weights": {"ckpt": "colours.npy"},
        "data": {
            "path": str(found.directory),
            "manifest_digest": found.digest,
            "class_names": list(found.class_names),
        },
        "versions": {"graft": "0.1.0"},
    }
    record.write_json("config.json", config)
    record.write_json("photos.json", {"train": list(seen), "validation": []})
    record.write_json("calibration.json", {"temperature": 1.5})
    tensors = [
        {"status": "restored", "variable": "conv1/kernel", "tensor": "c1/w"},
        {"status": "new", "variable": "logits/kernel", "tensor": ""},
        {"status": "unused", "variable": "", "tensor": "<i>fc8</i>"},
    ]
    frozen = [{"variable": "conv1/kernel", "sha256_before": "a", "sha256_after": "a"}]
    record.write_json("ledger.json", {"tensors": tensors, "frozen": frozen})
    lines = [
        {
            "epoch": epoch,
            "loss": 1 / epoch,
            "validation_loss": 1.2 / epoch,
            "accuracy": 1 - 0.5 / epoch,
            "validation_accuracy": 1 - 0.6 / epoch,
        }
        for epoch in (1, 2, 3)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / "metrics.jsonl").write_text(text)
    network().save(directory / "model.keras")
    return finished_run.read(str(directory))


def judged(directory, found, split="all", seen=(), **how):
    """The judgement of such a run."""
    finished = write_run(directory, found, seen)
    data = EvaluationData(records=found, split=split)
    options = Config(**how)
    return run_evaluation.evaluate_run(finished, data, options)
