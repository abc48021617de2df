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
import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from model.checkpoints import errors
from model.evaluation import (
    candidates,
    comparison,
    evaluate_split,
    evaluate_weights,
    final_features,
    test_time_augmentation,
)
from model.reports import comparison_picture, text_report
from model.runs import finished_run, run_folder, run_records
from model.weights import preprocessing_overrides, pretrained_classifier
from pipeline.convert import conversion
from pipeline.images import record_image
from pipeline.records import manifest
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError


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
    def how(self) -> evaluate_split.How:
        """How photos are looked at."""
        kept = final_features.MOST_PHOTOS if self.report and not self.ckpt else 0
        return evaluate_split.How(
            batch_size=self.batch_size, tta=self.tta, num_features=kept
        )


class TooInaccurate(DataError):
    """The gate that --min_accuracy sets is not passed."""


def evaluate(config: Config) -> dict[str, Any]:
    """Evaluates as configured; returns what evaluation/<split>.json holds.

    Raises:
        DataError: run or records are not as they should be, or not each other's.
    """
    if config.ckpt:
        return _evaluate_pretrained(config)
    finished = finished_run.read(config.run_dir)
    data = config.data or str(run_records.locate(finished))
    with _records(data, finished.resize_min) as found:
        judgement = _judge_run(config, finished, found, data)
        # Deferred: a comparison needs none of what draws and fills pages.
        from model.reports import html_report, report_facts, tensorboard_pages

        tensorboard_pages.write(judgement)
        if config.report:
            made_by = report_facts.command_line("evaluate.py", config)
            page = html_report.write(judgement, made_by)
            tensorboard_pages.write_projector(judgement)
            judgement.figures["report"] = str(page)
        return judgement.figures


@contextlib.contextmanager
def _records(
    data: str, resize_min: int = record_image.RESIZE_MIN
) -> Iterator[manifest.Manifest]:
    """Records; those of a folder of photos are made for the time being.

    Args:
        data: folder of records, or of one folder of photos per class.
        resize_min: of convert.Config.
    """
    if not _holds_photos(data):
        yield manifest.read(Path(data))
        return
    with tempfile.TemporaryDirectory() as scratch:
        config = conversion.Config(
            source=data, out=f"{scratch}/records", resize_min=resize_min
        )
        found = conversion.convert(config).manifest
        for row in found.rows:
            if not row.is_included:
                command_line.log(f"left out: {row.path}: {row.reason}")
        yield found


def _holds_photos(data: str) -> bool:
    folder = Path(data)
    return folder.is_dir() and not (folder / manifest.HEAD_NAME).exists()


def compare(config: Config) -> dict[str, Any]:
    """Compares runs as configured; returns what evaluation/compare-<split>.json holds.

    A run is judged only if it was not yet, as it is, on these records.

    Raises:
        DataError: runs or records are not as they should be, not each other's,
            or a run has trained on one of the photos.
    """
    runs = finished_run.read_several(config.run_dirs)
    curves = [one.validation_curve() for one in runs.values()]
    first = next(iter(runs.values()))
    if config.data and _holds_photos(config.data):
        _refuse_unlike_sizes(runs, config.data)
    with contextlib.ExitStack() as stack:
        found = None
        if config.data:
            found = stack.enter_context(_records(config.data, first.resize_min))
        several = [_candidate(config, name, one, found) for name, one in runs.items()]
    digest = (
        found.digest if found is not None else first.config["data"]["manifest_digest"]
    )
    figures = {
        "split": config.split,
        **comparison.compare(several),
        "manifest_digest": digest,
        "versions": run_folder.versions(),
    }
    path = first.evaluation_path(f"compare-{config.split}", digest)
    with file_system.replacing(path.with_suffix(".png")) as partial:
        comparison_picture.draw(figures, curves, partial)
    with file_system.replacing(path) as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    figures["written"] = f"{path}, {path.with_suffix('.png')}"
    return figures


def _refuse_unlike_sizes(
    runs: Mapping[str, finished_run.FinishedRun], data: str
) -> None:
    """Refuses photos that no one conversion makes as large as all runs expect.

    Raises:
        DataError: the runs' records are not of photos as large.
    """
    if len({one.resize_min for one in runs.values()}) > 1:
        sizes = ", ".join(f"{name}: {one.resize_min}" for name, one in runs.items())
        raise DataError(
            f"--data={data}: photos are shrunk as a run's records were, and those of "
            f"these runs were not shrunk alike (--resize_min of {sizes}); expected a "
            f"folder of records: python -m pipeline.convert {data} --out=FOLDER "
            "--resize_min=N"
        )


def _check(
    config: Config,
    finished: finished_run.FinishedRun,
    found: manifest.Manifest,
    data: str,
) -> None:
    """Refuses records, called `data`, that are not to be judged by the run."""
    if found.digest == finished.manifest_digest or not config.another_dataset:
        run_records.check(
            finished.directory,
            finished.manifest_digest,
            found,
            source=data,
            advice="For other photos on purpose, pass --another_dataset.",
        )
    else:
        run_records.check_unseen(finished, found, config.split, source=data)


def _candidate(
    config: Config,
    name: str,
    finished: finished_run.FinishedRun,
    found: manifest.Manifest | None,
) -> comparison.Candidate:
    """A run's judgement of the photos, from its folder or made now.

    Args:
        config: of the comparison.
        name: of the run.
        finished: the run.
        found: records that all are judged on; None for each run's own.
    """
    digest = finished.config["data"]["manifest_digest"]
    if found is not None:
        _check(config, finished, found, config.data)
        digest = found.digest

    def judge_now() -> None:
        with contextlib.ExitStack() as stack:
            data = config.data or str(run_records.locate(finished))
            records = found or stack.enter_context(_records(data))
            rows = records.included(*([] if config.split == "all" else [config.split]))
            candidates.refuse_seen(name, finished, {row.sha256 for row in rows})
            _judge_run(config, finished, records, data)

    return candidates.read(name, finished, config.split, digest, judge_now)


def _judge_run(
    config: Config,
    finished: finished_run.FinishedRun,
    found: manifest.Manifest,
    data: str,
) -> evaluate_split.Judged:
    _check(config, finished, found, data)
    manifest.check_files(found)
    rows = found.included(*([] if config.split == "all" else [config.split]))
    seen = len(finished.seen_photos() & {row.sha256 for row in rows})
    if seen and config.min_accuracy:
        raise DataError(
            f"--min_accuracy: {finished.directory.name} was trained on, or chosen by, "
            f"{seen} of these {len(rows)} photos, so their accuracy is no gate; "
            "expected the test split, or other photos"
        )
    return evaluate_split.judge_run(
        finished, found, config.split, config.how, source=data
    )


def _evaluate_pretrained(config: Config) -> dict[str, Any]:
    weights = pretrained_classifier.load(
        config.ckpt,
        arch=config.arch,
        overrides=config.overrides,
        labels=config.labels,
    )
    with _records(config.data) as found:
        return evaluate_weights.judge_weights(
            weights, found, config.split, config.how, named=bool(config.labels)
        )


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
    command_line.say(text_report.judgement(figures))
    if figures["accuracy"] < config.min_accuracy:
        raise TooInaccurate(
            f"{figures['run']}: accuracy {figures['accuracy']:.6g} on {config.split}, "
            f"expected --min_accuracy={config.min_accuracy:.6g} or more"
        )


if __name__ == "__main__":
    define_flags()
    command_line.run(main, DataError, errors.CheckpointError)
