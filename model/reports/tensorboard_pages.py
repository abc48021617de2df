"""Write what TensorBoard shows of an evaluation: figures, settings, the projector.

    tensorboard --logdir runs

runs/NAME/tensorboard/evaluation-<split>/ holds scalars, the confusion matrix and the
run's settings, by which TensorBoard's HParams shows runs side by side; and, for the
projector, the features of up to 1,000 photos with their thumbnails.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.projector import projector_config_pb2
from tensorboard.plugins.scalar import summary_v2 as scalars

from model.evaluation import run_evaluation
from model.runs import tensorboard_log
from pipeline.images import opencv
from pipeline.records import manifest, stored_photo
from pipeline.records.manifest_row import ImageError, Row
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

_MOST_AXES = 64
_LONGEST_SETTING = 200  # in characters
_FIGURES = (
    *("accuracy", "balanced_accuracy", "macro_f1", "top5_accuracy", "loss"),
    "calibrated_loss",
)
# Settings that matter most, as HParams shows them before the figures.
_SETTINGS = (
    *("network", "ckpt", "features", "pooling", "train_from", "image_size", "epochs"),
    *("batch_size", "learning_rate", "optimizer", "weight_decay", "seed"),
)
_TILE_PX, _SPRITE_PX = 48, 8192  # the projector shows no larger sprite


def directory(evaluation: run_evaluation.RunEvaluation) -> Path:
    """Create the folder that TensorBoard reads; a link is a DataError."""
    name = f"evaluation-{evaluation.path.stem}"
    return file_system.make_inside(evaluation.run.directory, "tensorboard", name)


def write(evaluation: run_evaluation.RunEvaluation) -> None:
    """Write figures and settings, replacing those of an earlier evaluation."""
    folder = directory(evaluation)
    file_system.remove_tree(folder)
    figures = evaluation.figures
    values = {name: figures[name] for name in _FIGURES} | {
        "accuracy_low": figures["accuracy_ci95"][0],
        "accuracy_high": figures["accuracy_ci95"][1],
        "calibration_error": figures["calibration"]["ece"],
        "calibration_error_before": figures["calibration"]["ece_before"],
    }
    messages = [scalars.scalar_pb(name, value) for name, value in values.items()]
    messages += [
        scalars.scalar_pb(
            f"recall/{command_line.as_label(row['class_name'])}", row["recall"]
        )
        for row in figures["per_class"]
        if row["recall"] is not None
    ]
    picture = tensorboard_log.picture(np.array(figures["confusion_matrix"]))
    messages.append(tensorboard_log.image_pb("confusion_matrix", picture))
    settings = main_settings(evaluation.run.config)
    name = f"{evaluation.run.directory.name} {evaluation.path.stem}"
    trial = command_line.as_label(name)
    messages.append(hparams.hparams_pb(settings, trial_id=trial))
    file = tensorboard_log.EventFile(folder)
    for message in messages:
        file.add(0, message)
    file.close()


def main_settings(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return the main settings in a config.json, as HParams accepts them.

    These are what the training used: of several stages, what the last one used.
    """

    def mapping(value: Any) -> Mapping[str, Any]:
        """Return a table, or a list's last one; {} for what other versions wrote."""
        last = value[-1] if isinstance(value, list) and value else value
        return last if isinstance(last, Mapping) else {}

    given = mapping(config.get("settings"))
    values = {
        **given,
        **mapping(given.get("learning")),
        **mapping(given.get("stages")),
        **mapping(config.get("stages")),
        "image_size": mapping(config.get("input_spec")).get("size_px"),
        **config,
    }
    return {
        name: value
        if isinstance(value := values[name], bool | int | float)
        and abs(value) < 1 << 63
        else command_line.as_label(str(value)[:_LONGEST_SETTING])
        for name in _SETTINGS
        if values.get(name) not in (None, "")
    }


def write_projector(evaluation: run_evaluation.RunEvaluation) -> None:
    """Write the files of the projector, if features were recorded.

    Features of more than 64 dimensions are projected onto the 64 principal axes.
    """
    predictions = evaluation.predictions
    if predictions.features is None or len(predictions.features) < 2:
        return
    folder = directory(evaluation)
    axes = principal(predictions.features, _MOST_AXES)
    lines = "".join("\t".join(f"{value:.5g}" for value in row) + "\n" for row in axes)
    rows = [predictions.rows[n] for n in predictions.feature_examples]
    predicted = predictions.predicted
    names = [command_line.as_label(name) for name in predictions.class_names]
    table = "class\tpredicted\tright\tpath\n"
    for number, row in zip(predictions.feature_examples, rows, strict=True):
        label, guess = predictions.labels[number], predicted[number]
        right = "yes" if label == guess else "no"
        path = command_line.as_label(row.path)
        table += f"{names[label]}\t{names[guess]}\t{right}\t{path}\n"
    sheet, side = sprite(evaluation.data.records, rows)
    config = projector_config_pb2.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = "input of the final layer"
    embedding.tensor_shape[:] = axes.shape
    embedding.tensor_path, embedding.metadata_path = "features.tsv", "labels.tsv"
    embedding.sprite.image_path = "sprite.png"
    embedding.sprite.single_image_dim[:] = side, side
    for name, content in (
        ("features.tsv", lines.encode()),
        ("labels.tsv", table.encode()),
        ("sprite.png", tf.io.encode_png(sheet).numpy()),
        ("projector_config.pbtxt", text_format.MessageToString(config).encode()),
    ):
        with file_system.replacing(folder / name) as partial:
            partial.write_bytes(content)


def principal(features: np.ndarray, most: int) -> np.ndarray:
    """Return the coordinates of points along the axes of greatest variance.

    Of features [num_points, num_features] they are float64 [num_points, min(most,
    num_points, num_features)], centred, with the distances of the features.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    # Of few points with many features; as the decomposition of centred itself.
    values, vectors = np.linalg.eigh(centred @ centred.T)
    count = min(most, *features.shape)
    order = np.argsort(-values, kind="stable")[:count]
    return np.asarray(vectors[:, order] * np.sqrt(np.maximum(0, values[order])))


def sprite(records: manifest.Manifest, rows: Sequence[Row]) -> tuple[np.ndarray, int]:
    """Return the thumbnails of photos in a square sheet, as the projector expects.

    It is uint8 [columns * side, columns * side, 3], RGB, and `side` in pixels. A photo
    that does not decode is white.
    """
    photos = stored_photo.StoredPhotos(records.directory)
    columns = math.ceil(math.sqrt(len(rows)))
    side = min(_TILE_PX, _SPRITE_PX // columns)
    sheet = np.full((columns * side, columns * side, 3), 255, np.uint8)
    for number, row in enumerate(rows):
        top, left = (side * place for place in divmod(number, columns))
        try:
            tile = opencv.thumbnail(photos.image(row), side)
        except (ImageError, DataError, OSError):
            continue
        sheet[top : top + side, left : left + side] = tile[..., ::-1]
    return sheet, side
