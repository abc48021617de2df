"""Write what TensorBoard shows of an evaluation: figures and settings.

    tensorboard --logdir runs

runs/NAME/tensorboard/evaluation-<split>/ holds scalars, the confusion matrix and the
run's settings, by which TensorBoard's HParams shows runs side by side.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.scalar import summary_v2 as scalars

from model.evaluation import run_evaluation
from model.runs import tensorboard_log
from pipeline.system import command_line, file_system

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
