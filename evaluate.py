"""A run folder, or a weight file as it is -> an honest accuracy.

    python evaluate.py
    python evaluate.py --run_dir=runs/latest --split=test --min_accuracy=0.9
    python evaluate.py --ckpt=FILE --data=FOLDER --labels=synset_words.txt
    python evaluate.py --runs=runs/A,runs/B

Judges the newest run on the photos that neither training nor the choice of the best
epoch has seen, prints the figures and writes them to the run's evaluation folder. With
--ckpt it judges a pretrained network without any training. With --runs it says whether
one run is better than another on the same photos, none of which any of them has seen:
photos that one was trained on speak for it, and are refused.
"""

import pipeline.system.tensorflow_import  # noqa: F401

# isort: split
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from model.checkpoints import errors
from model.evaluation import (
    evaluation_data,
    run_comparison,
    run_evaluation,
    split_evaluation,
    test_time_augmentation,
)
from model.reports import comparison_picture, text_report
from model.runs import finished_run, run_records
from model.weights import preprocessing_overrides, pretrained_classifier
from pipeline.records import manifest
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

_PROJECTOR_PHOTOS = 1000  # shown by TensorBoard's projector in a browser


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of an evaluation.

    Attributes:
        run_dir: the run.
        runs: folders of runs to compare in place of one, with commas between them; the
            first is compared with each of the others.
        ckpt: name or path of weights to judge in place of a run; "" for the run.
        arch: network that the weights belong to; "" to find it.
        labels: file of the weights' class names, one a line.
        overrides: of the weights' preprocessing.
        data: folder of records, or of class folders of photos; "" for the records that
            the run was trained on.
        another_dataset: the photos are others than the run's, on purpose.
        split: which part of them.
        batch_size: photos per call of the network.
        tta: views of each photo whose answers are averaged; one of views.CHOICES.
        report: writes a page beside the figures of a run, and what TensorBoard's
            projector shows.
        min_accuracy: below this top-1 accuracy the command fails, 0..1.
    """

    run_dir: str = "runs/latest"
    runs: str = ""
    ckpt: str = ""
    arch: str = ""
    labels: str = ""
    overrides: preprocessing_overrides.Overrides = preprocessing_overrides.AS_WEIGHTS
    data: str = ""
    another_dataset: bool = False
    split: str = "test"
    batch_size: int = 64
    tta: str = test_time_augmentation.NONE
    report: bool = True
    min_accuracy: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_accuracy <= 1:
            raise ValueError(f"--min_accuracy={self.min_accuracy}: expected 0 to 1")
        if self.tta not in test_time_augmentation.CHOICES:
            raise ValueError(
                f"--tta={self.tta}: expected "
                f"{', '.join(test_time_augmentation.CHOICES)}"
            )
        if self.runs:
            self._check_comparison()
        elif self.ckpt:
            self._check_weights()
        else:
            pretrained_classifier.refuse_without_ckpt(
                arch=self.arch, labels=self.labels, overrides=self.overrides
            )

    def _check_weights(self) -> None:
        if not self.data:
            raise ValueError("--ckpt: expected --data too, a folder to judge it on")
        for name in ("run_dir", "another_dataset"):
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"--ckpt: does not go together with --{name}, which is of a run"
                )

    def _check_comparison(self) -> None:
        default = {field.name: field.default for field in dataclasses.fields(self)}
        names = ("run_dir", "ckpt", "arch", "labels", "overrides", "tta", "report")
        for name in (*names, "min_accuracy"):
            if getattr(self, name) != default[name]:
                what = "preprocessing" if name == "overrides" else f"--{name}"
                raise ValueError(f"--runs: does not go together with {what}")
        if len(self.run_dirs) < 2 or not all(self.run_dirs):
            raise ValueError(
                f"--runs={self.runs}: expected two or more folders, with commas between"
            )
        if self.another_dataset and not self.data:
            raise ValueError("--runs and --another_dataset: expected --data too")

    @property
    def run_dirs(self) -> list[str]:
        """The folders that `runs` names."""
        return self.runs.split(",")

    @property
    def options(self) -> split_evaluation.EvaluationOptions:
        """Options of the evaluation."""
        recorded = _PROJECTOR_PHOTOS if self.report and not self.ckpt else 0
        return split_evaluation.EvaluationOptions(
            batch_size=self.batch_size, tta=self.tta, num_features=recorded
        )


class TooInaccurate(DataError):
    """The gate that --min_accuracy sets is not passed."""


def evaluate(config: Config) -> dict[str, Any]:
    """Evaluate a run, and write its report; or a pretrained network as it is.

    Returns:
        The figures of evaluation/<split>.json.

    Raises:
        DataError: the run or the records are damaged, or do not belong together.
    """
    if config.ckpt:
        return _evaluate_pretrained(config)
    run = finished_run.read(config.run_dir)
    data = config.data or str(run_records.locate(run))
    with evaluation_data.open_records(data, run.resize_min) as records:
        evaluation_data.check_records(
            run,
            records,
            config.split,
            another_dataset=config.another_dataset,
            source=data,
        )
        manifest.check_files(records)
        if config.min_accuracy:
            _refuse_training_photos(config, run, records)
        evaluation = run_evaluation.evaluate_run(
            run, records, config.split, config.options, source=data
        )
        # Deferred: a comparison does not need what draws and fills pages.
        from model.reports import html_report, report_facts, tensorboard_pages

        tensorboard_pages.write(evaluation)
        written = {"written": str(evaluation.path)}
        if config.report:
            command = report_facts.command_line("evaluate.py", config)
            written["report"] = str(html_report.write(evaluation, command))
            tensorboard_pages.write_projector(evaluation)
    return evaluation.figures | written


def _refuse_training_photos(
    config: Config, run: finished_run.FinishedRun, records: manifest.Manifest
) -> None:
    photos = evaluation_data.included_photos(records, config.split)
    if num_seen := len(run.seen_photos() & photos):
        raise DataError(
            f"--min_accuracy: {run.directory.name} was trained on, or chosen by, "
            f"{num_seen} of these {len(photos)} photos, so their accuracy is not a "
            "valid gate. Evaluate the test split, or other photos."
        )


def _evaluate_pretrained(config: Config) -> dict[str, Any]:
    weights = pretrained_classifier.load(
        config.ckpt,
        arch=config.arch,
        overrides=config.overrides,
        labels=config.labels,
    )
    with evaluation_data.open_records(config.data) as records:
        return split_evaluation.evaluate_weights(
            weights,
            records,
            config.split,
            config.options,
            has_class_names=bool(config.labels),
        )


def compare(config: Config) -> dict[str, Any]:
    """Compare runs on the same photos, and write figures and a picture.

    Returns:
        The figures of evaluation/compare-<split>.json.

    Raises:
        DataError: runs or records are damaged or do not belong together, or a run was
            trained on one of the photos.
    """
    runs = finished_run.read_several(config.run_dirs)
    figures, path = run_comparison.compare_runs(
        runs,
        config.split,
        data=config.data,
        another_dataset=config.another_dataset,
        options=config.options,
    )
    curves = [run.validation_curve() for run in runs.values()]
    picture = path.with_suffix(".png")
    with file_system.replacing(picture) as partial:
        comparison_picture.draw(figures, curves, partial)
    return figures | {"written": f"{path}, {picture}"}


def define_flags() -> None:
    """Declares the command's flags; defaults are those of Config."""
    default = Config()
    flags.DEFINE_string("run_dir", default.run_dir, "Folder of the run.")
    flags.DEFINE_string(
        "runs",
        default.runs,
        "Folders of two runs or more to compare on the same photos, with commas "
        "between them: the first with each of the others.",
    )
    pretrained_classifier.define_flags()
    flags.adopt_module_key_flags(pretrained_classifier)  # so that --help shows them
    flags.DEFINE_string(
        "data",
        default.data,
        "Folder of records, or of one folder of photos per class; by default the "
        "records of the run.",
    )
    flags.DEFINE_bool(
        "another_dataset",
        default.another_dataset,
        "The photos are others than the run's, on purpose; their classes must be among "
        "the run's.",
    )
    flags.DEFINE_enum(
        "split",
        default.split,
        [*manifest.SPLITS, "all"],
        "Part of the records to judge on; only test is unseen. With --ckpt, or a "
        "folder of photos, all is the default.",
    )
    flags.DEFINE_integer(
        "batch_size",
        default.batch_size,
        "Photos per step.",
        lower_bound=1,
        upper_bound=1 << 12,
    )
    flags.DEFINE_enum(
        "tta",
        default.tta,
        test_time_augmentation.CHOICES,
        "Views of each photo whose answers are averaged: the central window; flip: and "
        "mirrored; ten_crop: and those in the corners. The files are named after it.",
    )
    flags.DEFINE_bool(
        "report",
        default.report,
        "Writes a page beside the figures of a run, and what TensorBoard's projector "
        "shows.",
    )
    flags.DEFINE_float(
        "min_accuracy",
        default.min_accuracy,
        "Fail with exit code 2 below this top-1 accuracy, 0..1.",
        lower_bound=0,
        upper_bound=1,
    )


def _split() -> str:
    """What was asked for, or what suits the data."""
    values = flags.FLAGS.flag_values_dict()
    folder = values["data"] and not (Path(values["data"]) / manifest.HEAD_NAME).exists()
    asked = flags.FLAGS["split"].present
    return "all" if (values["ckpt"] or folder) and not asked else values["split"]


def main(argv: Sequence[str]) -> None:
    """Evaluates as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags begin with --")
    config = command_line.config_from_flags(
        Config, overrides=preprocessing_overrides.from_flags(), split=_split()
    )
    if config.runs:
        command_line.say(text_report.comparison(compare(config)))
        return
    figures = evaluate(config)
    command_line.say(text_report.evaluation(figures))
    if figures["accuracy"] < config.min_accuracy:
        raise TooInaccurate(
            f"{figures['run']}: accuracy {figures['accuracy']:.6g} on {config.split}, "
            f"expected --min_accuracy={config.min_accuracy:.6g} or more"
        )


if __name__ == "__main__":
    define_flags()
    command_line.run(main, DataError, errors.CheckpointError)
