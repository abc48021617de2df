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

import pipeline.quiet  # noqa: F401

# isort: split
import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from model import (
    comparison,
    comparison_picture,
    inputs,
    judge,
    judged,
    network,
    pretrained,
    report,
    run,
    zoo,
)
from model.checkpoints import errors
from pipeline import command, convert, manifest, schema


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
        another_dataset: the records are others than the run's, on purpose.
        split: which part of them.
        batch_size: photos per call of the network.
        min_accuracy: below this top-1 accuracy the command fails, 0..1.
    """

    run_dir: str = "runs/latest"
    runs: str = ""
    ckpt: str = ""
    arch: str = ""
    labels: str = ""
    overrides: inputs.Overrides = inputs.AS_WEIGHTS
    data: str = ""
    another_dataset: bool = False
    split: str = "test"
    batch_size: int = 64
    min_accuracy: float = 0.0

    def __post_init__(self) -> None:
        if self.ckpt and not self.data:
            raise ValueError("--ckpt: expected --data too, a folder to judge it on")
        if not 0 <= self.min_accuracy <= 1:
            raise ValueError(f"--min_accuracy={self.min_accuracy}: expected 0 to 1")
        if self.runs:
            self._check_comparison()

    def _check_comparison(self) -> None:
        default = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("run_dir", "ckpt", "arch", "labels", "overrides", "min_accuracy"):
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


class TooInaccurate(schema.DataError):
    """The gate that --min_accuracy sets is not passed."""


def evaluate(config: Config) -> dict[str, Any]:
    """Evaluates as configured; returns what evaluation/<split>.json holds.

    Raises:
        schema.DataError: run or records are not as they should be, or not each other's.
    """
    if config.ckpt:
        return _evaluate_pretrained(config)
    finished = run.read(config.run_dir)
    with _records(config.data or finished.config["data"]["path"]) as found:
        return _evaluate_run(config, finished, found)


@contextlib.contextmanager
def _records(data: str) -> Iterator[manifest.Manifest]:
    """Records; those of a folder of photos are made for the time being."""
    folder = Path(data)
    if not folder.is_dir() or (folder / manifest.HEAD_NAME).exists():
        yield manifest.read(folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        config = convert.Config(source=data, out=f"{scratch}/records")
        found = convert.convert(config).manifest
        for row in found.rows:
            if not row.taken:
                command.log(f"left out: {row.path}: {row.reason}")
        yield found


def compare(config: Config) -> dict[str, Any]:
    """Compares runs as configured; returns what evaluation/compare-<split>.json holds.

    A run is judged only if it was not yet, as it is, on these records.

    Raises:
        schema.DataError: runs or records are not as they should be, not each other's,
            or a run has trained on one of the photos.
    """
    runs = run.read_several(config.run_dirs)
    curves = [one.validation_curve() for one in runs.values()]
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(_records(config.data)) if config.data else None
        candidates = [
            _candidate(config, name, one, found) for name, one in runs.items()
        ]
    first = next(iter(runs.values()))
    digest = (
        found.digest if found is not None else first.config["data"]["manifest_digest"]
    )
    figures = {
        "split": config.split,
        **comparison.compare(candidates),
        "manifest_digest": digest,
        "versions": run.versions(),
    }
    path = first.evaluation_path(f"compare-{config.split}", digest)
    with run.replacing(path.with_suffix(".png")) as partial:
        comparison_picture.draw(figures["runs"], curves, partial)
    with run.replacing(path) as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    figures["written"] = f"{path}, {path.with_suffix('.png')}"
    return figures


def _candidate(
    config: Config, name: str, finished: run.Finished, found: manifest.Manifest | None
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
        run.check_records(finished, found, config.split, another=config.another_dataset)
        digest = found.digest
    path = finished.evaluation_path(config.split, digest).with_suffix(".npz")
    model_sha256 = finished.model_digest()
    if not judged.is_of(path, model_sha256=model_sha256, manifest_digest=digest):
        command.log(f"{name}: not judged on these photos yet; judging it now")
        with contextlib.ExitStack() as stack:
            records = found or stack.enter_context(
                _records(finished.config["data"]["path"])
            )
            rows = records.taken(*([] if config.split == "all" else [config.split]))
            _refuse_seen(name, finished, {row.sha256 for row in rows})
            _evaluate_run(config, finished, records)
    examples = judged.read(path, len(finished.class_names))
    _refuse_seen(name, finished, set(examples.sha256.tolist()))
    return comparison.Candidate(
        name=name,
        class_names=finished.class_names,
        examples=examples,
        temperature=finished.temperature,
        model_bytes=(finished.directory / run.MODEL_NAME).stat().st_size,
        images_per_s=judged.images_per_s(path.with_suffix(".json")),
    )


def _refuse_seen(name: str, finished: run.Finished, photos: set[str]) -> None:
    seen = len(finished.seen_photos() & photos)
    if seen:
        raise schema.DataError(
            f"--runs: {name} has trained on {seen} of these {len(photos)} photos, so "
            "that they say nothing of new ones; expected the test split, or photos "
            "that none has trained on: --data=FOLDER --another_dataset"
        )


def _evaluate_run(
    config: Config, finished: run.Finished, found: manifest.Manifest
) -> dict[str, Any]:
    run.check_records(finished, found, config.split, another=config.another_dataset)
    manifest.check_files(found)
    rows = found.taken(*([] if config.split == "all" else [config.split]))
    seen = len(finished.seen_photos() & {row.sha256 for row in rows})
    if seen and config.min_accuracy:
        raise schema.DataError(
            f"--min_accuracy: {finished.directory.name} has trained on {seen} of these "
            f"{len(rows)} photos, so their accuracy is no gate; expected the test "
            "split, or other photos"
        )
    return judge.judge_run(finished, found, config.split, batch_size=config.batch_size)


def _evaluate_pretrained(config: Config) -> dict[str, Any]:
    start = time.perf_counter()
    weights = pretrained.load(
        config.ckpt,
        arch=config.arch,
        overrides=config.overrides,
        labels=config.labels,
    )
    with _records(config.data) as found:
        names = found.class_names
        if not config.labels and len(names) == len(weights.class_names):
            weights = dataclasses.replace(weights, class_names=names)
            command.log(
                "no --labels: the network's classes are taken to be those of the data, "
                f"in this order: {', '.join(names)}"
            )
        # Before the work, not after it.
        label_of_each = pretrained.label_of_each(names, weights.class_names)
        judgement = judge.judge(
            weights.model,
            found,
            "" if config.split == "all" else config.split,
            weights.spec,
            batch_size=config.batch_size,
            temperature=1.0,
            class_names=weights.class_names,
        )
    judgement = dataclasses.replace(judgement, labels=label_of_each[judgement.labels])
    return {
        "run": config.ckpt,
        "split": config.split,
        **judgement.figures(),
        "seconds": time.perf_counter() - start,
        "preprocessing": weights.spec.source,
    }


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
    flags.DEFINE_string(
        "ckpt",
        default.ckpt,
        f"Weights to judge as they are, in place of a run: {', '.join(zoo.NAMES)}, or "
        "the path of a weight file.",
    )
    flags.DEFINE_string(
        "arch",
        default.arch,
        "Network that the weights belong to: "
        f"{', '.join(network.NETWORKS)}; by default found by names and shapes.",
    )
    flags.DEFINE_string(
        "labels",
        default.labels,
        "File of the class names of --ckpt, one a line, as synset_words.txt.",
    )
    inputs.define_flags()
    flags.adopt_module_key_flags(inputs)  # so that --help shows them
    flags.DEFINE_string(
        "data",
        default.data,
        "Folder of records, or of one folder of photos per class; by default the "
        "records of the run.",
    )
    flags.DEFINE_bool(
        "another_dataset",
        default.another_dataset,
        "The records are others than the run's, on purpose; class names must agree.",
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
    config = command.config_from_flags(
        Config, overrides=inputs.from_flags(), split=_split()
    )
    if config.runs:
        command.say(report.comparison(compare(config)))
        return
    figures = evaluate(config)
    command.say(report.judgement(figures))
    if figures["accuracy"] < config.min_accuracy:
        raise TooInaccurate(
            f"{figures['run']}: accuracy {figures['accuracy']:.6g} on {config.split}, "
            f"expected --min_accuracy={config.min_accuracy:.6g} or more"
        )


if __name__ == "__main__":
    define_flags()
    command.run(main, schema.DataError, errors.CheckpointError)
