"""Convert, train, evaluate and predict from Python, with the settings of the commands.

Settings have the names of the commands' flags: `graft train --epochs=3` is
`graft.train(..., epochs=3)`. A path is a str or a Path, and several values are a list.
Errors are UsageError or UserError, with the message that the command prints.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from graft.results import Evaluation, Records, Run
from pipeline.records import manifest
from pipeline.system import command_line, config_flags, file_system
from pipeline.system.errors import UsageError, UserError
from pipeline.system.remote import mirror

__all__ = ["UsageError", "UserError", "convert", "evaluate", "load", "train"]

_Path = str | os.PathLike[str]
# Settings of evaluate.py for its other tasks, and run_dir, which is the argument `run`.
_OTHER_TASKS = ("list", "runs_dir", "sort", "json", "runs", "strangers", "run_dir")


@mirror.copied_back()
def convert(source: _Path, out: _Path = "", **settings: Any) -> Records:
    """Convert a folder of photos to records, or update records after photos changed.

    `out` is the folder of the records, by default <source>-records beside the photos.
    """
    from pipeline.convert import conversion
    from pipeline.convert.convert_settings import Config

    if not (source := config_flags.with_home(source)):
        raise UsageError("source: expected a folder of photos")
    folder = file_system.path(source).absolute()
    out = out or folder.with_name(f"{folder.name}-records")
    typed = config_flags.from_python({**settings, "out": out}, Config)
    typed = mirror.localized({**typed, "source": source}, ("source", "out"))
    config = config_flags.build(Config, typed)
    summary = conversion.convert(config)
    for note in (*summary.notes, *summary.findings):
        command_line.log(note)
    return Records(manifest=summary.manifest)


@mirror.copied_back()
def train(data: _Path = "", **settings: Any) -> Run:
    """Train a classifier: by default a new head on frozen pretrained layers.

    `data` is a folder of photos, which is converted first, or a folder of records. To
    continue a run that was stopped, pass its folder as `resume`, and no data.
    """
    _prepare_tensorflow()
    import train as command
    from model.training import recipe
    from model.training import settings as train_settings

    kinds = (train_settings.Action, train_settings.Config)
    typed = mirror.localized(config_flags.from_python(settings, *kinds))
    if typed.get("plan") or typed.get("find_rate"):
        raise UsageError("plan, find_rate: only the command graft train has these")
    if run_dir := train_settings.run_to_resume(typed):
        return load(command.resume(run_dir))
    if not data:
        raise UsageError("data: expected a folder of photos or of records")
    data = config_flags.with_home(data)
    configs = recipe.combinations({**typed, "data": data})  # refuses wrong settings
    if not (file_system.path(data) / manifest.HEAD_NAME).exists():
        data = os.fspath(convert(data).directory)
    place = mirror.localized(os.fspath(data))
    configs = tuple(dataclasses.replace(config, data=place) for config in configs)
    return load(command.train(configs))


@mirror.copied_back()
def evaluate(run: "Run | _Path" = "runs/latest", **settings: Any) -> Evaluation:
    """Evaluate a run on its test photos, or on those of `data`, and write a report.

    With `ckpt`, evaluate a weight file and not a run.
    """
    _prepare_tensorflow()
    import evaluate as command
    from model.evaluation.evaluation_settings import Config

    typed = config_flags.from_python(settings, Config, without=_OTHER_TASKS)
    folder = run.directory if isinstance(run, Run) else run
    typed["run_dir"] = config_flags.with_home(folder)
    config = command.settings(mirror.localized(typed))
    figures = command.evaluate(config)
    command.check_gates(figures, config)
    for name in {"report", "written"} & figures.keys():
        figures[name] = str(Path(figures[name]).absolute())
    return Evaluation(figures=figures)


@mirror.copied_back()
def load(run_dir: _Path = "runs/latest") -> Run:
    """Open a run folder; "best" means the run in runs/ with the lowest validation loss.

    The runs of `folds` can be evaluated together; to predict or export, open one.
    """
    _prepare_tensorflow()
    from model.runs import run_folder, run_list

    folder = run_list.find(mirror.localized(config_flags.with_home(run_dir)))
    if not (folder / run_folder.REPEATS).exists():
        folder = run_list.read(str(folder)).directory
    return Run(directory=folder.absolute())  # the current folder may change


def _prepare_tensorflow() -> None:
    """Import TensorFlow and Keras as the commands do, or raise UserError."""
    import pipeline.system.tensorflow_import  # noqa: F401

    # isort: split
    import keras

    if (found := keras.backend.backend()) != "tensorflow":
        raise UserError(
            f"Keras was imported with the backend {found} before Graft. Expected "
            "tensorflow: restart Python, and import graft first or set "
            "KERAS_BACKEND=tensorflow"
        )
