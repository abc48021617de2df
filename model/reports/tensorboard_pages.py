"""What TensorBoard shows of an evaluation: figures, settings, photos by their features.

    tensorboard --logdir runs

runs/NAME/tensorboard/evaluation-<split>/ holds scalars, the confusion matrix and the
run's settings, by which TensorBoard's HParams shows runs side by side; and for the
projector the features of up to 1,000 photos with their thumbnails.
"""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.scalar import summary_v2 as scalars
from tensorboard.summary.writer import event_file_writer

from model.evaluation import evaluate_split
from model.runs import tensorboard_log
from pipeline.images import opencv
from pipeline.images.errors import ImageError
from pipeline.records import manifest, stored_photo
from pipeline.system import command_line
from pipeline.system.errors import DataError

_MOST_AXES = 64
_LONGEST_SETTING = 200  # in characters
_TILE_PX, _SPRITE_PX = 48, 8192  # the projector shows no larger sprite


def directory(judged: evaluate_split.Judged) -> Path:
    """The folder that TensorBoard reads."""
    return judged.finished.directory / "tensorboard" / f"evaluation-{judged.path.stem}"


def write(judged: evaluate_split.Judged) -> None:
    """Writes figures and settings, in place of those of an evaluation before."""
    folder = directory(judged)
    shutil.rmtree(folder, ignore_errors=True)
    figures = judged.figures
    writer = event_file_writer.EventFileWriter(str(folder))
    named = {
        "accuracy": figures["accuracy"],
        "accuracy_low": figures["accuracy_ci95"][0],
        "accuracy_high": figures["accuracy_ci95"][1],
        "top5_accuracy": figures["top5_accuracy"],
        "loss": figures["loss"],
        "calibrated_loss": figures["calibrated_loss"],
        "calibration_error": figures["calibration"]["ece"],
        "calibration_error_before": figures["calibration"]["ece_before"],
    }
    messages = [scalars.scalar_pb(name, value) for name, value in named.items()]
    messages += [
        scalars.scalar_pb(f"recall/{_cell(row['class_name'])}", row["recall"])
        for row in figures["per_class"]
        if row["recall"] is not None
    ]
    confusion = np.array(figures["confusion_matrix"])
    messages.append(
        tensorboard_log.image_pb("confusion_matrix", tensorboard_log.picture(confusion))
    )
    settings = flat_settings(judged.finished.config)
    trial = _cell(f"{judged.finished.directory.name} {judged.path.stem}")
    messages.append(hparams.hparams_pb(settings, trial_id=trial))
    for message in messages:
        writer.add_event(
            event_pb2.Event(wall_time=time.time(), step=0, summary=message)
        )
    writer.close()


def flat_settings(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Settings of a training by the names of their flags, as HParams takes them.

    Args:
        config: content of a run's config.json.
    """
    settings = dict(config.get("settings", {}))
    found: dict[str, bool | int | float | str] = {
        "network": str(config.get("network", "")),
        "features_used": str(config.get("features", "")),
        "precision_used": str(config.get("precision", "")),
    }
    for name, value in settings.items():
        inner = value.items() if isinstance(value, Mapping) else [(name, value)]
        for key, one in inner:
            if isinstance(one, bool | int | float):
                found[key] = one
            elif isinstance(one, str):
                found[key] = _cell(one)
            elif one not in (None, [], ()):
                found[key] = _cell(str(one)[:_LONGEST_SETTING])
    for place in ("run_dir", "data"):  # say nothing of the learning
        found.pop(place, None)
    return found


def write_projector(judged: evaluate_split.Judged) -> None:
    """Writes what the projector shows, if the judgement has kept features.

    Features of more than 64 axes are turned onto the 64 along which the photos differ
    most.
    """
    judgement = judged.judgement
    if judgement.features is None or len(judgement.features) < 2:
        return
    folder = directory(judged)
    folder.mkdir(parents=True, exist_ok=True)
    axes = principal(judgement.features, _MOST_AXES)
    lines = "".join("\t".join(f"{value:.5g}" for value in row) + "\n" for row in axes)
    (folder / "features.tsv").write_text(lines, encoding="ascii")
    rows = [judgement.rows[n] for n in judgement.examples]
    predicted = judgement.logits.argmax(axis=1)
    names = [_cell(name) for name in judgement.class_names]
    table = ["class\tpredicted\tright\tpath"]
    for number, row in zip(judgement.examples, rows, strict=True):
        label, guess = int(judgement.labels[number]), int(predicted[number])
        right = "yes" if label == guess else "no"
        table.append(f"{names[label]}\t{names[guess]}\t{right}\t{_cell(row.path)}")
    text = "\n".join(table) + "\n"
    path = folder / "labels.tsv"
    path.write_text(text, encoding="utf-8")
    sheet, side = sprite(judged.found, rows)
    (folder / "sprite.png").write_bytes(tf.io.encode_png(sheet).numpy())
    (folder / "projector_config.pbtxt").write_text(
        "embeddings {\n"
        '  tensor_name: "what the final layer sees"\n'
        f"  tensor_shape: {axes.shape[0]}\n"
        f"  tensor_shape: {axes.shape[1]}\n"
        '  tensor_path: "features.tsv"\n'
        '  metadata_path: "labels.tsv"\n'
        "  sprite {\n"
        '    image_path: "sprite.png"\n'
        f"    single_image_dim: {side}\n"
        f"    single_image_dim: {side}\n"
        "  }\n"
        "}\n",
        encoding="ascii",
    )


def principal(features: np.ndarray, most: int) -> np.ndarray:
    """Coordinates of points along the axes of greatest variance.

    Args:
        features: float [num_points, num_features].
        most: number of axes at most.

    Returns:
        float64 [num_points, min(most, num_points, num_features)], centred; distances
        between points are those of the features, as far as the axes reach.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    # Of few points with many features; as the decomposition of centred itself.
    values, vectors = np.linalg.eigh(centred @ centred.T)
    count = min(most, *features.shape)
    order = np.argsort(-values, kind="stable")[:count]
    return np.asarray(vectors[:, order] * np.sqrt(np.maximum(0, values[order])))


def sprite(
    found: manifest.Manifest, rows: Sequence[manifest.Row]
) -> tuple[np.ndarray, int]:
    """Thumbnails of photos in rows of a square sheet, as the projector cuts it.

    Returns:
        uint8 [columns * side, columns * side, 3], RGB; and the side, in pixels. A photo
        that does not decode is white.
    """
    photos = stored_photo.StoredPhotos(found.directory)
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


def _cell(text: str) -> str:
    """Text on one line, in UTF-8, without tabs: names are strangers'."""
    return command_line.as_utf8(command_line.one_line(command_line.shown(text)))
